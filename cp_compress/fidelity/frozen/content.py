"""What a frozen observation holds: facts as plain JSON, and tensors that are read when they are asked for."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cp_compress.base.digests import Examined
from cp_compress.base.errors import ArtifactError, ObservationError
from cp_compress.fidelity.frozen.top_logits import TopLogits
from cp_compress.fidelity.observing.batch_dependence import BatchDependence
from cp_compress.fidelity.observing.output_checks import check_finite, check_labels
from cp_compress.model.record import Step
from cp_compress.model.sources import Source

TOP = ("top.values", "top.places", "top.log_totals")
"""The names of the tensors of `TopLogits`, in the place of all logits."""
LOGITS, TARGETS, EXAMPLES, ORIGINALS, CLUSTERS = "logits", "targets", "examples", "originals", "clusters"
"""The names of tensors: all logits (n, classes, ...), the true classes, the digests (n, 16), uint8, of the inputs by
their values, those (n, k, 8) of what the inputs were stored from, and the cluster (n,) of each example."""
NLL, LENGTHS, IDS = "nll", "lengths", "ids"
"""Of a language model: the negative log-likelihood (tokens,), float64, of each token but the first of a document, the
length (documents,) of each, and all ids (tokens + documents,)."""
DIGEST_BYTES = 16
"""The length of an example's digest."""


@dataclass(eq=False)
class FrozenContent:
    """What was written of an observation.

    Attributes:
        name: What errors call it, such as the path of its file.
        digest: The digest of the file, by which others know it.
        facts: What its header says, checked.
        tensors: Its tensors by name; one is read, and held against its digest, when it is asked for.
    """

    name: str
    digest: str
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    _read: dict[str, Tensor] = field(default_factory=dict)

    def tensor(self, name: str) -> Tensor:
        """Return a tensor, read once."""
        if name not in self._read:
            self._read[name] = self.tensors[name]
        return self._read[name]

    @property
    def model(self) -> Mapping[str, Any]:
        """What is known of the model."""
        found: Mapping[str, Any] = self.facts["model"]
        return found

    @property
    def data(self) -> Mapping[str, Any]:
        """What is known of the data."""
        found: Mapping[str, Any] = self.facts["data"]
        return found

    @property
    def examined(self) -> Examined:
        """What `examine` said of the model; of one that told nothing of its content, the file is what is known."""
        digest = self.model["digest"]
        return Examined(digest, digest or self.digest, ())

    @property
    def steps(self) -> tuple[Step, ...]:
        """The schemes that made the model."""
        return tuple(map(Step.from_json, self.model["steps"]))

    def sources(self, which: str) -> tuple[Source, ...]:
        """Return what the model was made from ("sources"), or what it and its parts are ("parts")."""
        return tuple(map(Source.from_json, self.model[which]))

    @property
    def kept(self) -> int | None:
        """How many of the largest logits of each example it holds, None for all."""
        count: int | None = self.facts["outputs"]["kept"]
        return count

    @functools.cached_property
    def logits(self) -> Tensor:
        """All logits, finite; raises ArtifactError for others."""
        logits = self.tensor(LOGITS)
        with self._telling():
            check_finite(logits)
        return logits

    @functools.cached_property
    def top(self) -> TopLogits:
        """The largest logits, where it does not hold all; raises ArtifactError for what cannot be such ones."""
        values, places, log_totals = map(self.tensor, TOP)
        found = TopLogits(values, places.long(), log_totals)
        if not found.possible(self.facts["outputs"]["classes"]):
            raise ArtifactError(self.name, "is damaged: its largest logits are no logits, largest first, of classes")
        return found

    @functools.cached_property
    def targets(self) -> Tensor:
        """The true classes; raises ArtifactError for those that the model has not."""
        targets, classes, task = self.tensor(TARGETS), self.facts["outputs"]["classes"], self.data["task"]
        if classes is not None and self.data["labeled"]:
            with self._telling():
                check_labels(targets, targets.new_empty((0, classes)), task)
        return targets

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except ObservationError as error:
            raise ArtifactError(self.name, f"is damaged: {error}") from error

    @property
    def dependence(self) -> BatchDependence | None:
        """How answers depended on the batch."""
        told = self.facts["batches"]["dependence"]
        return None if told is None else BatchDependence(**told)

    def example_digests(self) -> list[str]:
        """Return the digest of each example's input, by its values."""
        joined = self.tensor(EXAMPLES).numpy().tobytes().hex()
        size = 2 * DIGEST_BYTES
        return [joined[start : start + size] for start in range(0, len(joined), size)]

    def holds(self) -> str:
        """Return in words what was frozen."""
        if "layers" not in self.facts:
            return f"the {self.kept} most likely tokens of each place"
        layers = ", ".join(f"{one['layer']} ({one['pool']})" for one in self.facts["layers"])
        logits = "all logits" if self.kept is None else f"the {self.kept} largest logits"
        return f"{logits}, {f'embeddings of {layers}' if layers else 'no embeddings'}"
