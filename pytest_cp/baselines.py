"""Baselines: checks saved from an earlier run, that later runs may not fall behind.

One JSON file a test module holds, for each check, the required metrics' values and what they were measured on.
Comparison happens inside the assertion, so that a regression, a missing entry and an entry of other subjects are
failed tests; files are written by the controlling process alone, from checks of tests that passed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from cp_compress.base.files import write_atomically
from pytest_cp import options
from pytest_cp.records import Record

SCHEMA_VERSION = 1
_UPDATE = "accept it with --cp-baseline=update"


class Baselines:
    """The baselines of a session: where they lie, and what `--cp-baseline` asks to do with them."""

    def __init__(self, config: pytest.Config) -> None:
        self.mode: str | None = config.getoption("--cp-baseline")
        self._root = config.rootpath
        self._folder: str = config.getini("cp_baseline_dir")
        self._tolerance = options.baseline_tolerance(config)
        self._files: dict[Path, dict[str, Any]] = {}

    def path(self, test: str) -> Path:
        """Return the file that holds the baselines of a test's module."""
        module = self._root / test.partition("::")[0]
        return module.parent / self._folder / f"{module.stem}.json"

    def problems(self, record: Record) -> list[str]:
        """Return why a check does not stand up to its baseline; empty when it does, or none is asked for."""
        if self.mode != "check" or not record["asserted"] or _exploring():
            return []
        path = self.path(record["test"])
        entry = self._read(path).get(entry_name(record))
        if entry is None:
            return [f"no baseline in {path} for {entry_name(record)}; add it with --cp-baseline=new"]
        stale = _changed_subjects(entry, record)
        if stale:
            return [f"the baseline was measured on other {stale}; {_UPDATE}"]
        return [text for result in record["requirements"] for text in self._regression(entry, result)]

    def _regression(self, entry: Record, result: Record) -> list[str]:
        metric, value = result["metric"], result["value"]
        if metric not in entry["metrics"]:
            return [f"the baseline has no {metric}; {_UPDATE}"]
        saved = entry["metrics"][metric]
        worse = float(saved) - float(value) if result["direction"] == "min" else float(value) - float(saved)
        if worse <= self._tolerance:
            return []
        return [f"{metric} = {value:.6g} is worse than its baseline {saved:.6g} by more than {self._tolerance:g}"]

    def write(self, records: Iterable[Record]) -> list[str]:
        """Save the asserted checks of passed tests as `--cp-baseline` asks, and return a sentence a change."""
        notes: list[str] = []
        if self.mode not in ("new", "update"):
            return notes
        changed: dict[Path, dict[str, Any]] = {}
        for record in records:
            if not (record["asserted"] and record["test_passed"] and record["runs"] == 1):
                continue
            path, name, entry = self.path(record["test"]), entry_name(record), _entry(record)
            old = self._read(path).get(name)
            if old == entry or (old is not None and self.mode == "new"):
                continue
            changed.setdefault(path, {})[name] = entry
            before = "new" if old is None else f"{old['metrics']} →"
            notes.append(f"baseline {name}: {before} {entry['metrics']}")
        for path, entries in changed.items():
            content = {"schema_version": SCHEMA_VERSION, "checks": {**self._read(path), **entries}}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
        return notes

    def _read(self, path: Path) -> dict[str, Any]:
        if path not in self._files:
            self._files[path] = _read_checks(path)
        return self._files[path]


def entry_name(record: Record) -> str:
    """Return the name of a check within its module: test, assertion and required metrics."""
    test = record["test"].partition("::")[2]
    metrics = ", ".join(sorted(result["metric"] for result in record["requirements"]))
    return f"{test} {record['assertion']}({metrics})"


def _entry(record: Record) -> Record:
    return {
        "metrics": {result["metric"]: result["value"] for result in record["requirements"]},
        "counts": {result["metric"]: result["count"] for result in record["requirements"]},
        "subjects": _fixed_subjects(record),
    }


def _fixed_subjects(record: Record) -> dict[str, Any]:
    """Return what a baseline is bound to: the reference and the data by content, the candidate by its scheme."""
    subjects = record["subjects"]
    fixed = {name: subjects[name]["digest"] for name in ("reference", "data", "original") if name in subjects}
    named = ("candidate", "compressed_data", "decoded")
    return fixed | {name: subjects[name]["name"] for name in named if name in subjects}


def _changed_subjects(entry: Record, record: Record) -> str:
    now, then = _fixed_subjects(record), entry["subjects"]
    return " and ".join(sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name)))


def _read_checks(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, checks = content["schema_version"], content["checks"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        pytest.fail(f"baseline {path} cannot be read: {type(error).__name__}: {error}", pytrace=False)
    if version != SCHEMA_VERSION or not isinstance(checks, dict):
        pytest.fail(f"baseline {path} has schema version {version!r}; read is {SCHEMA_VERSION}", pytrace=False)
    return checks


def _exploring() -> bool:
    """Tell whether Hypothesis is drawing inputs, whose metrics are no fixed value to hold on to."""
    hypothesis = sys.modules.get("hypothesis")
    return hypothesis is not None and bool(hypothesis.currently_in_test_context())
