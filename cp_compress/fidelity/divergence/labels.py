"""The classes that two models predict for the same inputs, and whether a disagreement exceeds rounding."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cp_compress.base.batching import BatchSize, is_out_of_memory
from cp_compress.base.digests import digest_model, digest_text
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.observing.determinism import REPEATED_EXAMPLES, beyond_rounding, require_repeatable
from cp_compress.fidelity.observing.runner import Model, Runner
from cp_compress.fidelity.observing.sampling import choose_examples

# both logits of a margin move, and elsewhere by more than on the few examples that were measured
_ROUNDING_MARGIN = 4


class Labeler:
    """A model asked for classes only: anything that maps a batch to logits (n, classes) or classes (n,) or (n, 1)."""

    def __init__(self, model: Model, device: torch.device | str | None, batch: BatchSize) -> None:
        # a class named as logits has no margin that would say how sure the model is
        self.runner = Runner(model.model if isinstance(model, ClassesAsLogits) else model, device)
        self.batch = batch

    def classes(self, inputs: Tensor) -> Tensor:
        """Return the classes (n,) of inputs (n, ...), int64 on the CPU."""
        return self.answers(inputs)[0]

    def answers(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return classes (n,) and margins (n,): largest minus second logit, NaN from a model that gives classes only.

        Both lie on the CPU; margins are float64. Raises ObservationError for NaN logits and other outputs.
        """
        classes = torch.empty(len(inputs), dtype=torch.int64)
        margins = torch.empty(len(inputs), dtype=torch.float64)

        def run(part: slice) -> None:
            classes[part], margins[part] = self._ask(inputs[part])

        with torch.inference_mode(False), torch.no_grad(), self.runner.evaluating():
            self.batch.run(len(inputs), run)
        return classes, margins

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the logits (n, classes), or classes (n,) from a model that gives those, on the CPU.

        Raises as `answers`.
        """
        found: list[Tensor] = []

        def run(part: slice) -> None:
            output = self.runner.output(inputs[part])
            count = len(inputs[part])
            found.append((output.flatten() if _are_classes(output, count) else self._logits(output, count)).cpu())

        with torch.inference_mode(False), torch.no_grad(), self.runner.evaluating():
            self.batch.run(len(inputs), run)
        return torch.cat(found)

    def _ask(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        output = self.runner.output(inputs)
        if _are_classes(output, len(inputs)):
            return output.flatten().to("cpu", torch.int64), torch.full((len(inputs),), torch.nan, dtype=torch.float64)
        logits = self._logits(output, len(inputs))
        top = logits.double().topk(2, dim=1).values
        # of equal logits `topk` takes any, and `argmax` the first
        return logits.argmax(dim=1).cpu(), (top[:, 0] - top[:, 1]).cpu()

    def _logits(self, output: object, count: int) -> Tensor:
        logits = self.runner.as_logits(output, count)
        if not bool(torch.isfinite(logits).all()):
            raise ObservationError("the model returns NaN or infinite logits on an input near a seed")
        return logits


class ClassesAsLogits:
    """A model that gives classes only, as one that gives logits: 1 for the class that it names, 0 for all others.

    `classes` is how many there are. Raises ObservationError for a class outside of them.
    """

    def __init__(self, model: Model, device: torch.device, classes: int) -> None:
        self.model, self.runner, self.classes = model, Runner(model, device), classes
        self.__name__ = getattr(model, "__name__", type(model).__name__)
        told = digest_model(model)
        self.content_digest = None if told is None else digest_text("classes", told)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return logits (n, classes) for inputs (n, ...)."""
        with self.runner.evaluating():
            named = self.runner.output(inputs).flatten().long()
        outside = (named < 0) | (named >= self.classes)
        if bool(outside.any()):
            found = int(named[outside][0])
            raise ObservationError(f"the model returned class {found}; the reference's are 0 to {self.classes - 1}")
        return nn.functional.one_hot(named, self.classes).float()


def gives_classes(model: Model, inputs: Tensor, device: torch.device) -> bool:
    """Tell whether a model gives classes (n,) or (n, 1) for inputs (n, ...), and no logits."""
    runner = Runner(model, device)
    with torch.inference_mode(False), torch.no_grad(), runner.evaluating():
        return _are_classes(runner.output(inputs), len(inputs))


def _are_classes(output: object, count: int) -> bool:
    if not isinstance(output, Tensor) or output.shape not in ((count,), (count, 1)):
        return False
    return not (output.is_floating_point() or output.is_complex() or output.dtype == torch.bool)


@dataclass(frozen=True, eq=False)
class Confirmation:
    """What became of disagreements on n inputs when they were looked at closely.

    `holds` (n,) are those that count, `sure` (n,) those of them in which both margins are clear, or unknown: they hold
    on another machine too. `classes` (n, 2) are what candidate and reference say in their own precision, `margins`
    (n, 2), float64, how clearly, 0 where rounding decides.
    """

    holds: Tensor
    sure: Tensor
    classes: Tensor
    margins: Tensor


class Verifier:
    """Asks both models again about inputs on which they disagree: one input at a time, also in float64 copies.

    A float64 copy computes with the same (rounded, pruned, …) weights, so that it shows what compression changed and
    not how this machine adds. It speaks for its model only where it gives the model's own logits on `examples`
    (n, ...) up to the rounding of the dtype of the parameters: under autocast, which leaves float64 alone, the copy is
    another model. Where it is, or where a model cannot run in float64, as integer kernels and other callables cannot,
    the model speaks for itself. `margin` is a share of the spread of each model's own logits on `examples`: the mean
    of the largest minus the smallest. Raises ObservationError for a model that answers at random.
    """

    def __init__(self, candidate: Labeler, reference: Labeler, examples: Tensor, margin: float) -> None:
        few = examples[choose_examples("Verifier", REPEATED_EXAMPLES, len(examples)).to(examples.device)]
        self._witnesses = tuple(_witness(labeler, few, margin) for labeler in (candidate, reference))
        self._faithful = torch.tensor([witness.faithful for witness in self._witnesses])
        self._clear = torch.tensor([witness.clear for witness in self._witnesses], dtype=torch.float64)
        self._own_clear = torch.tensor([witness.own_clear for witness in self._witnesses], dtype=torch.float64)

    @property
    def precisions(self) -> tuple[str, str]:
        """The precisions in which candidate and reference are asked."""
        exact = [witness.copy is not None and witness.faithful for witness in self._witnesses]
        first, second = ("float64" if one else "own precision" for one in exact)
        return first, second

    def confirm(self, inputs: Tensor) -> Confirmation:
        """Ask about inputs (n, ...) one by one, and say which disagreements hold.

        A disagreement holds when the models' own classes differ, and either those of the float64 copies do, too, with
        one margin at least that is clear: a change as small as rounding can turn an answer only where both models
        waver. Or else the models' own answers are clear in that way: those of a model whose copy is another model, and
        those that the copy does not share, with a margin beyond what rounding makes of its logits.
        """
        own_classes = torch.empty(len(inputs), 2, dtype=torch.int64)
        own_margins = torch.empty(len(inputs), 2, dtype=torch.float64)
        classes, margins = torch.empty_like(own_classes), torch.empty_like(own_margins)
        for row in range(len(inputs)):  # one at a time is the point: a model may answer otherwise within a batch
            single = inputs[row : row + 1]
            for column, witness in enumerate(self._witnesses):
                own = witness.own.answers(single)
                exact = own if witness.copy is None else witness.copy.answers(single.double())
                own_classes[row, column], own_margins[row, column] = own[0][0], own[1][0]
                classes[row, column], margins[row, column] = exact[0][0], exact[1][0]
        steady = own_classes == classes
        margins[~steady] = 0.0  # its own precision says something else: rounding decides
        by_copies = _judge(classes, margins, self._clear)
        alone = ~self._faithful | (~steady & (own_margins > self._own_clear))
        trusted = torch.where(alone, own_margins, margins)
        bounds = torch.where(alone, self._own_clear, self._clear)
        by_own = _judge(torch.where(alone, own_classes, classes), trusted, bounds)
        differing = own_classes[:, 0] != own_classes[:, 1]
        return Confirmation(
            holds=differing & (by_copies[0] | by_own[0]),
            sure=differing & (by_copies[1] | by_own[1]),
            classes=own_classes,
            margins=torch.where(by_copies[0][:, None], margins, trusted),
        )


def _judge(classes: Tensor, margins: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """Return where (n,) classes (n, 2) differ and a margin is clear, or both unknown; and where all are."""
    differing, unknown, clear = classes[:, 0] != classes[:, 1], margins.isnan(), margins > bounds
    return differing & (unknown.all(dim=1) | clear.any(dim=1)), differing & (unknown | clear).all(dim=1)


@dataclass(frozen=True, eq=False)
class _Witness:
    """A model and its float64 copy, where there is one; whether it is the same model, and which margins are clear."""

    own: Labeler
    copy: Labeler | None
    faithful: bool
    clear: float
    own_clear: float


def _witness(labeler: Labeler, examples: Tensor, margin: float) -> _Witness:
    clear = margin * _spread(labeler, examples)
    copied = _in_float64(labeler, examples)
    given = Labeler(labeler.runner.model, labeler.runner.device, BatchSize(1)).outputs(examples)
    if copied is None or copied[1].shape != given.shape:
        return _Witness(labeler, None, True, clear, clear)
    double, expected = copied
    excess, moved = beyond_rounding(expected, given, _dtype(labeler)), float((given.double() - expected).abs().max())
    return _Witness(labeler, double, excess <= 0, clear, max(clear, _ROUNDING_MARGIN * moved))


def _spread(labeler: Labeler, examples: Tensor) -> float:
    """Return the mean of the largest minus the smallest logit, 0 from classes alone; raises for random answers."""
    outputs = labeler.outputs(examples)
    require_repeatable(lambda: labeler.outputs(examples), outputs)
    return float((outputs.amax(dim=1) - outputs.amin(dim=1)).double().mean()) if outputs.ndim == 2 else 0.0


def _dtype(labeler: Labeler) -> torch.dtype:
    """Return the finest floating-point dtype among a module's parameters, or else its buffers."""
    module = labeler.runner.module
    assert module is not None
    for tensors in (module.parameters(), module.buffers()):
        found = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
        if found:
            return min(found, key=lambda dtype: torch.finfo(dtype).eps)
    raise AssertionError("a module without floating-point numbers has no float64 copy")


def _in_float64(labeler: Labeler, examples: Tensor) -> tuple[Labeler, Tensor] | None:
    """Return a float64 copy of a module and its logits on examples, one at a time; None where it has none."""
    module = labeler.runner.module
    if module is None or not any(p.is_floating_point() for p in (*module.parameters(), *module.buffers())):
        return None
    try:
        double: nn.Module = copy.deepcopy(module).double()
        found = Labeler(double, labeler.runner.device, BatchSize(1))
        logits = found.outputs(examples.double())
    except Exception as error:  # casts, kernels and code of the model's own fail each in their own way
        if is_out_of_memory(error):
            raise
        return None
    return (found, logits) if logits.dtype == torch.float64 else None
