"""One file of a store: the streams and labels of consecutive examples, in a safetensors file.

Of the containers that were measured (docs/benchmarks/stored-data.md) safetensors and Arrow add the fewest bytes and
have the fastest random access, and safetensors needs no further dependency; its header is plain JSON, so that reading a
file cannot run code.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cp_compress.base.digests import digest_tensors, start_digest
from cp_compress.base.error_reasons import reason_of
from cp_compress.base.errors import CorruptStreamError
from cp_compress.data.store.safetensors_parts import read_parts
from cp_compress.data.stream_dataset import concatenate, cut, view_of

_IDENTITY = "cp_compress"
_LABELS = (torch.uint8, torch.int16, torch.int32, torch.int64)
_OFFSETS = (torch.int32, torch.int64)
_NAMES = ("streams", "offsets", "labels")
_EXHAUSTED = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True)
class ShardRecord:
    """What a manifest says of a shard: its file, examples start…stop−1, and digests of what it must hold.

    `sha256` is that of the file, `content` that of its streams, which the file's header repeats, `index` that of
    offsets and labels, `source` that of the inputs and labels that were encoded. `raw_bytes` are those of the inputs as
    they were and `values` their number, `payload_bytes` those of the streams without envelopes; `shapes` counts the
    inputs of each shape and dtype.
    """

    name: str
    start: int
    stop: int
    file_bytes: int
    payload_bytes: int
    raw_bytes: int
    values: int
    shapes: Mapping[str, int]
    sha256: str
    content: str
    index: str
    source: str

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain Python types."""
        return asdict(self)


class Shard:
    """An open shard: its streams are mapped into memory, offsets and labels are read.

    Of a file that lost its end or was added to, what is there of the streams is read: those that are cut do not decode.
    Raises CorruptStreamError, naming the file, when it is not what its record says or cannot be read, and the error
    itself where memory or open files run out, which says nothing of the file.
    """

    def __init__(self, folder: Path, record: ShardRecord) -> None:
        try:
            identity, content, offsets, labels = _read(folder / record.name, record)
            if identity != record.content:  # streams of equal sizes have equal offsets
                raise ValueError("its streams are not those that were written")
            if digest_tensors([offsets, labels]) != record.index:
                raise ValueError("its offsets or labels are not those that were written")
            _check(content, offsets, labels, record.stop - record.start)
        except FileNotFoundError as error:
            raise CorruptStreamError(f"shard {record.name} is missing") from error
        except (OSError, RuntimeError) as error:
            if is_exhaustion(error):
                raise
            kind = "cannot be read" if isinstance(error, OSError) else "is damaged"
            raise CorruptStreamError(f"shard {record.name} {kind}: {reason_of(error)}") from error
        except (SafetensorError, ValueError, OverflowError, TypeError) as error:
            raise CorruptStreamError(f"shard {record.name} is damaged: {reason_of(error)}") from error
        self.labels = labels.to(torch.int64)
        self._content, self._edges = view_of(content), view_of(offsets)

    def streams(self, positions: Sequence[int]) -> list[bytes]:
        """Return the streams at positions within the shard."""
        return cut(self._content, self._edges, positions)


def _read(path: Path, record: ShardRecord) -> tuple[str | None, Tensor, Tensor, Tensor]:
    """Return what identifies a file's streams, the streams, their offsets, and the labels."""
    with path.open("rb") as file:  # safetensors calls a file missing that it may not open
        size = os.fstat(file.fileno()).st_size
        if size != record.file_bytes:  # it is not mapped: what is not there cannot be read
            return _read_what_is_left(file.read(min(size, record.file_bytes)), size, record)
    with safe_open(path, framework="pt") as mapped:
        content, offsets, labels = (mapped.get_tensor(name) for name in _NAMES)
        return (mapped.metadata() or {}).get(_IDENTITY), content, offsets, labels


def _read_what_is_left(found: bytes, size: int, record: ShardRecord) -> tuple[str | None, Tensor, Tensor, Tensor]:
    try:
        metadata, parts = read_parts(found)
        content, offsets, labels = (parts[name] for name in _NAMES)
        return metadata.get(_IDENTITY), content, offsets, labels
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"it has {size} bytes instead of {record.file_bytes}: {error}") from error


def is_exhaustion(error: OSError | RuntimeError) -> bool:
    """Tell whether a process has no more memory, mappings or open files, as the system or torch says it."""
    if isinstance(error, OSError):
        return error.errno in _EXHAUSTED
    return any(os.strerror(number) in str(error) for number in _EXHAUSTED)


def _check(content: Tensor, offsets: Tensor, labels: Tensor, count: int) -> None:
    if content.dtype != torch.uint8 or offsets.dtype not in _OFFSETS or labels.dtype not in _LABELS:
        raise ValueError("its tensors are not of the dtypes that are written")
    if (content.ndim, offsets.shape, labels.shape) != (1, (count + 1,), (count,)):
        raise ValueError(f"its tensors are not those of {count} examples")
    if offsets[0] != 0 or offsets[-1] < len(content) or (offsets[1:] < offsets[:-1]).any():
        raise ValueError("its offsets do not follow one another from its first byte to its last")


def pack_shard(streams: Sequence[bytes], labels: Tensor) -> tuple[bytes, str, str]:
    """Return a shard's file, the same for the same examples, and the digests of its streams and of its index."""
    from safetensors.torch import save

    content, offsets = concatenate(streams)
    index = [_narrow(offsets, _OFFSETS), _narrow(labels, _LABELS)]
    identity = digest_tensors([content])
    # one entry only: safetensors writes several in an order of its own
    file = save({"streams": content, "offsets": index[0], "labels": index[1]}, {_IDENTITY: identity})
    return file, identity, digest_tensors(index)


def _narrow(numbers: Tensor, dtypes: Sequence[torch.dtype]) -> Tensor:
    """Return whole numbers in the first of dtypes that holds them all."""
    low, high = (int(bound) for bound in torch.aminmax(numbers))
    fitting = (kind for kind in dtypes if torch.iinfo(kind).min <= low and high <= torch.iinfo(kind).max)
    return numbers.to(next(fitting)).contiguous()


def digest_bytes(content: bytes) -> str:
    """Return the hex digest of a file's content."""
    digest = start_digest()
    digest.update(content)
    return digest.hexdigest()


def file_is_whole(folder: Path, record: ShardRecord) -> bool:
    """Tell whether a shard's file holds every byte that was written; it is read in parts."""
    path = folder / record.name
    if not path.is_file() or path.stat().st_size != record.file_bytes:
        return False
    digest = start_digest()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest() == record.sha256
