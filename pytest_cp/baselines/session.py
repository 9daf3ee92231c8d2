"""The baselines of a session: where they are stored, and what `--cp-baseline` does with them.

Comparison happens inside the assertion, so that a regression, a missing entry and an entry of other subjects are
failed tests; files are written by the controlling process alone, from checks of tests that passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from pytest_cp.baselines.entries import checked_test, entry_name, make_entry
from pytest_cp.baselines.files import BaselineFileError, read_entries, write_entries
from pytest_cp.baselines.tolerances import Policy, baseline_tolerances
from pytest_cp.baselines.verdicts import find_unbound, find_verdict
from pytest_cp.checks.recorder import Record, stands


class Baselines:
    """The baselines of a session, read when a check first asks for them."""

    def __init__(self, config: pytest.Config) -> None:
        self.mode: str | None = config.getoption("--cp-baseline")
        self._root = config.rootpath
        self.folder: str = config.getini("cp_baseline_dir")
        self._environments: str = config.getini("cp_baseline_environment")
        self._files: dict[Path, dict[str, Record]] = {}

    def path(self, test: str) -> Path:
        """Return the file that holds the baselines of a test's module."""
        module = self._root / test.partition("::")[0]
        return self.home(test) / self.folder / f"{module.name.removesuffix('.py')}.json"

    def home(self, test: str) -> Path:
        """Return the folder of a test's module."""
        return (self._root / test.partition("::")[0]).parent

    def judge(self, record: Record, policy: Policy) -> Record | None:
        """Return a check's verdict against its baseline, or None if the session uses no baselines."""
        if self.mode is None or not _is_saved(record):
            return None  # what Hypothesis draws has no fixed value
        path = self.path(record["test"])
        unbound = find_unbound(record, path)
        if unbound is not None or self.mode != "check":
            return unbound
        try:
            entry = self.read(path).get(entry_name(record))
        except BaselineFileError as error:
            pytest.fail(str(error), pytrace=False)
        return find_verdict(record, entry, path, policy, self._environments)

    def unmade(self, records: Iterable[Record], outcomes: Mapping[str, str]) -> list[str]:
        """Return a sentence for each saved check that was not made, though its test ran and passed.

        `outcomes` are those of the tests that ran. A damaged file gives one of the sentences.
        """
        if self.mode != "check":
            return []
        made = [record for record in records if _is_saved(record)]
        lost = []
        for path in sorted({self.path(test) for test in outcomes}):
            try:
                self.read(path)
            except BaselineFileError as error:
                lost.append(str(error))  # one damaged file must not hide what others lack
                continue
            here = {test: outcome for test, outcome in outcomes.items() if self.path(test) == path}
            for names in self._not_made(made, here).values():
                lost += [f"{path} contains a check that was not made in this session: {name}" for name in names]
        return lost

    def write(self, records: Iterable[Record], outcomes: Mapping[str, str]) -> list[str]:
        """Save the asserted checks of passed tests as `--cp-baseline` says, and return one sentence per change.

        `update` also removes what these tests no longer make: the next check would miss it.

        `outcomes` are those of the tests in all their phases. Raises BaselineFileError for a damaged file and OSError
        for a folder that cannot be written.
        """
        notes: list[str] = []
        if self.mode not in ("new", "update"):
            return notes
        changed: dict[Path, dict[str, Record]] = {}
        made = [record for record in records if _is_saved(record) and outcomes.get(record["test"]) == "passed"]
        for record in made:
            if not stands(record):
                continue
            path, name, entry = self.path(record["test"]), entry_name(record), make_entry(record)
            old = self.read(path).get(name)
            if old == entry or (old is not None and self.mode == "new"):
                continue
            changed.setdefault(path, {})[name] = entry
            notes.append(f"baseline {name}: {_values(old)} → {_values(entry)}")
        removed = self._not_made(made, outcomes) if self.mode == "update" else {}
        notes += [
            f"baseline {name}: {_values(self.read(path)[name])} → removed"
            for path, names in removed.items()
            for name in names
        ]
        for path in changed.keys() | removed.keys():
            entries = {**self.read(path), **changed.get(path, {})}
            self._files[path] = {name: entry for name, entry in entries.items() if name not in removed.get(path, ())}
            write_entries(path, self._files[path])
        return notes

    def _not_made(self, made: Iterable[Record], outcomes: Mapping[str, str]) -> dict[Path, list[str]]:
        """Return the names of saved checks that their tests did not make though they passed, by file."""
        names = {(self.path(record["test"]), entry_name(record)) for record in made}
        passed = {(self.path(test), test.partition("::")[2]) for test, one in outcomes.items() if one == "passed"}
        found = {
            path: [
                name
                for name in sorted(self.read(path))
                if (path, name) not in names and (path, checked_test(name)) in passed
            ]
            for path in sorted({path for path, _ in passed})
        }
        return {path: left for path, left in found.items() if left}

    def read(self, path: Path) -> dict[str, Record]:
        """Return the checks of a file, which is read once; raises BaselineFileError for a damaged one."""
        if path not in self._files:
            self._files[path] = read_entries(path)
        return self._files[path]


def _is_saved(record: Record) -> bool:
    """Tell whether a check belongs in baselines: it is asserted and not drawn by Hypothesis."""
    return bool(record["asserted"]) and not record["explored"]


def read_policy(config: pytest.Config, marker: pytest.Mark | None) -> Policy:
    """Return how a test's checks are compared with baselines: from the ini file, and from the test's marker.

    Raises pytest.UsageError for an invalid marker.
    """
    tolerances, ratchet = baseline_tolerances(config), config.getini("cp_ratchet")
    if marker is None:
        return Policy(tolerances, ratchet)
    if marker.args or not marker.kwargs.keys() <= {"tolerance", "ratchet"}:
        given = ", ".join([*map(repr, marker.args), *sorted(marker.kwargs)])
        raise pytest.UsageError(f"cp_baseline({given}): takes only the keyword arguments tolerance and ratchet")
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
