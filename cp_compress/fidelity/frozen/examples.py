"""The examples of a frozen observation: their digests, labels and classes, without their inputs."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.frozen.content import CLUSTERS, ORIGINALS, FrozenContent
from cp_compress.inputs.originals import DIGEST_BYTES as ORIGINAL_BYTES
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.row_digests import HEX_DIGITS


class FrozenExamples:
    """A data set of examples of which everything is known but their inputs; to read one raises ObservationError."""

    def __init__(self, content: FrozenContent) -> None:
        self._content = content
        self.task = content.data["task"]
        self.observed_name = content.data["name"]
        self.labeled = None if content.data["labeled"] else False
        self.classes = content.data["classes"]
        self.codec = content.data["codec"]
        self.numbered_by_folder = content.data["numbered_by_folder"]
        self.clusters = content.tensor(CLUSTERS) if CLUSTERS in content.tensors else None

    def __len__(self) -> int:
        count: int = self._content.data["count"]
        return count

    def __getitem__(self, position: int) -> NoReturn:
        raise ObservationError(
            f"{self._content.name} holds the digests and labels of its examples, and not their inputs: what is asked "
            "for here needs the data set that it was observed on"
        )


class FrozenData(LabeledData):
    """The labelled data of a frozen observation, whose inputs cannot be read."""

    def __init__(self, content: FrozenContent) -> None:
        super().__init__(FrozenExamples(content))
        vars(self)["labeled"] = content.data["labeled"]

    def digest(self, batch_size: int = 1024) -> str:
        """Return the digest of the inputs and labels that were observed."""
        digest: str = self.source._content.data["digest"]
        return digest


def known_of(content: FrozenContent, key: Hashable) -> Any:
    """Return what comparisons would find out of the inputs, by the key under which an observation remembers it.

    Raises KeyError for anything else.
    """
    if key == ("largest input",):
        return content.data["largest"]
    if key == ("alike",):
        return content.facts["outputs"]["alike"]
    if key == ("identical groups",):
        return _groups(content)
    if key == ("same inputs",):
        return bool((_groups(content) == 0).all())
    if key == ("example digests",):
        own, behind = content.example_digests(), originals_of(content)
        return [frozenset((one[:HEX_DIGITS], *theirs)) for one, theirs in zip(own, behind, strict=True)]
    raise KeyError(key)


def originals_of(content: FrozenContent) -> list[list[str]]:
    """Return for each example the digests of what it was stored from, as far as they are known."""
    if ORIGINALS not in content.tensors:
        return [[] for _ in range(content.data["count"])]
    size = 2 * ORIGINAL_BYTES
    rows = [row.tobytes().hex() for row in content.tensor(ORIGINALS).numpy()]
    return [[row[start : start + size] for start in range(0, len(row), size)] for row in rows]


def _groups(content: FrozenContent) -> Tensor:
    """Return the number (n,), int64, of each input, in the order in which they first occur; equal ones have one."""
    known: dict[str, int] = {}
    numbers = [known.setdefault(digest, len(known)) for digest in content.example_digests()]
    return torch.from_numpy(np.array(numbers, dtype=np.int64))
