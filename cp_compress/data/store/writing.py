"""Write a data set compressed to disk, shard by shard and in parallel; a killed run can be continued."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.base.digests import digest_text
from cp_compress.base.errors import CompressionError, CorruptStreamError, InvalidArgumentError
from cp_compress.base.files import locked, write_atomically
from cp_compress.base.parallel import check_parallel, run_parallel
from cp_compress.data.codec import Codec, as_codec
from cp_compress.data.per_example import settings_for
from cp_compress.data.store.manifest import MANIFEST, Manifest, as_record, read_manifest, shard_name
from cp_compress.data.store.originals import write_originals
from cp_compress.data.store.reading import StoredDataset
from cp_compress.data.store.shard_encoding import OtherDataError, ShardTask, encode_shard
from cp_compress.data.store.shards import ShardRecord
from cp_compress.data.store.unfinished import (
    Plan,
    foreign_names,
    holds_nothing_else,
    holds_shards,
    is_own_file,
    publish,
    read_note,
    read_plan,
    remove_folder,
    staging_folder,
    tidy,
    write_plan,
)
from cp_compress.data.stream_dataset import check_task
from cp_compress.inputs.originals import Originals, join_originals, with_earlier
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.wrapping import said_by

_OWNER = "write_store"
Known = Callable[[str], ShardRecord | None]  # the record of a shard that is there already, by its name


@explains_keywords
def write_store(
    dataset: Any,
    codec: Codec | str,
    path: str | os.PathLike[str],
    *,
    shard_size: int = 1024,
    batch_size: int = 256,
    jobs: int = 1,
    backend: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
    settings: Sequence[int] | None = None,
    record: Mapping[str, Any] | None = None,
) -> StoredDataset:
    """Encode labelled examples into a folder of shards, and return the data set in it.

    The folder appears when all shards are written; until then its name ends in ".partial". If a writer is killed, the
    next call continues: it keeps the complete shards, reads their examples again to check that they are the same, and
    encodes the others. If the folder is already a finished store of the same codec and examples, it is checked, damaged
    shards are encoded again, and it is returned. Any other store, finished or not, is refused unless `overwrite` is
    set.

    What is written does not depend on `jobs` or `backend`. Each process holds one shard in memory.

    Args:
        dataset: Labelled data in any form that comparisons accept, with one class per example, or a torchvision data
            set such as `ImageFolder`, whose images may differ in size.
        codec: The codec that stores the inputs, or its expression.
        path: The folder to write; its parent must exist.
        shard_size: The number of examples per shard. Choose it so that a shard has megabytes, because flushing one to
            the disk takes milliseconds however small it is.
        batch_size: The number of examples that are encoded together.
        jobs: The number of processes.
        backend: None for processes on this machine, or "dask" for the active `distributed.Client`, whose workers must
            see the same folder.
        overwrite: Whether to replace another store. The new store replaces it, by two renamings, when it is complete; a
            folder that holds any other file is refused nevertheless.
        progress: Whether to show a progress bar.
        settings: For a `PerExample` codec, the number of the setting of each example; None for any other codec.
        record: Plain JSON that is kept in the manifest for whoever reads the store, as `StoredDataset.record`.

    Returns:
        The data set in the folder.

    Raises:
        InvalidArgumentError: If an argument is not as described, the folder holds something else, or the codec does not
            accept a value; the example is named.
        CompressionError: If another process is writing to the folder, or the codec cannot store an example, which is
            named.
        OSError: If the folder cannot be written.

    >>> import tempfile, torch
    >>> from cp_compress.data import JPEG
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     stored = write_store((torch.rand(4, 3, 16, 16), torch.arange(4)), JPEG(80), f"{folder}/store")
    ...     len(stored), stored[2][0].shape
    (4, torch.Size([3, 16, 16]))
    """
    codec = as_codec(_OWNER, codec)
    rule = "must be a whole number of 1 or more"
    shard_size = check_integer(_OWNER, "shard_size", shard_size, rule, at_least=1)
    batch_size = check_integer(_OWNER, "batch_size", batch_size, rule, at_least=1)
    check_parallel(_OWNER, jobs, backend)
    data = dataset if isinstance(dataset, LabeledData) else LabeledData(dataset)
    check_task(_OWNER, data)
    target = Path(path).resolve()
    if not target.parent.is_dir() or not target.name:
        reject(_OWNER, "path", os.fspath(path), "its parent folder does not exist")
    chosen = settings_for(_OWNER, codec, settings, len(data))
    choice = None if chosen is None else digest_text(bytes(chosen).hex())
    plan = Plan(str(codec), len(data), shard_size, _class_names(data.source), choice)
    run = _Run(data, codec, plan, batch_size, jobs, backend, progress, chosen, as_record(_OWNER, record))
    with _locked(target):
        if not _is_finished(run, target, overwrite):
            _write_new(run, target, overwrite)
        tidy(target)
        if not foreign_names(_replaced(target)):
            remove_folder(_replaced(target))
    return StoredDataset(target)


@dataclass(frozen=True, eq=False)
class _Run:
    """What one call is to write, and how."""

    data: LabeledData
    codec: Codec
    plan: Plan
    batch_size: int
    jobs: int
    backend: str | None
    progress: bool
    settings: tuple[int, ...] | None
    record: Mapping[str, Any] | None

    def write(self, folder: Path, known: Known, finished: Manifest | None = None) -> None:
        """Write all shards that `folder` lacks, and the manifest unless that of the finished store still holds.

        Raises InvalidArgumentError where a folder lies in the place of a file, which may be somebody's.
        """
        plan = self.plan
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink() and is_own_file(path.name):
                reject(_OWNER, "path", str(folder), f"{path.name} in it is a folder, not a file; move it elsewhere")
        with staging_folder(folder) as staging:
            if finished is None:
                write_plan(staging, folder, plan)
            shards, originals = self._write_shards(folder, staging, known)
            write_originals(staging, folder, with_earlier(self.data.source, originals))
            told = self.record
            if told is None and finished is not None:
                told = finished.record
            if finished is None or finished.shards != shards or finished.record != told:
                facts = plan.classes, _versions(), plan.choice, told
                Manifest(self.codec, plan.examples, plan.shard_size, shards, *facts).write(staging)
                publish(staging, folder, MANIFEST)

    def _write_shards(self, folder: Path, staging: Path, known: Known) -> tuple[tuple[ShardRecord, ...], Originals]:
        found: list[tuple[ShardRecord, Originals]] = []
        with _progress_bar(self.plan.examples, self.progress) as advance:
            try:
                for made in run_parallel(encode_shard, self._calls(folder, staging, known), self.jobs, self.backend):
                    found.append(made)
                    advance(made[0].stop - made[0].start)
            except BrokenExecutor as error:
                rule = f"{len(found)} shards are written; call write_store again to continue"
                raise CompressionError(f"{_OWNER}: a worker process died; {rule}") from error
        found.sort(key=lambda made: made[0].start)
        return tuple(record for record, _ in found), join_originals([originals for _, originals in found])

    def _calls(self, folder: Path, staging: Path, known: Known) -> Iterator[tuple[Any, int, ShardTask]]:
        source = self._source_for_workers(staging)
        count, size = self.plan.examples, self.plan.shard_size
        for number, start in enumerate(range(0, count, size)):
            name, stop = shard_name(number), min(start + size, count)
            kept = known(name)
            if kept is not None and (kept.start, kept.stop) != (start, stop):
                kept = None
            chosen = None if self.settings is None else self.settings[start:stop]
            task = ShardTask(str(folder), str(staging), name, start, stop, self.codec, self.batch_size, kept, chosen)
            pair = self._pair
            if pair is None:
                yield source, start, task
            else:  # a worker is sent no more than its own part; a slice alone would be pickled with all of it
                yield tuple(tensor[start:stop].clone() for tensor in pair), 0, task

    @property
    def _pair(self) -> tuple[Tensor, Tensor] | None:
        """Inputs and labels of data that holds them as two tensors."""
        inputs, labels = self.data.table or (None, None)
        return (inputs, labels) if isinstance(inputs, Tensor) and isinstance(labels, Tensor) else None

    def _source_for_workers(self, staging: Path) -> Any:
        """Return the data set, or for other processes the file that each of them reads it from once."""
        if self._pair is not None or (self.jobs == 1 and self.backend is None):
            return self.data.source
        import cloudpickle

        path = staging / "source.pickle"
        try:
            content = cloudpickle.dumps(self.data.source)
        except Exception as error:  # whatever the parts of a data set raise when they are pickled
            rule = f"with jobs > 1 it must be picklable to be sent to other processes: {error}"
            reject(_OWNER, "dataset", type(self.data.source).__name__, rule)
        write_atomically(path, content)
        return path


def _is_finished(run: _Run, target: Path, overwrite: bool) -> bool:
    """Tell whether the target is the store that is asked for, repaired where it was damaged.

    Raises InvalidArgumentError where it is anything else that may not be replaced.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        manifest = read_manifest(target)
    except (InvalidArgumentError, CorruptStreamError) as error:
        if overwrite and (target / MANIFEST).is_file():  # a store, though one that cannot be read
            return False
        reject(_OWNER, "path", str(target), f"it exists and is not a store that can be continued: {error}")
    found = Plan(str(manifest.codec), manifest.examples, manifest.shard_size, manifest.classes, manifest.choice)
    remedy = "use overwrite=True to replace it"
    if found != run.plan:
        if not overwrite:
            reject(_OWNER, "path", str(target), f"it holds another store ({found}); {remedy}")
        return False
    try:
        run.write(target, {record.name: record for record in manifest.shards}.get, manifest)
    except OtherDataError as error:
        if not overwrite:
            reject(_OWNER, "path", str(target), f"it holds a store of other data: {error}; {remedy}")
        return False
    return True


def _write_new(run: _Run, target: Path, overwrite: bool) -> None:
    """Begin or go on with the unfinished store beside the target, and move it there when it is whole."""
    partial = target.with_name(f"{target.name}.partial")
    if target.exists():
        _refuse_foreign(target)
        _refuse_foreign(_replaced(target))
    if partial.exists() and not partial.is_dir():
        reject(_OWNER, "path", str(target), f"{partial.name} beside it is not a folder; move it elsewhere")
    partial.mkdir(exist_ok=True)
    begun = read_plan(partial)
    remedy = "use overwrite=True to discard it"
    if begun is None and not holds_nothing_else(partial):
        reject(_OWNER, "path", str(target), f"{partial.name} beside it is not an unfinished store; move it elsewhere")
    if begun is not None and begun != run.plan:
        if not overwrite and holds_shards(partial):
            reject(_OWNER, "path", str(target), f"another store was begun there ({begun}); {remedy}")
        _begin_anew(partial)
    try:
        run.write(partial, lambda name: read_note(partial, name))
    except OtherDataError as error:
        if not overwrite:
            reject(_OWNER, "path", str(target), f"a store of other data was begun there: {error}; {remedy}")
        _begin_anew(partial)
        run.write(partial, lambda name: None)
    if target.exists():
        remove_folder(_replaced(target))
        target.rename(_replaced(target))
    partial.rename(target)


def _begin_anew(partial: Path) -> None:
    _refuse_foreign(partial)
    remove_folder(partial)
    partial.mkdir()


def _refuse_foreign(folder: Path) -> None:
    """Reject a folder that would be removed though it holds what no run put there."""
    foreign = foreign_names(folder)
    if foreign:
        shown = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
        reject(_OWNER, "path", str(folder), f"it holds {shown}, not part of a store: move it elsewhere")


def _replaced(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")


def _class_names(source: Any) -> tuple[str, ...] | None:
    """Return the names of the classes where a data set has them; ImageNet's are lists of names."""
    classes = said_by(source, "classes")
    if classes is None:
        return None
    return tuple(name if isinstance(name, str) else ", ".join(map(str, name)) for name in classes)


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(target))
        except BlockingIOError:
            raise CompressionError(f"{_OWNER}: another process is writing {target}") from None
        except OSError as error:
            hint = "; to read the store in it, use StoredDataset" if (target / MANIFEST).is_file() else ""
            raise OSError(error.errno, f"{_OWNER}: {error.strerror}{hint}") from None
        yield


@contextlib.contextmanager
def _progress_bar(examples: int, shown: bool) -> Iterator[Callable[[int], object]]:
    from tqdm import tqdm

    with tqdm(total=examples, desc="encode", unit=" examples", disable=not shown) as bar:
        yield bar.update


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("pytest-cp", "torch", "zfpy", "pillow")}
