"""Rows that are kept on disk while a pass goes on, so that it continues where it was stopped, in bounded memory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.digests import start_digest, update_with_bytes
from cp_compress.base.documents import read_document
from cp_compress.base.errors import ObservationError
from cp_compress.base.files import locked, write_atomically

_ABOUT, _PROGRESS = "about.json", "progress.jsonl"
_BLOCK = 1 << 22


@contextlib.contextmanager
def spooling(target: str | os.PathLike[str], about: Mapping[str, Any]) -> Iterator[Spool]:
    """Give the spool of a file that is made inside; it stays where that raises, and is dropped where it does not.

    Raises ObservationError while another process has it.
    """
    place = Path(target)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(place))
        except BlockingIOError as error:
            raise ObservationError(f"{place} is in use: another process makes it") from error
        spool = Spool(place.with_name(f"{place.name}.partial"), about)
        yield spool
        spool.drop()


class Spool:
    """A folder beside a file that is being made, with a file for each column and one that says what is complete.

    `about` says what is run on what, as plain JSON: rows that were kept under anything else are dropped. What a process
    that was stopped has left half written is dropped too, and complete rows are held against their digests.
    """

    def __init__(self, target: str | os.PathLike[str], about: Mapping[str, Any]) -> None:
        self.folder = Path(target)
        told = json.dumps(about, sort_keys=True)
        self.lengths: dict[str, int] = {}
        self._forms: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        if not self._resume(told):
            self._refuse_foreign()
            self.drop()
            self._begin(told)

    def _begin(self, told: str) -> None:
        self.folder.mkdir(parents=True)
        write_atomically(self.folder / _ABOUT, told)
        self.lengths, self._forms = {}, {}

    def _refuse_foreign(self) -> None:
        """Raise ObservationError for what would be removed though no spool put it there."""
        if not os.path.lexists(self.folder) or (self.folder / _ABOUT).is_file():
            return
        if not self.folder.is_dir() or any(self.folder.iterdir()):
            raise ObservationError(f"{self.folder} is no unfinished observation, and stands in its place: move it away")

    def append(self, columns: Mapping[str, Tensor]) -> None:
        """Keep some rows more of each column, of all or none."""
        entry: dict[str, Any] = {}
        for name, tensor in columns.items():
            form = tensor.dtype, tuple(tensor.shape[1:])
            if self._forms.setdefault(name, form) != form:
                raise ObservationError(f"the model gives rows of different forms, {self._forms[name]} and {form}")
            digest = start_digest()
            update_with_bytes(digest, tensor)
            with (self.folder / name).open("ab") as file:
                file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            entry[name] = {"sha256": digest.hexdigest(), "dtype": str(form[0]), "shape": list(tensor.shape)}
        with (self.folder / _PROGRESS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        for name, tensor in columns.items():
            self.lengths[name] = self.rows(name) + len(tensor)

    def rows(self, name: str) -> int:
        """Return how many rows of a column there are."""
        return self.lengths.get(name, 0)

    def column(self, name: str) -> Tensor:
        """Return all rows of a column, read from the disk where they are used."""
        dtype, shape = self._forms[name]
        rows = self.rows(name)
        count = rows * int(torch.Size(shape).numel())
        flat: Tensor = torch.from_file(str(self.folder / name), shared=False, size=count, dtype=dtype)
        return flat.reshape((rows, *shape))

    def clear(self) -> None:
        """Drop all rows, and begin anew."""
        told = (self.folder / _ABOUT).read_text(encoding="utf-8")
        self.drop()
        self._begin(told)

    def drop(self) -> None:
        """Drop all rows, and the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _resume(self, told: str) -> bool:
        """Take up what a process has left; False where there is nothing of this use."""
        try:
            if (self.folder / _ABOUT).read_text(encoding="utf-8") != told:
                return False
            lines = (self.folder / _PROGRESS).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return False
        ends: dict[str, int] = {}
        complete = []
        for line in lines:
            try:
                entry = read_document(line)
                ends = self._checked(entry, ends)
            except (ValueError, KeyError, TypeError, AttributeError, OSError):
                break
            complete.append(line)
            for name, one in entry.items():
                self.lengths[name] = self.rows(name) + one["shape"][0]
        for name in self._forms:
            os.truncate(self.folder / name, ends[name])
        write_atomically(self.folder / _PROGRESS, "".join(f"{line}\n" for line in complete))
        return bool(complete)

    def _checked(self, entry: Any, ends: Mapping[str, int]) -> dict[str, int]:
        """Return where each column ends with some more rows; raises ValueError for rows that are not as they were."""
        found = dict(ends)
        forms = {}
        for name, one in entry.items():
            dtype = getattr(torch, one["dtype"].removeprefix("torch."))
            rows, *shape_of_one = map(int, one["shape"])
            shape = tuple(shape_of_one)
            if self._forms.get(name, (dtype, shape)) != (dtype, shape) or Path(name).name != name:
                raise ValueError(name)
            left = rows * int(torch.Size(shape).numel()) * dtype.itemsize
            start = ends.get(name, 0)
            digest = start_digest()
            with (self.folder / name).open("rb") as file:
                file.seek(start)
                while left and (block := file.read(min(left, _BLOCK))):
                    digest.update(block)
                    left -= len(block)
                found[name] = file.tell()
            if digest.hexdigest() != one["sha256"]:
                raise ValueError(name)
            forms[name] = (dtype, shape)
        self._forms |= forms
        return found
