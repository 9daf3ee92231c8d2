"""The results of one model on one data set, each computed once however many checks need it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, explains_keywords
from cp_compress.base.batching import BatchSize
from cp_compress.base.digests import Examined, examine, forget_examined
from cp_compress.base.errors import ObservationError
from cp_compress.base.showing.mistaken import reject_kind
from cp_compress.fidelity.observing.batch_dependence import BatchDependence
from cp_compress.fidelity.observing.gathering import DigestGatherer, LogitsGatherer, Pass
from cp_compress.fidelity.observing.outputs import NoLogitsError, Output, check_output, floating_tensors, view_of
from cp_compress.fidelity.observing.passes import answers_in, run_pass
from cp_compress.fidelity.observing.runner import Model, Runner
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.tasks import IGNORED, Task
from cp_compress.inputs.trees import TensorTree, split_rows
from cp_compress.inputs.wrapping import said_by

Value = TypeVar("Value")
_REMEMBERED = 32
_SAMPLED = 8
_observations: list[tuple[Hashable, Observation]] = []  # the one used last stands last


@explains_keywords
class Observation:
    """One model's outputs on one data set; `observe` makes it.

    The forward pass runs when a result is first needed. `logits` (n, classes), `labels` and `predictions` (n,) are on
    the CPU.

    Args:
        model: A callable that maps a batch to logits.
        data: The labelled data.
        device: Where to run; None for the device of the model.
        batch_size: The largest number of examples in one call.
        output: The part of what the model gives that is compared; None for its logits.
        deployed: Whether `batch_size` is that of the deployed model, which all calls but the last have.
        content: What `examine` says of the model, where it was asked already.
    """

    def __init__(
        self,
        model: Model,
        data: LabeledData,
        device: torch.device | str | None,
        batch_size: int,
        *,
        output: Output = None,
        deployed: bool = False,
        content: Examined | None = None,
    ) -> None:
        self.model = model
        self.data = data
        self.output = output
        self.runner = Runner(model, device, data.task, output)
        self.deployed = deployed
        self.batch_size = BatchSize(batch_size, fixed=deployed)
        self._content = examine(model) if content is None else content
        self._state_after_use = self._content.state
        self._derived: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        ran = "" if self.has_run else ", not run yet"
        return f"<Observation of {type(self.model).__name__} on {len(self):,} examples, {self.task}{ran}>"

    @property
    def logits(self) -> Tensor:
        """The logits (n, classes), finite; raises ObservationError if they were changed in place, or are no logits."""
        assert self._forward.logits is not None
        return _untouched(self._forward.logits)

    @property
    def gives_logits(self) -> bool:
        """Whether what the model gives are logits of the data's task; it is run for the answer."""
        return self._seen.logits is not None

    @property
    def labels(self) -> Tensor:
        """The true classes (n,), int64; raises as `logits`, and for data without labels."""
        self.data.require_labels("this comparison")
        return self.targets

    @property
    def inputs_at_hand(self) -> bool:
        """Whether the inputs of the examples can be read."""
        return True

    @property
    def labeled(self) -> bool:
        """Whether the examples have labels."""
        return self.data.labeled

    @property
    def targets(self) -> Tensor:
        """The true classes, `IGNORED` at places that do not count and `UNKNOWN` where the data has no labels."""
        return _untouched(self._seen.targets)

    @property
    def counting(self) -> Tensor:
        """Which answers count, bool, of the shape of `targets`."""
        return self.targets != IGNORED

    @property
    def predictions(self) -> Tensor:
        """The classes of the largest logits, int64; the first among equals; raises as `logits`.

        They are (n,), or (n, *space) of dense and sequence tasks; of multi-label tasks (n, labels), 1 where the logit
        is above 0.
        """
        return _untouched(self._predictions)

    @functools.cached_property
    def _predictions(self) -> Tensor:
        with torch.inference_mode(False):  # changes in place are counted outside of it only
            return answers_in(self.logits, self.task)

    @property
    def task(self) -> Task:
        """What the targets are: "single_label", "multi_label", "dense" or "sequence"."""
        return self.data.task

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.logits.shape[1]

    @property
    def data_digest(self) -> str:
        """The digest of the inputs and labels that the forward pass saw."""
        return self._seen.digest

    @property
    def batch_dependence(self) -> BatchDependence | None:
        """How answers depend on the batch that an example stands in, None where they do not."""
        return self._seen.second.dependence

    @property
    def batches(self) -> tuple[int, int]:
        """The sizes of the first and of the last batch of the forward pass."""
        return self._seen.sizes

    @property
    def chosen_batch(self) -> int | None:
        """The size of batches that was chosen by measuring, None where it was not."""
        return self._seen.chosen

    @functools.cached_property
    def compared_model(self) -> Model:
        """The model, or one that gives the part of what it gives that is compared."""
        return view_of(self.model, self.output)

    @property
    def model_digest(self) -> str | None:
        """The digest of the model's content, or None for a plain callable."""
        return self._content.digest

    @functools.cached_property
    def content_key(self) -> Hashable:
        """What tells this model's content from any other within this process, whatever holds it.

        It is the observation's own where no digest covers the content.
        """
        return object() if self._content.uncovered else self._content.state

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes (`.classes` of the data set), or else their numbers."""
        names = said_by(self.data, "classes")
        if isinstance(names, Sequence) and len(names) == self.classes:
            return tuple(map(str, names))
        return tuple(map(str, range(self.classes)))

    def label_name(self, example: int) -> str:
        """Return the name of an example's true class, or "none" where the data has no labels."""
        return self.class_names[int(self.targets[example])] if self.labeled else "none"

    @property
    def outputs_digest(self) -> str | None:
        """The digest of all outputs, None for logits."""
        return self._seen.outputs

    @property
    def knows_all_logits(self) -> bool:
        """Whether all logits of an example are known, and not the largest alone."""
        return True

    def gives_same(self, other: Observation) -> bool:
        """Tell whether another observation has the same outputs, bit for bit."""
        if not other.knows_all_logits:
            return other.gives_same(self)
        if self.gives_logits and other.gives_logits:
            return torch.equal(self.logits, other.logits)
        return self.outputs_digest is not None and self.outputs_digest == other.outputs_digest

    def on(self, data: Any, *, output: Output = None, deployed_batch_size: int | None = None) -> Observation:
        """Return the observation of the same model on data, where it needs no model for that.

        Raises InvalidArgumentError: only one that was read from a file is a subject of its own.
        """
        reject_kind("observe", "model", self, "must be a model, or an observation that was read from a file", "model")

    @functools.cached_property
    def reads_trees(self) -> bool:
        """Whether an example's input is a tree of tensors."""
        return isinstance(self.data.read([0])[0], TensorTree)

    def outputs(self, part: slice) -> dict[str, Tensor]:
        """Return what the model gives for some examples, by name: its logits as "", or all floating-point tensors.

        What was too large to be kept is made again, on the model's device and in the caller's mode.
        """
        if self.gives_logits:
            return {"": self.logits[part]}
        kept = self._seen.kept
        if kept is not None:
            return {name: _untouched(tensor)[part] for name, tensor in kept.items()}
        inputs = self.data.read(range(part.start, part.stop))[0]
        parts = split_rows(inputs, self.batch_size.limit)
        found = [floating_tensors(self.runner.output(few), len(few)) for few in parts]
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}

    def remember(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """Return the result that `compute` returned for this key the first time; for results derived from the model."""
        if key not in self._derived:
            with self._noticing_own_changes():
                self._derived[key] = compute()
        value: Value = self._derived[key]
        return value

    def remembered(self, kind: str) -> dict[tuple[Any, ...], Any]:
        """Return all results whose key begins with a text."""
        return {key: value for key, value in self._derived.items() if isinstance(key, tuple) and key[0] == kind}

    def remembers(self, key: Hashable) -> bool:
        """Return whether `remember` has a result for this key."""
        return key in self._derived

    def forget(self, key: Hashable) -> None:
        """Drop the result that `remember` keeps for a key, if any, so that it is computed again when next needed."""
        self._derived.pop(key, None)

    def is_of(self, model: Model, content: Examined) -> bool:
        """Return whether this is the observation of a model with this content.

        A model may count or log its own calls: what it changed in itself while it was observed does not make it another
        one. A model that holds what nobody can look into may be another one each time. A callable that does not tell
        its content can also read what it does not hold, such as a file: it is asked about the first few examples.
        """
        if self.model is not model or content.uncovered:
            return False
        if content.state not in (self._content.state, self._state_after_use):
            return False
        if content.digest is not None or not self.has_run:
            return True
        with torch.inference_mode(False), torch.no_grad(), self._noticing_own_changes():
            return self._seen.second.holds(lambda inputs: self.runner.compared(inputs).cpu())

    @contextlib.contextmanager
    def _noticing_own_changes(self) -> Iterator[None]:
        if self._content.uncovered:  # it is observed anew in any case
            yield
            return
        before = examine(self.model).state
        yield
        forget_examined()
        if before in (self._content.state, self._state_after_use):  # else somebody else has changed it
            self._state_after_use = examine(self.model).state

    @property
    def has_run(self) -> bool:
        """Whether the model has run over the data."""
        return "_forward" in vars(self) or "_outputs" in vars(self)

    @property
    def _seen(self) -> Pass:
        """What the model gave, whether it is logits or not."""
        if "_outputs" in vars(self):
            return self._outputs
        try:
            return self._forward
        except NoLogitsError:
            return self._outputs

    @functools.cached_property
    def _forward(self) -> Pass:
        return self._run_all(LogitsGatherer(self.task))

    @functools.cached_property
    def _outputs(self) -> Pass:
        return self._run_all(DigestGatherer(self.task))

    def run_with(self, gatherer: LogitsGatherer) -> None:
        """Run the model, and keep its logits as `gatherer` does; raises as `logits`."""
        vars(self)["_forward"] = self._run_all(gatherer)

    def _run_all(self, gatherer: LogitsGatherer | DigestGatherer) -> Pass:
        # version counters, by which changes in place are noticed, exist outside of inference mode only
        with torch.inference_mode(False), torch.no_grad(), self._noticing_own_changes(), self.runner.evaluating():
            return run_pass(self.runner, self.data, self.batch_size, gatherer)


@explains_keywords
def observe(
    model: Model,
    dataset: Any,
    *,
    device: torch.device | str | None = None,
    batch_size: int = 256,
    deployed_batch_size: int | None = None,
    output: Output = None,
) -> Observation:
    """Return the observation of a model on a data set, the same one as long as neither has changed.

    The last 32 observations are kept. Whatever of a model can be looked into is compared by its content: parameters and
    buffers, attributes, private ones too, objects, closures and code. A model that holds anything else, such as the
    session of another runtime, is run again each time, unless it says by an attribute `content_digest`, a text, what it
    is; other callables are asked about the first 16 examples before their observation is used again. Tensors of data
    that were changed in place are noticed by their content. Of a map-style data set 8 examples are read again each
    time; if their values differ, it is observed again. Changes of its other examples are not noticed: call
    `forget_observations` after them.

    Errors of the model and its outputs are raised when results are first needed: ObservationError for inputs that the
    model cannot take, NaN or infinite logits, labels outside the classes, and a model that returns other logits when it
    is run on the first 16 examples once more (of large ones, such as photographs, on 4).

    Args:
        model: A callable that maps a batch to logits (n, classes), such as an `nn.Module`; it is not changed or moved.
            What gives something else, such as embeddings, is observed too, for comparisons that need no logits.
        dataset: A map-style data set of (input, label), a pair of tensors, or an unshuffled `DataLoader`; or inputs
            alone: a tensor, a mapping of tensors, a data set of such examples, or `Unlabeled`. An input may be a tree
            of tensors: the model is called with a mapping's entries by name, with a tuple's by position.
        device: Where to run; by default where the model is.
        batch_size: The largest number of examples in one call; it is halved when memory runs out. On a CPU the
            inputs of a call have at most 2²⁰ values, or are 8; of data with four times as many examples, the first
            calls try out fewer and more, and the quickest size is kept for all models on inputs of that shape.
        deployed_batch_size: The batch size of the deployed model, at most `batch_size`, where answers depend on it:
            the forward pass takes batches of exactly this size, and a last one of what is left.
        output: The part of what the model gives that is compared: a name such as "logits" or "heads.depth", the place
            in a tuple, or a function of the output. By default the output, or what it holds as "logits" or "out".

    Returns:
        The observation.

    Raises:
        ObservationError: If the data set is empty or cannot be read.
        InvalidArgumentError: If the model is not callable, or another argument is not as described.

    >>> import torch
    >>> seen = observe(torch.nn.Identity(), (torch.eye(3), torch.tensor([0, 1, 0])))
    >>> seen.predictions.tolist()
    [0, 1, 2]
    """
    if isinstance(model, Observation):
        return model.on(dataset, output=output, deployed_batch_size=deployed_batch_size)
    if deployed_batch_size is not None:
        rule = f"must be a whole number in 1..{batch_size}, the largest batch of a forward call (batch_size)"
        check_integer("observe", "deployed_batch_size", deployed_batch_size, rule, at_least=1, at_most=batch_size)
    size = batch_size if deployed_batch_size is None else deployed_batch_size
    data = dataset if isinstance(dataset, LabeledData) else LabeledData(dataset)
    check_output("observe", output)
    content, place = examine(model), (data.identity(_SAMPLED), str(device), size, deployed_batch_size, output)
    earlier = [kept for kept in _observations if kept[0] == place and kept[1].model is model]
    kept = next((one for one in earlier if one[1].is_of(model, content)), None)
    if kept is None:
        deployed = deployed_batch_size is not None
        kept = (place, Observation(model, data, device, size, output=output, deployed=deployed, content=content))
    _observations[:] = [one for one in _observations if one not in earlier]
    _observations.append(kept)
    del _observations[:-_REMEMBERED]
    return kept[1]


def digest_just_read(data: LabeledData) -> str | None:
    """Return the digest of data that a model, of which the observation is kept, has read already; else None."""
    held = data.identity(_SAMPLED)
    found = (kept for place, kept in reversed(_observations) if isinstance(place, tuple) and place[0] == held)
    return next((kept.data_digest for kept in found if kept.has_run), None)


def as_observations(owner: str, argument: str, given: object, *, at_least: int = 1) -> list[Observation]:
    """Return one observation, or several in a sequence, as a list.

    Raises InvalidArgumentError, as `owner` of `argument`, for anything else and for fewer than `at_least`.
    """
    seen = [given] if isinstance(given, Observation) else list(given) if isinstance(given, Iterable) else []
    if len(seen) < at_least or not all(isinstance(one, Observation) for one in seen):
        count = {1: "one observation", 2: "two observations"}[at_least]
        other = next((one for one in seen if not isinstance(one, Observation)), given)
        reject_kind(owner, argument, other, f"give {count} or more, as `observe` returns", "observation")
    return seen


def require_observations(owner: str, **given: object) -> None:
    """Raise InvalidArgumentError for arguments that are no observations, such as models."""
    for name, value in given.items():
        if not isinstance(value, Observation):
            reject_kind(owner, name, value, "must be an observation, as `observe` returns", "observation")


@explains_keywords
def forget_observations(model: Model | None = None) -> None:
    """Drop the kept observations of one model, or all, and with them their models, data sets and results."""
    _observations[:] = [kept for kept in _observations if model is not None and kept[1].model is not model]


def _untouched(tensor: Tensor) -> Tensor:
    if tensor._version:
        raise ObservationError("the tensors of an observation were changed in place; work on a copy (`.clone()`)")
    return tensor
