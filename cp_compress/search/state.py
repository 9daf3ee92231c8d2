"""The file from which an interrupted search continues: the identity of the search, and its trials."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from cp_compress.base.arguments import reject
from cp_compress.base.documents import read_document
from cp_compress.base.error_reasons import reason_of
from cp_compress.base.errors import CorruptStreamError
from cp_compress.base.files import read_regular, write_atomically
from cp_compress.search.trials import Trial

_VERSION, _LARGEST = 1, 1 << 30


class State:
    """The trials of one search by their numbers, written to a file, if there is one, after each.

    `identity` says in texts what search this is. Raises InvalidArgumentError when the file is that of another search,
    CorruptStreamError when it is none at all.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: Mapping[str, str]) -> None:
        self.path = None if path is None else Path(path)
        self._identity = dict(identity)
        self._trials: dict[int, Trial] = {}
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def find(self, number: int) -> Trial | None:
        """Return the trial of a number where it has been made."""
        return self._trials.get(number)

    def add(self, trial: Trial) -> None:
        """Keep a trial, on disk before this returns."""
        self._trials[trial.number] = trial
        if self.path is not None:
            trials = [self._trials[number].to_json() for number in sorted(self._trials)]
            document = {"version": _VERSION, "search": self._identity, "trials": trials}
            write_atomically(self.path, json.dumps(document, indent=1, allow_nan=False))

    def _read(self, path: Path) -> None:
        try:
            document = read_document(read_regular(path, _LARGEST))
            version, identity = document["version"], dict(document["search"])
            trials = [Trial.from_json(record) for record in document["trials"]]
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise CorruptStreamError(f"{path} is not the state of a search: {reason_of(error)}") from error
        if version != _VERSION:
            raise CorruptStreamError(f"{path} has format version {version!r}; this package reads {_VERSION}")
        if identity != self._identity:
            names = sorted(identity.keys() | self._identity.keys())
            other = [name for name in names if identity.get(name) != self._identity.get(name)]
            shown = "; ".join(f"{name}: {identity.get(name)} there, {self._identity.get(name)} here" for name in other)
            reject("search", "state", str(path), f"this file belongs to another search ({shown}); use another path")
        self._trials = {trial.number: trial for trial in trials}


@contextlib.contextmanager
def locked(path: str | os.PathLike[str] | None) -> Iterator[None]:
    """Keep a state file from every other process while a search writes to it; its folder must exist."""
    if path is None:
        yield
        return
    if not Path(path).parent.is_dir():
        reject("search", "state", str(path), "its folder does not exist")
    if Path(path).is_dir():
        reject("search", "state", str(path), "it is a folder; name a file")
    try:
        with FileLock(f"{os.fspath(path)}.lock", timeout=0):
            yield
    except Timeout:
        reject("search", "state", str(path), "another search is writing to this file")
