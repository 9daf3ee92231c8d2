"""A compressed data set on disk, read lazily: a file is opened when one of its examples is first read."""

from __future__ import annotations

import bisect
import functools
import os
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.digests import digest_text
from cp_compress.base.errors import CorruptStreamError
from cp_compress.data.codec import Codec
from cp_compress.data.store.manifest import MANIFEST, Manifest, read_manifest
from cp_compress.data.store.originals import read_originals
from cp_compress.data.store.shards import Shard
from cp_compress.data.stream_dataset import StreamDataset, Transform, check_transform
from cp_compress.inputs.originals import Originals

# each open shard is a mapping, of which a process of Linux may have 65,530
_MOST_OPEN = 4096


@explains_keywords
class StoredDataset(StreamDataset):
    """A map-style data set of (decoded input, label) in a folder that `write_store` wrote.

    It is picklable and shares no open file between processes, so that a `DataLoader` may use any number of workers; of
    many shards the few thousand used last stay open. Examples may differ in shape. `transform` is that of
    `CompressedDataset`. `labels` are (n,), int64, read on first use; `classes` are those of the source where it had
    some.

    Raises InvalidArgumentError if the folder is not a finished store, and CorruptStreamError for a damaged manifest.
    Reading raises CorruptStreamError for a damaged shard or stream, with the examples that are lost, and OSError or
    RuntimeError, unchanged, if memory or open files run out.
    """

    def __init__(self, path: str | os.PathLike[str], *, transform: Transform | None = None) -> None:
        check_transform("StoredDataset", transform)
        self.path = Path(path).absolute()  # the process may change its folder before a shard is opened
        self._manifest: Manifest = read_manifest(self.path)
        self.transform = transform
        self.codec: Codec = self._manifest.codec
        if self._manifest.classes is not None:
            self.classes = self._manifest.classes
        self._starts = [shard.start for shard in self._manifest.shards]
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._labels: Tensor | None = None

    def __len__(self) -> int:
        return self._manifest.examples

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    @property
    def labels(self) -> Tensor:
        """The labels (n,), int64."""
        if self._labels is None:
            self._labels = torch.cat([self._shard(number).labels for number in range(len(self._starts))])
        return self._labels

    @property
    def shards(self) -> int:
        """The number of shards."""
        return len(self._manifest.shards)

    @property
    def shapes(self) -> dict[str, int]:
        """How many inputs have each shape and dtype, by texts such as "3×32×32 uint8"."""
        counts: Counter[str] = Counter()
        for shard in self._manifest.shards:
            counts.update(shard.shapes)
        return dict(counts)

    @property
    def versions(self) -> dict[str, str]:
        """The versions of the packages that wrote the store, by name."""
        return dict(self._manifest.versions)

    @property
    def record(self) -> dict[str, Any] | None:
        """What its writer had to say of it, in plain JSON, such as for which models it holds; None where nothing."""
        return None if self._manifest.record is None else dict(self._manifest.record)

    @property
    def nbytes(self) -> int:
        """The bytes on disk: all shards and the manifest, not the digests of originals, which only checks read."""
        return sum(shard.file_bytes for shard in self._manifest.shards) + (self.path / MANIFEST).stat().st_size

    @property
    def payload_bytes(self) -> int:
        """The bytes of all streams without their envelopes."""
        return sum(shard.payload_bytes for shard in self._manifest.shards)

    @property
    def raw_bytes(self) -> int:
        """The bytes of all inputs before they were encoded."""
        return sum(shard.raw_bytes for shard in self._manifest.shards)

    @property
    def values(self) -> int:
        """The number of values, such as pixels times channels, in all inputs."""
        return sum(shard.values for shard in self._manifest.shards)

    def digest(self) -> str:
        """Return the hex digest of the codec, the streams and the labels; `transform` is not part of it."""
        return digest_text(str(self.codec), *(shard.sha256 for shard in self._manifest.shards))

    @functools.cached_property
    def _cp_originals(self) -> tuple[Originals, ...]:
        """What the examples were made from (`cp_compress.inputs.originals`)."""
        return read_originals(self.path, len(self))

    def _streams(self, positions: list[int]) -> list[bytes]:
        found: list[bytes] = [b""] * len(positions)
        by_shard: dict[int, list[int]] = {}
        for place, position in enumerate(positions):
            by_shard.setdefault(self._find(position), []).append(place)
        for number, places in by_shard.items():
            start = self._starts[number]
            try:
                shard = self._shard(number)
            except CorruptStreamError as error:
                first = positions[places[0]]
                raise CorruptStreamError(f"data set example #{first}{self.where(first)}: {error}", first) from error
            rows = shard.streams([positions[place] - start for place in places])
            for place, row in zip(places, rows, strict=True):
                found[place] = row
        return found

    def _labels_at(self, positions: list[int]) -> Tensor:
        places = [
            (number, position - self._starts[number]) for position in positions for number in [self._find(position)]
        ]
        return torch.stack([self._shard(number).labels[place] for number, place in places])

    def where(self, position: int) -> str:
        """Return the text that names the file of an example and the other examples in it."""
        shard = self._manifest.shards[self._find(position)]
        return f" in {self.path / shard.name}, which holds #{shard.start} to #{shard.stop - 1}"

    def _find(self, position: int) -> int:
        return bisect.bisect_right(self._starts, position) - 1

    def _shard(self, number: int) -> Shard:
        """Return a shard, opened where it is not; those that were not used for longest are closed."""
        if number not in self._open:
            while len(self._open) >= _MOST_OPEN:
                self._open.popitem(last=False)
            self._open[number] = Shard(self.path, self._manifest.shards[number])
        self._open.move_to_end(number)
        return self._open[number]
