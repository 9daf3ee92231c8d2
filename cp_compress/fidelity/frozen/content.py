"""What a frozen observation holds: facts as plain JSON, and tensors that are read when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cp_compress.base.digests import Examined
from cp_compress.fidelity.observing.batch_dependence import BatchDependence
from cp_compress.model.record import Step
from cp_compress.model.sources import Source

LOGITS, TARGETS, EXAMPLES, ORIGINALS, CLUSTERS = "logits", "targets", "examples", "originals", "clusters"
"""The names of tensors: all logits (n, classes, ...), the true classes, the digests (n, 16), uint8, of the inputs by
their values, those (n, k, 8) of what the inputs were stored from, and the cluster (n,) of each example."""
DIGEST_BYTES = 16
"""The length of an example's digest."""


@dataclass(frozen=True, eq=False)
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
        layers = ", ".join(f"{one['layer']} ({one['pool']})" for one in self.facts["layers"])
        return f"answers and logits, {f'embeddings of {layers}' if layers else 'no embeddings'}"
