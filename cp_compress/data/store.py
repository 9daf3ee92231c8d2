"""Write a data set compressed to disk, shard by shard and in parallel, and check what lies there."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from cp_compress.base.arguments import check_integer, reject
from cp_compress.base.datasets import DataDigest, LabeledData
from cp_compress.base.digests import digest_text
from cp_compress.base.errors import CompressionError, CorruptStreamError, InvalidArgumentError
from cp_compress.base.parallel import check_parallel, run_parallel
from cp_compress.data.codecs import Codec
from cp_compress.data.images import Run, read_runs
from cp_compress.data.manifest import (
    MANIFEST,
    Manifest,
    read_manifest,
    read_note,
    remove_notes,
    shard_name,
    write_note,
)
from cp_compress.data.shards import ShardRecord, file_is_whole, write_shard
from cp_compress.data.stored_dataset import StoredDataset
from cp_compress.data.stream_dataset import check_codec, encode_examples

_OWNER = "write_store"


def write_store(
    dataset: Any,
    codec: Codec,
    path: str | os.PathLike[str],
    *,
    shard_size: int = 4096,
    batch_size: int = 256,
    jobs: int = 1,
    backend: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> StoredDataset:
    """Encode labelled examples into a folder of shards of `shard_size` examples, and return the data set in it.

    `dataset` is anything that `LabeledData` reads, or a torchvision data set such as `ImageFolder`, whose images may
    differ in size. Shards are written by `jobs` processes (`backend="dask"`: by the active `distributed.Client`, whose
    workers must see the same folder); what is written does not depend on them.

    The folder appears when all is written; until then its name ends in ".partial", and a writer that was killed goes
    on from there: it keeps the shards that are whole and whose examples are still those of `dataset`. A finished store
    of the same codec and examples is left as it is and returned; another one is replaced only with `overwrite`, in one
    step, when the new one is whole. `progress` shows a bar.

    Raises InvalidArgumentError for bad arguments, a folder that holds something else, and one that another process is
    writing; CompressionError, naming the example, for what the codec cannot store; OSError where the folder cannot be
    written.
    """
    check_codec(_OWNER, codec)
    rule = "must be a whole number of 1 or more"
    shard_size = check_integer(_OWNER, "shard_size", shard_size, rule, at_least=1)
    batch_size = check_integer(_OWNER, "batch_size", batch_size, rule, at_least=1)
    check_parallel(_OWNER, jobs, backend)
    data = dataset if isinstance(dataset, LabeledData) else LabeledData(dataset)
    target = Path(os.path.abspath(path))  # noqa: PTH100 - a link that is the target stays the user's name for it
    if not target.parent.is_dir():
        reject(_OWNER, "path", os.fspath(path), "the folder in which it is to be does not exist")
    with _locked(target):
        finished = _finished(target, codec, shard_size, data, batch_size, overwrite)
        if finished:
            return StoredDataset(target)
        partial = target.with_name(target.name + ".partial")
        partial.mkdir(exist_ok=True)
        shards = _write_shards(data, codec, partial, shard_size, batch_size, jobs, backend, progress)
        classes = getattr(data.source, "classes", None)
        names = None if classes is None else tuple(map(str, classes))
        Manifest(codec, len(data), shard_size, tuple(shards), names, _versions()).write(partial)
        _move_into_place(partial, target)
    return StoredDataset(target)


def _write_shards(
    data: LabeledData,
    codec: Codec,
    folder: Path,
    shard_size: int,
    batch_size: int,
    jobs: int,
    backend: str | None,
    progress: bool,
) -> list[ShardRecord]:
    starts = range(0, len(data), shard_size)

    def calls() -> Iterator[tuple[Any, ...]]:
        for number, start in enumerate(starts):
            stop = min(start + shard_size, len(data))
            # tensors are sent in parts: a worker needs no more than its own
            part, first = (data.source, start) if data.tensors is None else (_slice(data.tensors, start, stop), 0)
            yield part, first, stop - start, start, codec, str(folder), shard_name(number), batch_size

    found: list[ShardRecord] = []
    with _progress_bar(len(data), progress) as advance:
        try:
            for record in run_parallel(_write_one, calls(), jobs, backend):
                found.append(record)
                advance(record.stop - record.start)
        except BrokenExecutor as error:
            raise CompressionError(f"a worker process died; {len(found)} shards are written: run it again") from error
    return sorted(found, key=lambda record: record.start)


def _slice(tensors: tuple[Tensor, Tensor], start: int, stop: int) -> tuple[Tensor, Tensor]:
    inputs, labels = (tensor[start:stop].clone() for tensor in tensors)  # else all of it would be pickled
    return inputs, labels


def _write_one(
    source: Any, first: int, count: int, start: int, codec: Codec, folder: str, name: str, batch_size: int
) -> ShardRecord:
    """Encode examples first…first+count−1 of a source as examples start… of a store, unless that is done already."""
    data = LabeledData(source)
    kept = read_note(Path(folder), name)
    same_place = kept is not None and (kept.start, kept.stop) == (start, start + count)
    if kept is not None and same_place and file_is_whole(Path(folder), kept):
        known = _source_digest(read_runs(data, first, first + count, batch_size), codec)
        if kept.source == known:
            return kept
    digest, raw_bytes = DataDigest(), 0
    streams: list[bytes] = []
    labels: list[Tensor] = []
    for inputs, part in read_runs(data, first, first + count, batch_size):
        digest.update(inputs, part)
        raw_bytes += inputs.numel() * inputs.element_size()
        streams += encode_examples(codec, inputs, start + len(streams))
        labels.append(part)
    source_digest = digest_text(digest.hexdigest(), str(codec))
    record = write_shard(Path(folder), name, start, streams, torch.cat(labels), raw_bytes, source_digest)
    write_note(Path(folder), record)
    return record


def _source_digest(runs: Iterable[Run], codec: Codec) -> str:
    digest = DataDigest()
    for inputs, labels in runs:
        digest.update(inputs, labels)
    return digest_text(digest.hexdigest(), str(codec))


def _finished(target: Path, codec: Codec, shard_size: int, data: LabeledData, batch_size: int, overwrite: bool) -> bool:
    """Tell whether the target is the store that is asked for; raises InvalidArgumentError where it is another thing."""
    if not target.exists() and not target.is_symlink():
        return False
    try:
        manifest = read_manifest(target)
    except (InvalidArgumentError, CorruptStreamError):
        if overwrite and target.is_dir() and (target / MANIFEST).exists():  # a store, though a damaged one
            return False
        reject(_OWNER, "path", str(target), "it exists and is no store that can be read; give another path")
    same = (manifest.codec, manifest.examples, manifest.shard_size) == (codec, len(data), shard_size)
    if same and all(
        shard.source == _source_digest(read_runs(data, shard.start, shard.stop, batch_size), codec)
        for shard in manifest.shards
    ):
        return True
    if not overwrite:
        found = f"{manifest.examples} examples by {manifest.codec} in shards of {manifest.shard_size}"
        reject(_OWNER, "path", str(target), f"it holds another store ({found}); to replace it say overwrite=True")
    return False


def _move_into_place(partial: Path, target: Path) -> None:
    remove_notes(partial)
    old = target.with_name(target.name + ".old")
    if old.exists():
        shutil.rmtree(old)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    if old.exists():
        shutil.rmtree(old)


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    lock = target.with_name(f".{target.name}.lock")
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout:
        reject(_OWNER, "path", str(target), "another process is writing this store")


@contextlib.contextmanager
def _progress_bar(examples: int, shown: bool) -> Iterator[Callable[[int], object]]:
    if not shown:
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=examples, desc="encode", unit="example") as bar:
        yield bar.update


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("pytest-cp", "torch", "zfpy", "pillow")}
