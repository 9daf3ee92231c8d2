"""The work of one shard, in any process: read its examples, encode and write them, or check those already written."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.files import write_atomically
from cp_compress.data.codec import Codec
from cp_compress.data.container import payload_size
from cp_compress.data.images import read_runs
from cp_compress.data.per_example import PerExample
from cp_compress.data.store.shards import ShardRecord, digest_bytes, file_is_whole, pack_shard
from cp_compress.data.store.unfinished import publish, write_note
from cp_compress.data.stream_dataset import encode_examples
from cp_compress.inputs.originals import NO_FORM, Originals, digest_rows
from cp_compress.inputs.reading import DataDigest, LabeledData
from cp_compress.inputs.row_digests import digest_values


class OtherDataError(InvalidArgumentError):
    """A shard that is there already was made from other examples than those given now."""


@dataclass(frozen=True)
class ShardTask:
    """Examples start…stop−1, to be the shard `name` in `folder`; `kept` is what is known of an earlier one there.

    `settings` are those of its examples, where the codec is a `PerExample`. `staging` is a folder of one run within
    `folder`: who writes through it after the run was ended writes nothing.
    """

    folder: str
    staging: str
    name: str
    start: int
    stop: int
    codec: Codec
    batch_size: int
    kept: ShardRecord | None
    settings: tuple[int, ...] | None = None


@dataclass
class _Tally:
    """What is counted of the examples of a shard while they are read."""

    digest: DataDigest = field(default_factory=DataDigest)
    raw_bytes: int = 0
    values: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    rows: list[bytes] = field(default_factory=list)
    by_values: list[str] = field(default_factory=list)
    forms: set[tuple[tuple[int, ...], torch.dtype]] = field(default_factory=set)

    def originals(self) -> Originals:
        """Return the digests of the examples, with a form that nothing has where they have several."""
        shape, dtype = next(iter(self.forms)) if len(self.forms) == 1 else (NO_FORM, torch.uint8)
        return Originals(shape, dtype, b"".join(self.rows), bytes.fromhex("".join(self.by_values)))

    def add(self, inputs: Tensor, labels: Tensor) -> None:
        self.digest.update(inputs, labels)
        self.raw_bytes += inputs.numel() * inputs.element_size()
        self.values += inputs.numel()
        self.rows.append(digest_rows(inputs))
        self.by_values += digest_values(inputs)
        self.forms.add((tuple(inputs.shape[1:]), inputs.dtype))
        shape = "×".join(map(str, inputs.shape[1:]))
        self.shapes[f"{shape} {inputs.dtype}".replace("torch.", "")] += len(inputs)


def encode_shard(source: Any, first: int, task: ShardTask) -> tuple[ShardRecord, Originals]:
    """Encode examples of a source from number `first` on, unless that was done already; return record and originals.

    `source` is a data set, or the path of a file with a pickled one. Raises OtherDataError where an earlier shard,
    whole or damaged, was made from other examples.
    """
    data = LabeledData(_load(source) if isinstance(source, Path) else source)
    runs = read_runs(data, first, first + task.stop - task.start, task.batch_size)
    tally = _Tally()
    if task.kept is not None and file_is_whole(Path(task.folder), task.kept):
        for inputs, labels in runs:
            tally.add(inputs, labels)
        _require_same(task, tally)
        return task.kept, tally.originals()
    streams: list[bytes] = []
    numbers: list[Tensor] = []
    for inputs, labels in runs:
        tally.add(inputs, labels)
        streams += _encode(task, inputs, len(streams))
        numbers.append(labels)
    _require_same(task, tally)
    return _write(task, tally, streams, torch.cat(numbers)), tally.originals()


def _encode(task: ShardTask, inputs: Tensor, first: int) -> list[bytes]:
    if task.settings is None or not isinstance(task.codec, PerExample):
        return encode_examples(task.codec, inputs, task.start + first)
    return task.codec.encode_at(inputs, task.settings[first : first + len(inputs)], first=task.start + first)


def _require_same(task: ShardTask, tally: _Tally) -> None:
    if task.kept is not None and task.kept.source != tally.digest.hexdigest():
        raise OtherDataError(
            f"{task.name} was made from examples other than #{task.start} to #{task.stop - 1} of this data"
        )


def _write(task: ShardTask, tally: _Tally, streams: list[bytes], labels: Tensor) -> ShardRecord:
    file, content, index = pack_shard(streams, labels)
    record = ShardRecord(
        name=task.name,
        start=task.start,
        stop=task.stop,
        file_bytes=len(file),
        payload_bytes=sum(map(payload_size, streams)),
        raw_bytes=tally.raw_bytes,
        values=tally.values,
        shapes=dict(sorted(tally.shapes.items())),
        sha256=digest_bytes(file),
        content=content,
        index=index,
        source=tally.digest.hexdigest(),
    )
    write_atomically(Path(task.staging) / task.name, file)
    publish(Path(task.staging), Path(task.folder), task.name)
    write_note(Path(task.staging), Path(task.folder), record)
    return record


@functools.lru_cache(maxsize=1)
def _load(path: Path) -> Any:
    """Return a pickled data set; a worker keeps the last, whose path is that of one run only."""
    import cloudpickle

    return cloudpickle.loads(path.read_bytes())
