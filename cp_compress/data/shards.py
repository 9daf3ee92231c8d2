"""One file of a store: the streams and labels of consecutive examples, in a safetensors file.

Of the containers that were measured (docs/benchmarks.md) safetensors is the smallest beside Arrow and the fastest to
read at random; its header is plain JSON, so that no file can run code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cp_compress.base.digests import digest_tensors
from cp_compress.base.errors import CorruptStreamError
from cp_compress.base.files import write_atomically
from cp_compress.data.container import payload_size
from cp_compress.data.stream_dataset import concatenate, cut


@dataclass(frozen=True)
class ShardRecord:
    """What a manifest says of a shard: its file, examples start…stop−1, and digests of what it must hold.

    `sha256` is that of the file, `index` that of offsets and labels, `source` that of the inputs and labels that were
    encoded. `raw_bytes` are those of the inputs as they were, `payload_bytes` those of the streams without envelopes.
    """

    name: str
    start: int
    stop: int
    file_bytes: int
    stream_bytes: int
    payload_bytes: int
    raw_bytes: int
    sha256: str
    index: str
    source: str

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain Python types."""
        return asdict(self)


class Shard:
    """An open shard: its streams are mapped into memory, offsets and labels are read.

    Raises CorruptStreamError, naming file and examples, when it is not what its record says.
    """

    def __init__(self, folder: Path, record: ShardRecord) -> None:
        self.record = record
        path = folder / record.name
        try:
            if path.stat().st_size != record.file_bytes:
                raise self.damage(f"it has {path.stat().st_size} bytes instead of {record.file_bytes}")
            with safe_open(path, framework="pt") as file:
                self._content, self._offsets, self.labels = (
                    file.get_tensor(name) for name in ("streams", "offsets", "labels")
                )
        except FileNotFoundError as error:
            raise self.damage("it is missing") from error
        except (OSError, SafetensorError, ValueError) as error:
            raise self.damage(f"it cannot be read: {error}") from error
        if digest_tensors([self._offsets, self.labels]) != record.index:
            raise self.damage("its offsets or labels are not those that were written")

    def damage(self, reason: str) -> CorruptStreamError:
        """Return the error that tells which examples are lost with this shard."""
        lost = f"examples #{self.record.start} to #{self.record.stop - 1} are lost"
        return CorruptStreamError(f"shard {self.record.name} is damaged: {reason}; {lost}", self.record.start)

    def streams(self, positions: Sequence[int]) -> list[bytes]:
        """Return the streams at positions within the shard."""
        return cut(self._content, self._offsets, list(positions))


def write_shard(
    folder: Path, name: str, start: int, streams: Sequence[bytes], labels: Tensor, raw_bytes: int, source: str
) -> ShardRecord:
    """Write a shard whole or not at all, and return its record."""
    content, offsets = concatenate(streams)
    data = save({"streams": content, "offsets": offsets, "labels": labels.to(torch.int64).contiguous()})
    write_atomically(folder / name, data)
    return ShardRecord(
        name=name,
        start=start,
        stop=start + len(streams),
        file_bytes=len(data),
        stream_bytes=len(content),
        payload_bytes=sum(map(payload_size, streams)),
        raw_bytes=raw_bytes,
        sha256=hashlib.sha256(data).hexdigest(),
        index=digest_tensors([offsets, labels.to(torch.int64)]),
        source=source,
    )


def file_is_whole(folder: Path, record: ShardRecord) -> bool:
    """Tell whether a shard's file holds every byte that was written."""
    path = folder / record.name
    if not path.is_file() or path.stat().st_size != record.file_bytes:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest() == record.sha256
