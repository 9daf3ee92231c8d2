"""The baselines of a session: where they lie, and what `--cp-baseline` does with them.

Comparison happens inside the assertion, so that a regression, a missing entry and an entry of other subjects are
failed tests; files are written by the controlling process alone, from checks of tests that passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from pytest_cp import options
from pytest_cp.baselines.entries import entry_name, make_entry
from pytest_cp.baselines.files import BaselineFileError, read_entries, write_entries
from pytest_cp.baselines.tolerances import Policy
from pytest_cp.baselines.verdicts import find_verdict
from pytest_cp.records import Record, stands


class Baselines:
    """The baselines of a session, read when a check first asks for them."""

    def __init__(self, config: pytest.Config) -> None:
        self.mode: str | None = config.getoption("--cp-baseline")
        self._root = config.rootpath
        self._folder: str = config.getini("cp_baseline_dir")
        self._environments: str = config.getini("cp_baseline_environment")
        self._files: dict[Path, dict[str, Record]] = {}

    def path(self, test: str) -> Path:
        """Return the file that holds the baselines of a test's module."""
        module = self._root / test.partition("::")[0]
        return module.parent / self._folder / f"{module.name.removesuffix('.py')}.json"

    def judge(self, record: Record, policy: Policy) -> Record | None:
        """Return a check's verdict beside its baseline; None where none is asked for."""
        if self.mode != "check" or not record["asserted"] or record["explored"]:
            return None  # what Hypothesis draws gives no fixed value to hold on to
        path = self.path(record["test"])
        try:
            entry = self._read(path).get(entry_name(record))
        except BaselineFileError as error:
            pytest.fail(str(error), pytrace=False)
        return find_verdict(record, entry, path, policy, self._environments)

    def unmade(self, records: Iterable[Record], outcomes: Mapping[str, str], complete: bool) -> list[str]:
        """Return a sentence for each saved check that was not made, though its test ran or is gone.

        `outcomes` are those of the tests that ran; `complete` tells that whole modules were run, so that a test that
        is missing among them is gone, and so is a module beside them. A damaged file is told as one of the sentences.
        """
        if self.mode != "check":
            return []
        made = {(self.path(record["test"]), entry_name(record)) for record in records if _is_saved(record)}
        passed = {
            (self.path(test), test.partition("::")[2]) for test, outcome in outcomes.items() if outcome == "passed"
        }
        known = {(self.path(test), test.partition("::")[2]) for test in outcomes}
        paths = {path for path, _ in known}
        modules = {self._root / test.partition("::")[0] for test in outcomes}
        lost = _without_modules(modules, self._folder) if complete else []
        for path in sorted(paths):
            try:
                names = sorted(self._read(path))
            except BaselineFileError as error:
                lost.append(str(error))  # one damaged file must not hide what others lack
                continue
            for name in names:
                test = name.rpartition(" assert_")[0]
                gone = complete and (path, test) not in known
                if (path, name) not in made and ((path, test) in passed or gone):
                    lost.append(f"{path} holds a check that was not made: {name}")
        return lost

    def write(self, records: Iterable[Record], outcomes: Mapping[str, str]) -> list[str]:
        """Save the asserted checks of tests that passed as `--cp-baseline` asks, and return a sentence a change.

        `outcomes` are those of the tests in all their phases. Raises BaselineFileError for a damaged file and OSError
        for a folder that cannot be written.
        """
        notes: list[str] = []
        if self.mode not in ("new", "update"):
            return notes
        changed: dict[Path, dict[str, Record]] = {}
        for record in records:
            if not _is_saved(record) or outcomes.get(record["test"]) != "passed" or not stands(record):
                continue
            path, name, entry = self.path(record["test"]), entry_name(record), make_entry(record)
            old = self._read(path).get(name)
            if old == entry or (old is not None and self.mode == "new"):
                continue
            changed.setdefault(path, {})[name] = entry
            notes.append(f"baseline {name}: {_values(old)} → {_values(entry)}")
        for path, entries in changed.items():
            self._files[path] = {**self._read(path), **entries}
            write_entries(path, self._files[path])
        return notes

    def _read(self, path: Path) -> dict[str, Record]:
        if path not in self._files:
            self._files[path] = read_entries(path)
        return self._files[path]


def _is_saved(record: Record) -> bool:
    """Tell whether a check is of those that baselines hold: asserted, and not of what Hypothesis draws."""
    return bool(record["asserted"]) and not record["explored"]


def _without_modules(modules: Iterable[Path], folder: str) -> list[str]:
    """Return a sentence for each file of baselines beside modules whose own module is gone."""
    return [
        f"{path} holds checks of a module that is gone"
        for parent in sorted({module.parent for module in modules})
        for path in sorted((parent / folder).glob("*.json"))
        if not (parent / path.stem).exists() and not (parent / f"{path.stem}.py").exists()
    ]


def read_policy(config: pytest.Config, marker: pytest.Mark | None) -> Policy:
    """Return what a test's checks are held to: the ini file's tolerances and ratchet, and its marker's.

    Raises pytest.UsageError for a marker that cannot be meant.
    """
    tolerances, ratchet = options.baseline_tolerances(config), config.getini("cp_ratchet")
    if marker is None:
        return Policy(tolerances, ratchet)
    if marker.args or not marker.kwargs.keys() <= {"tolerance", "ratchet"}:
        given = ", ".join([*map(repr, marker.args), *sorted(marker.kwargs)])
        raise pytest.UsageError(f"cp_baseline({given}): its arguments are tolerance and ratchet, by keyword")
    try:
        if "tolerance" in marker.kwargs:
            tolerances = type(tolerances).parse(marker.kwargs["tolerance"], tolerances)
    except ValueError as error:
        raise pytest.UsageError(f"cp_baseline(tolerance=…): {error}") from error
    own = marker.kwargs.get("ratchet", ratchet)
    if not isinstance(own, bool):
        raise pytest.UsageError(f"cp_baseline(ratchet={own!r}): must be True or False")
    return Policy(tolerances, own)


def _values(entry: Record | None) -> str:
    if entry is None:
        return "new"
    return ", ".join(f"{name} {saved['value']}" for name, saved in sorted(entry["metrics"].items()))
