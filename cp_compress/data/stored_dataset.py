"""A compressed data set on disk, read lazily: a file is opened when one of its examples is first asked for."""

from __future__ import annotations

import bisect
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.digests import digest_text
from cp_compress.data.codecs import Codec
from cp_compress.data.manifest import Manifest, read_manifest
from cp_compress.data.shards import Shard
from cp_compress.data.stream_dataset import StreamDataset, Transform, check_transform


class StoredDataset(StreamDataset):
    """A map-style data set of (decoded input, label) in a folder that `write_store` wrote.

    It is picklable and holds no file open across processes, so that a `DataLoader` may use as many workers as it
    likes. Examples may differ in shape. `transform` is that of `CompressedDataset`. `labels` are (n,), int64, read when
    first asked for; `classes` are those of the source where it had some.

    Raises InvalidArgumentError for a folder that is no finished store, CorruptStreamError for a damaged manifest;
    reading raises CorruptStreamError for a damaged shard or stream and says which examples are lost.
    """

    def __init__(self, path: str | os.PathLike[str], *, transform: Transform | None = None) -> None:
        check_transform("StoredDataset", transform)
        self.path = Path(path)
        self.manifest: Manifest = read_manifest(self.path)
        self.transform = transform
        self.codec: Codec = self.manifest.codec
        if self.manifest.classes is not None:
            self.classes = self.manifest.classes
        self._starts = [shard.start for shard in self.manifest.shards]
        self._open: dict[int, Shard] = {}
        self._labels: Tensor | None = None

    def __len__(self) -> int:
        return self.manifest.examples

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    @property
    def labels(self) -> Tensor:
        """The labels (n,), int64."""
        if self._labels is None:
            self._labels = torch.cat([self._shard(number).labels for number in range(len(self._starts))])
        return self._labels

    @property
    def nbytes(self) -> int:
        """The bytes of all shards on disk."""
        return sum(shard.file_bytes for shard in self.manifest.shards)

    @property
    def payload_bytes(self) -> int:
        """The bytes of all streams without their envelopes."""
        return sum(shard.payload_bytes for shard in self.manifest.shards)

    @property
    def raw_bytes(self) -> int:
        """The bytes of all inputs as they were before they were encoded."""
        return sum(shard.raw_bytes for shard in self.manifest.shards)

    @property
    def bytes_per_example(self) -> float:
        """The mean bytes of a stream, envelope included."""
        return sum(shard.stream_bytes for shard in self.manifest.shards) / len(self)

    def digest(self) -> str:
        """Return the hex digest of what is stored: codec, streams and labels; `transform` is no part of it."""
        return digest_text(str(self.codec), *(shard.sha256 for shard in self.manifest.shards))

    def _streams(self, positions: list[int]) -> list[bytes]:
        found: list[bytes] = [b""] * len(positions)
        by_shard: dict[int, list[int]] = {}
        for place, position in enumerate(positions):
            by_shard.setdefault(self._find(position), []).append(place)
        for number, places in by_shard.items():
            start = self._starts[number]
            rows = self._shard(number).streams([positions[place] - start for place in places])
            for place, row in zip(places, rows, strict=True):
                found[place] = row
        return found

    def _labels_at(self, positions: list[int]) -> Tensor:
        labels = []
        for position in positions:
            number = self._find(position)
            labels.append(self._shard(number).labels[position - self._starts[number]])
        return torch.stack(labels)

    def _find(self, position: int) -> int:
        return bisect.bisect_right(self._starts, position) - 1

    def _shard(self, number: int) -> Shard:
        if number not in self._open:
            self._open[number] = Shard(self.path, self.manifest.shards[number])
        return self._open[number]
