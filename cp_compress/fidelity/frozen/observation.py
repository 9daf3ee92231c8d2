"""An observation that was written to a file, in the place of a model: it answers what was frozen and nothing else."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from cp_compress.base.batching import BatchSize
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.frozen.content import FrozenContent
from cp_compress.fidelity.frozen.examples import FrozenData, known_of
from cp_compress.fidelity.frozen.matching import (
    describe_inputs,
    other_examples,
    other_labels,
    read_examples_of,
    told_inputs,
    unlabeled_as,
)
from cp_compress.fidelity.frozen.subject import FrozenSubject, refuse
from cp_compress.fidelity.frozen.top_logits import TopLogits, top_logits
from cp_compress.fidelity.observing.batch_dependence import BatchDependence
from cp_compress.fidelity.observing.observation import Observation, Value, digest_just_read
from cp_compress.fidelity.observing.outputs import Output
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.inputs.reading import LabeledData

_SAMPLED = 8
_DESCRIBED = 64


class FrozenObservation(FrozenSubject, Observation):
    """What a model did on a data set, read from a file; `load_observation` makes it.

    It stands wherever an observation does, and in the place of a model where a comparison asks that model only about
    the examples that were frozen. `on` binds it to the data set, whose examples must be those that were frozen.
    """

    def __init__(self, content: FrozenContent, data: LabeledData | None = None) -> None:
        batches = content.facts["batches"]
        self.describe_model(content)
        self.model = self
        self.data = FrozenData(content) if data is None else data
        self.output = None
        self.runner = _NoRunner(content)
        self.deployed = bool(batches["deployed"])
        self.batch_size = BatchSize(batches["limit"], fixed=self.deployed)
        self._content = content.examined
        self._state_after_use = self._content.state
        self._bound: dict[Hashable, FrozenObservation] = {}
        self._derived = {}

    def __repr__(self) -> str:
        return (
            f"<FrozenObservation of {self.__name__} on {len(self):,} examples, {self.task}, from {self.content.name}>"
        )

    def on(self, data: Any, *, output: Output = None, deployed_batch_size: int | None = None) -> FrozenObservation:
        """Return the observation bound to the data set that it was made on, which its first use checks; None for none.

        Raises ObservationError for another part of the output or other batches than were frozen, where these are given;
        and when a result is used, for data with other examples, an other order or other labels.
        """
        self._require_asked(output, deployed_batch_size)
        if data is None:
            return self
        given = data if isinstance(data, LabeledData) else LabeledData(data)
        key = given.identity(_SAMPLED)
        if key not in self._bound:
            self._bound = {key: FrozenObservation(self.content, given)}  # the data that is asked for is one
        return self._bound[key]

    def _require_asked(self, output: Output, deployed_batch_size: int | None) -> None:
        part, by_function = (self.content.facts["outputs"][name] for name in ("part", "by_function"))
        if output is not None and (not by_function if callable(output) else by_function or output != part):
            frozen = "what a function made of it" if by_function else "all of it" if part is None else repr(part)
            told = f"of the model's output, {frozen} was frozen, and output={output!r} is asked for"
            raise ObservationError(f"{self.content.name}: {told}: observe the model with that output")
        if deployed_batch_size is not None and not (self.deployed and self.batch_size.limit == deployed_batch_size):
            limit = self.batch_size.limit
            frozen = f"in batches of exactly {limit}" if self.deployed else "without a deployed batch size"
            told = f"the model was run {frozen}, and deployed_batch_size={deployed_batch_size} is asked for"
            raise ObservationError(f"{self.content.name}: {told}: observe it with that size")

    @property
    def logits(self) -> Tensor:
        """All logits (n, classes) that were frozen; raises ObservationError where only the largest were."""
        self.require_match()
        if self.content.kept is not None:
            raise ObservationError(
                f"{self.content.name} holds {self.content.holds()}: what is asked for here needs all logits; observe "
                "the model without top_k (--top-k)"
            )
        return self.content.logits

    @property
    def predictions(self) -> Tensor:
        """The classes of the largest logits."""
        if self.content.kept is None:
            return super().predictions
        self.require_match()
        return self.content.top.places[:, 0]

    @property
    def knows_all_logits(self) -> bool:
        """Whether all logits were frozen, and not the largest alone."""
        return self.content.kept is None

    def gives_same(self, other: Observation) -> bool:
        """Tell whether another observation has the same outputs, bit for bit, as far as both are known."""
        known = [seen.content.kept for seen in (self, other) if isinstance(seen, FrozenObservation)]
        few = [count for count in known if count is not None]
        if not few or not other.gives_logits:
            return super().gives_same(other)
        return largest_of(self, min(few)).equals(largest_of(other, min(few)))

    @property
    def gives_logits(self) -> bool:
        """Whether what the model gave are logits."""
        return self.content.facts["outputs"]["classes"] is not None

    @property
    def outputs_digest(self) -> str | None:
        """The digest of all outputs, None for logits."""
        digest: str | None = self.content.facts["outputs"]["digest"]
        return digest

    @property
    def classes(self) -> int:
        """The number of classes."""
        count: int = self.content.facts["outputs"]["classes"]
        return count

    @property
    def noise(self) -> Mapping[str, Mapping[str, Sequence[float]]]:
        """What each metric is among references that are as good, by comparison: a value for each pair of them."""
        floors: Mapping[str, Mapping[str, Sequence[float]]] = self.content.facts["noise"]["floors"]
        return floors

    @property
    def inputs_at_hand(self) -> bool:
        """Whether it is bound to a data set."""
        return not isinstance(self.data, FrozenData)

    @property
    def targets(self) -> Tensor:
        """The true classes; those of the data that it is bound to, which are those that were frozen if any."""
        return self._match[1]

    @property
    def data_digest(self) -> str:
        """The digest of the inputs and labels."""
        return self._match[0]

    @property
    def batch_dependence(self) -> BatchDependence | None:
        """How answers depended on the batch that an example stood in."""
        return self.content.dependence

    @property
    def batches(self) -> tuple[int, int]:
        """The sizes of the first and of the last batch that the model was run on."""
        told = self.content.facts["batches"]
        return told["first"], told["last"]

    @property
    def chosen_batch(self) -> None:
        """None: whoever ran the model chose it."""

    @property
    def has_run(self) -> bool:
        """False: nothing runs here, and the data that it is bound to was read by others."""
        return False

    @functools.cached_property
    def reads_trees(self) -> bool:
        """Whether an example's input is a tree of tensors."""
        inputs = self.content.data["inputs"]
        return len(inputs) > 1 or inputs[0]["name"] != ""

    def remember(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """Return what was frozen under a key, else what `compute` returned for it the first time."""
        if not super().remembers(key):
            with contextlib.suppress(KeyError):
                self._derived[key] = self._frozen(key)
        return super().remember(key, compute)

    def remembers(self, key: Hashable) -> bool:
        """Return whether `remember` has a result for this key."""
        if super().remembers(key):
            return True
        try:
            self._frozen(key)
        except KeyError:
            return False
        return True

    def _frozen(self, key: Hashable) -> Any:
        """Return what was frozen under a key, which may be None; raises KeyError where nothing was."""
        default = self.content.facts["default_layer"]
        if key == ("default layer",) and default is not None:
            return default
        for place, one in enumerate(self.content.facts["layers"]):
            if key == ("features", one["layer"], one["pool"], None):
                self.require_match()
                return self.content.tensor(f"layer.{place}")
            if key == ("class weights", one["layer"]):
                name = f"layer.{place}.weights"
                return self.content.tensor(name) if name in self.content.tensors else None
        return known_of(self.content, key)

    def require_match(self) -> None:
        """Raise ObservationError where the data that it is bound to is not what was frozen."""
        assert self._match

    @functools.cached_property
    def _match(self) -> tuple[str, Tensor]:
        """The digest of the data, and its targets."""
        facts, frozen = self.content.data, self.content.targets
        if not self.inputs_at_hand:
            return facts["digest"], frozen
        who = f"{self.content.name} does not fit the data"
        if self.data.task != facts["task"]:
            raise ObservationError(f"{who}: it is of a {self.data.task} task, and frozen was a {facts['task']} task")
        if digest_just_read(self.data) == facts["digest"]:
            return facts["digest"], frozen
        digests, labels, digest = read_examples_of(self.data)
        if digest == facts["digest"]:
            return digest, frozen
        told = other_examples(self.content.example_digests(), digests)
        if told is not None:
            raise ObservationError(f"{who}: {told}{self._otherwise()}")
        if labels is None or not facts["labeled"]:
            return digest, unlabeled_as(frozen) if labels is None else labels
        told = other_labels(frozen, labels)
        if told is not None:
            raise ObservationError(f"{who}: {told}")
        return digest, frozen  # the same values in another dtype

    def _otherwise(self) -> str:
        """Return what tells inputs that were preprocessed otherwise, where those at hand have another form or range."""
        spread = torch.linspace(0, len(self.data) - 1, min(len(self.data), _DESCRIBED), dtype=torch.float64)
        given = told_inputs(describe_inputs(self.data.read(spread.round().long())[0]))
        frozen = told_inputs(self.content.data["inputs"])
        if given == frozen:
            return f"; both are {given}: are they other examples, or preprocessed otherwise?"
        return f"; frozen were {frozen}, given are {given}: preprocess them as they were"


def largest_of(seen: Observation, count: int) -> TopLogits:
    """Return the `count` largest outputs of an observation; raises ObservationError where fewer were frozen.

    Of one that holds few, the normaliser is that of its probabilities; of others it is that of logits.
    """
    if not isinstance(seen, FrozenObservation) or seen.content.kept is None:
        return seen.remember(("largest", count), lambda: top_logits(seen.logits, count))
    if count > seen.content.kept:
        raise ObservationError(
            f"{seen.content.name} holds the {seen.content.kept} largest logits of each example, and {count} are asked "
            "for here; observe the model with a larger top_k (--top-k)"
        )
    seen.require_match()
    return seen.content.top.first(count)


class _NoRunner(Runner):
    """In the place of what runs a model: whatever asks for the model is told what was frozen instead."""

    def __init__(self, content: FrozenContent) -> None:
        self._content = content
        self.part, self.passes = None, 0
        self.places = self.coarser = None
        self.device = torch.device("cpu")
        self.task = content.data["task"]

    @property
    def module(self) -> nn.Module | None:
        """Raises ObservationError."""
        refuse(self._content)

    def _run(self, inputs: Any) -> NoReturn:
        refuse(self._content)
