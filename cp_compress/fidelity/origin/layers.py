"""Which layers of a candidate cause the changed predictions that a comparison has found."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import check_integer, explains_keywords
from cp_compress.base.batching import BatchSize
from cp_compress.base.errors import ObservationError
from cp_compress.base.json_values import plain
from cp_compress.base.showing.brief import Brief
from cp_compress.base.showing.work import Work, require_time
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.pairing import check_comparable
from cp_compress.fidelity.observing.passes import answers_in
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.fidelity.observing.sampling import batch_size_for, choose_examples
from cp_compress.fidelity.origin.joined import Unit
from cp_compress.fidelity.origin.noise import NoiseMeter, measure_noise
from cp_compress.fidelity.origin.notes import not_reached, notes_on
from cp_compress.fidelity.origin.pairs import LayerPairs, compiled_from, pair_layers
from cp_compress.fidelity.origin.restoration import Restorer, restore_each
from cp_compress.fidelity.predictions.tables import changed_answers
from cp_compress.inputs.tasks import IGNORED
from cp_compress.inputs.trees import Inputs

_OWNER = "find_origin"
THE_DATA = "the compressed data"


@explains_keywords
@dataclass(frozen=True)
class LayerDamage:
    """The contribution to the changed predictions of one part of the candidate, or of several restored together.

    Attributes:
        layers: Paths of modules; parameters and buffers beside children have their own path. Several layers that are
            not `grouped` are one part, which cannot be divided.
        kind: The class of the reference's module, or "tensor".
        restored: How many of the `flips` are undone if only this part is replaced by the reference's.
        flips: The number of changed predictions that were tested.
        added_snr: The signal-to-noise ratio in dB, inf without any difference, of the noise that the part itself adds
            to its output on the reference's input; for layers with a parameter in common the smallest, NaN for groups
            and tensors.
        arriving_snr: The same of all noise in the part's output in the candidate.
        grouped: Whether the layers are neighbours that were tested only together.
    """

    layers: tuple[str, ...]
    kind: str
    restored: int
    flips: int
    added_snr: float
    arriving_snr: float
    grouped: bool = False

    @property
    def name(self) -> str:
        """The path, the paths of layers that are one part, or the first and last path of a group."""
        return f"{self.layers[0]} … {self.layers[-1]}" if self.grouped else " and ".join(self.layers)

    @property
    def share(self) -> float:
        """The fraction of the flips that restoring it undoes, NaN without flips."""
        return self.restored / self.flips if self.flips else math.nan

    def to_json(self) -> dict[str, Any]:
        """Return the fields, the name and the fraction as plain Python types."""
        fields: dict[str, Any] = plain({**dataclasses.asdict(self), "name": self.name, "share": self.share})
        return fields


@explains_keywords
@dataclass(frozen=True, repr=False)
class Origin(Brief):
    """The parts of a candidate, ranked by how many changed predictions they explain.

    Attributes:
        layers: The parts, ranked by the flips that restoring them undoes, then by the noise that they add.
        flips: The number of changed predictions (of examples with several predictions, each counts).
        asked: How many of them were tested.
        exact: Whether each part was restored by itself.
        runs: The number of runs of the candidate on the tested examples.
        notes: Sentences that a reader must see beside the ranking.
    """

    layers: tuple[LayerDamage, ...]
    flips: int
    asked: int
    exact: bool
    runs: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain Python types."""
        return {
            "layers": [layer.to_json() for layer in self.layers],
            "flips": self.flips,
            "asked": self.asked,
            "exact": self.exact,
            "runs": self.runs,
            "notes": list(self.notes),
        }


@explains_keywords
@torch.inference_mode(False)  # what is made in a caller's inference mode could not be changed outside of it
def find_origin(
    candidate: Observation,
    reference: Observation,
    *,
    examples: int = 32,
    flips: int = 64,
    budget: int = 64,
    batch_size: int | None = None,
    by_noise: bool = False,
) -> Origin:
    """Rank the layers of a candidate by their contribution to its changed predictions.

    A layer is the lowest part at which the two models' module trees differ, or the smallest part around it with the
    input and output shapes of the reference's; parameters and buffers that a part holds beside such layers are restored
    one by one. Each is replaced in a copy of the candidate by the reference's, and it is counted how many changed
    predictions are undone. The counts need not add up: damage that is in several layers is undone only if all are
    restored, and restoring any of several may suffice. Layers of which one was folded into the other, as batch
    normalisation is into a convolution, and layers that share a parameter are one part.

    The noise of a layer is the ratio of the sum of squares of the reference's output to that of the difference (added
    by the layer itself: of both modules' outputs on the reference's input). If no prediction changed, the order is that
    of the added noise. If the two read different data, the data is restored too, as "the compressed data".

    If a model was made by `torch.compile`, the module that was compiled is used. Neither model is changed.

    Args:
        candidate: The observation of the compressed model.
        reference: The observation of the reference on the same examples.
        examples: The number of examples, spread evenly, on which noise is measured.
        flips: The largest number of changed predictions that are tested, spread evenly.
        budget: The largest number of layers that are restored one by one; more are tested in groups of neighbours,
            which are halved.
        batch_size: The largest number of examples in one call; by default 32 on a CPU and 512 elsewhere,
            and never more than the observations were made with.
        by_noise: Whether to order layers by the noise that each adds, without predictions, as is done for models that
            give no logits.

    Returns:
        The ranked layers.

    Raises:
        InvalidArgumentError: If a number is not 1 or more.
        ObservationError: If the observations cannot be compared, or a model is not an `nn.Module` or is TorchScript,
            whose layers are not accessible.

    >>> from cp_compress.examples import digits, digits_cnn
    >>> from cp_compress.fidelity import observe
    >>> import copy
    >>> model = digits_cnn()
    >>> broken = copy.deepcopy(model)
    >>> path = [path for path, part in broken.named_modules() if isinstance(part, torch.nn.Linear)][-1]
    >>> _ = broken.get_submodule(path).weight.data[3].zero_()
    >>> found = find_origin(observe(broken, digits()), observe(model, digits()))
    >>> found.layers[0].name == path, found.layers[0].share
    (True, 1.0)
    """
    require_observations(_OWNER, candidate=candidate, reference=reference)
    for argument, value in (("examples", examples), ("flips", flips), ("budget", budget)):
        check_integer(_OWNER, argument, value, "must be a whole number of 1 or more", at_least=1)
    by_noise = by_noise or not (candidate.gives_logits and reference.gives_logits)
    check_comparable(candidate, reference, any_task=True, any_output=by_noise)
    mine, theirs = _module(candidate, "candidate"), _module(reference, "reference")
    largest = min(candidate.batch_size.limit, reference.batch_size.limit)
    size = batch_size_for(candidate.runner.device, batch_size, largest)
    pairs = _pair(candidate, reference, mine, theirs)
    changed = torch.zeros(len(reference)).bool() if by_noise else changed_answers(candidate, reference)
    moved = changed.flatten(1).any(dim=1).nonzero().flatten() if changed.ndim > 1 else changed.nonzero().flatten()
    asked = moved[choose_examples(_OWNER, flips, len(moved))] if len(moved) else moved
    measured = min(examples, len(candidate)) if pairs.paths else 0
    work = Work(
        f"the search for the layers that cause the changes, among {len(pairs.units)}",
        2 * measured + min(budget, len(pairs.units)) * len(asked),
    )
    added, arriving = _measure_noise((candidate, mine), (reference, theirs), pairs, examples, size, work)
    restorer = Restorer(mine, theirs, pairs)
    inputs = candidate.data.read(asked)[0] if len(asked) else None
    expected, flipped = asked if by_noise else reference.predictions[asked], changed[asked]
    if inputs is not None and candidate.data.collates_itself:  # another batch may be padded to another length
        expected, flipped = _answers_together((candidate, mine), (reference, theirs), asked, size)
    total, looked_at = int(changed.sum()), int(flipped.sum())

    def come_back(units: Sequence[Unit]) -> int:
        if inputs is None:
            return 0
        require_time()
        found = restorer.predict(
            [path for unit in units for path in unit], lambda model: _predict(model, candidate, inputs, size)
        )
        work.count(len(inputs))
        return int(((found == expected) & flipped).sum())

    allowed = budget if inputs is not None else len(pairs.units)
    found, runs, stopped = restore_each(pairs.units, come_back, allowed) if pairs.units else ([], 0, False)

    def as_damage(units: tuple[Unit, ...], restored: int) -> LayerDamage:
        alone = len(units) == 1
        measured = units[0] if alone else ()
        if measured in pairs.chains:
            measured = measured[-1:]  # it has the noise of all
        return LayerDamage(
            layers=tuple(path for unit in units for path in unit),
            kind=" and ".join(_kind(theirs, path, pairs) for path in units[0]) if alone else f"{len(units)} layers",
            restored=restored,
            flips=looked_at,
            added_snr=_smallest(added, measured),
            arriving_snr=_smallest(arriving, measured),
            grouped=not alone,
        )

    layers = [as_damage(part.units, part.count) for part in found]
    if candidate.data_digest != reference.data_digest:
        read = reference.data.read(asked)[0] if len(asked) else None
        found_again = _predict(mine, candidate, read, size) if read is not None else expected
        restored = int(((found_again == expected) & flipped).sum())
        layers.append(LayerDamage((THE_DATA,), "data", restored, looked_at, math.nan, math.nan))
    layers.sort(key=lambda layer: (-layer.restored, _or_infinite(layer.added_snr)))
    return Origin(
        layers=tuple(layers),
        flips=total,
        asked=looked_at,
        exact=not any(layer.grouped for layer in layers),
        runs=runs if inputs is not None else 0,
        notes=(
            *notes_on(pairs, total, looked_at, len(layers), by_noise=by_noise),
            *([not_reached(pairs, found)] if stopped else []),
        ),
    )


def _module(seen: Observation, which: str) -> nn.Module:
    """Return the module whose layers are looked at, of a compiled model the one that was compiled."""
    module = compiled_from(seen.runner.module) if seen.runner.module is not None else None
    if module is None:
        raise ObservationError(f"the {which} is a plain callable, whose layers are not accessible")
    if isinstance(module, torch.jit.ScriptModule):
        raise ObservationError(
            f"the {which} is TorchScript, whose layers can be neither observed nor replaced: "
            "pass the module that was scripted or traced"
        )
    return module


def _pair(candidate: Observation, reference: Observation, mine: nn.Module, theirs: nn.Module) -> LayerPairs:
    few = range(min(2, len(reference), candidate.batch_size.limit, reference.batch_size.limit))
    return reference.remember(
        ("layer pairs", candidate.content_key, candidate.data_digest),
        lambda: pair_layers(mine, theirs, _run(candidate, mine, few), _run(reference, theirs, few)),
    )


def _kind(model: nn.Module, path: str, pairs: LayerPairs) -> str:
    return "tensor" if path in pairs.tensors else type(model.get_submodule(path)).__name__


def _run(seen: Observation, module: nn.Module, rows: Sequence[int] | Tensor) -> Callable[[], Tensor]:
    runner = Runner(module, seen.runner.device, seen.task, seen.output)
    runner.places = seen.runner.places

    def run() -> Tensor:
        with torch.inference_mode(False), torch.no_grad(), runner.evaluating():
            return runner.compared(seen.data.read(rows)[0])

    return run


def _measure_noise(
    candidate: tuple[Observation, nn.Module],
    reference: tuple[Observation, nn.Module],
    pairs: LayerPairs,
    examples: int,
    size: BatchSize,
    work: Work,
) -> tuple[NoiseMeter, NoiseMeter]:
    (seen, mine), (_, theirs) = candidate, reference
    chosen = choose_examples(_OWNER, examples, len(seen))
    added, arriving = NoiseMeter(), NoiseMeter()

    def measure(part: slice) -> None:
        # sums of a batch that ran out of memory must not be counted twice
        batch = NoiseMeter(), NoiseMeter()
        with seen.runner.evaluating():
            rows = chosen[part]
            measure_noise(mine, theirs, pairs, _run(*candidate, rows), _run(*reference, rows), batch)
        arriving.include(batch[0])
        added.include(batch[1])
        work.count(2 * len(rows))

    if pairs.paths:
        size.run(len(chosen), measure)
    return added, arriving


def _predict(model: nn.Module, candidate: Observation, inputs: Inputs, size: BatchSize) -> Tensor:
    runner = Runner(model, candidate.runner.device, candidate.task, candidate.output)
    runner.places = candidate.runner.places
    found: list[Tensor] = []

    def run(part: slice) -> None:
        found.append(answers_in(runner.logits(inputs[part]), candidate.task).cpu())

    with torch.inference_mode(False), torch.no_grad(), runner.evaluating():
        size.run(len(inputs), run)
        return torch.cat(found)


def _answers_together(
    candidate: tuple[Observation, nn.Module], reference: tuple[Observation, nn.Module], asked: Tensor, size: BatchSize
) -> tuple[Tensor, Tensor]:
    """Return the reference's answers on examples that are read as one batch, and which of the candidate's differ."""
    (seen, mine), (original, theirs) = candidate, reference
    inputs, labels = original.data.read(asked)
    expected = _predict(theirs, original, inputs, size)
    flipped = _predict(mine, seen, seen.data.read(asked)[0], size) != expected
    return expected, flipped if seen.task == "single_label" or labels is None else flipped & (labels != IGNORED)


def _smallest(meter: NoiseMeter, paths: Sequence[str]) -> float:
    known = [ratio for ratio in map(meter.decibels, paths) if not math.isnan(ratio)]
    return min(known, default=math.nan)


def _or_infinite(value: float) -> float:
    return math.inf if math.isnan(value) else value
