"""Records: what each check found, as plain JSON, from the assertion to the reports.

A test's records gather in a ContextVar, travel on its test report (plain Python types survive pytest-xdist), and
are read by everything that shows or saves them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from cp_compress.base.outcomes import SEVERITY

if TYPE_CHECKING:
    from cp_compress.fidelity.judgement import Check
    from pytest_cp.baselines import Baselines

Record = dict[str, Any]
REPORT_ATTRIBUTE = "cp_checks"


class Recorder:
    """The checks of one running test.

    `options` are the command-line arguments with which the test runs in the same way again, `baselines` what its
    checks are held to.
    """

    def __init__(self, test: str, options: tuple[str, ...] = (), baselines: Baselines | None = None) -> None:
        self.test = test
        self.options = options
        self.baselines = baselines
        self._records: dict[tuple[str, ...], Record] = {}
        self._worst: dict[tuple[str, ...], Record] = {}

    def add(self, record: Record) -> Record:
        """Keep a check, and of one made many times (by Hypothesis) the last of the worst; return it as given.

        Hypothesis ends with the simplest failure that it found; the run with the least margin is kept in "worst".
        """
        subjects = record["subjects"]
        requirements = ", ".join(entry["requirement"] for entry in record["requirements"])
        key = (record["assertion"], str(sorted(subjects.items())), requirements)
        earlier = self._records.get(key)
        milder = earlier is not None and SEVERITY.index(record["outcome"]) < SEVERITY.index(earlier["outcome"])
        kept = earlier if earlier is not None and milder else record
        kept["runs"] = 1 if earlier is None else earlier["runs"] + 1
        self._records[key] = kept
        worst = self._worst.setdefault(key, record)
        if _margin(record) < _margin(worst):
            self._worst[key] = worst = record
        if kept["runs"] > 1:
            kept["worst"] = _worst_run(worst)
            record["runs"], record["worst"] = kept["runs"], kept["worst"]
        return record

    @property
    def caught(self) -> Record | None:
        """An asserted check that did not pass, or None: in a test that passes, something swallowed its failure."""
        bad = (record for record in self._records.values() if record["asserted"] and record["outcome"] != "pass")
        return next(bad, None)

    def take(self) -> list[Record]:
        """Return the records and forget them."""
        records = list(self._records.values())
        self._records.clear()
        self._worst.clear()
        return records

    @property
    def comparisons(self) -> int:
        """The number of different checks that compared something, whatever they found."""
        return sum(record["outcome"] != "error" for record in self._records.values())


def _margin(record: Record) -> float:
    decisive = decisive_requirement(record)
    margin = decisive["margin"] if decisive is not None else None
    return margin if isinstance(margin, float) else math.inf


def _worst_run(record: Record) -> Record | None:
    """Return what a reader needs of the worst of many runs: the finding and its examples."""
    decisive = decisive_requirement(record)
    if decisive is None:
        return None
    return {"metric": decisive["metric"], "value": decisive["value"], "examples": record["examples"][:3]}


_recorder: ContextVar[Recorder | None] = ContextVar("cp_recorder", default=None)
_asserting: ContextVar[bool] = ContextVar("cp_asserting", default=True)


def current_recorder() -> Recorder | None:
    """Return the recorder of the running test, or None outside of pytest."""
    return _recorder.get()


@contextlib.contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Let checks inside be recorded by `recorder`."""
    token = _recorder.set(recorder)
    try:
        yield
    finally:
        _recorder.reset(token)


@contextlib.contextmanager
def not_asserting() -> Iterator[None]:
    """Mark the checks inside as made for their result: a `check_*` call, which nothing requires to pass."""
    token = _asserting.set(False)
    try:
        yield
    finally:
        _asserting.reset(token)


def record_check(check: Check, assertion: str, subjects: dict[str, Any]) -> Record:
    """Turn a check into a record and hand it to the running test, if there is one."""
    record = _record(assertion, subjects, **check.to_json())
    return _hand_over(record)


def record_error(error: Exception, assertion: str, subjects: dict[str, Any]) -> Record:
    """Record a check that could not be made: its outcome is "error", never "pass"."""
    return _hand_over(_record(assertion, subjects, outcome="error", error=f"{type(error).__name__}: {error}"))


def _record(assertion: str, subjects: dict[str, Any], **parts: Any) -> Record:
    empty: Record = {
        "comparison": None,
        "requirements": [],
        "decisive": None,
        "metrics": {},
        "counts": {},
        "examples": [],
        "details": {},
        "notes": [],
        "origin": None,
        "worst": None,
        "error": None,
        "baseline_problems": [],
    }
    asserted = _asserting.get()
    return {"assertion": assertion, "asserted": asserted, "subjects": subjects, "runs": 1} | empty | parts


def _hand_over(record: Record) -> Record:
    recorder = current_recorder()
    if recorder is None:
        return record
    record["test"] = recorder.test
    if recorder.baselines is not None and record["outcome"] == "pass":
        record["baseline_problems"] = recorder.baselines.problems(record)
        if record["baseline_problems"]:
            record["outcome"] = "fail"
    return recorder.add(record)


def decisive_requirement(record: Record) -> Record | None:
    """Return the judged requirement that decides a record's outcome, or None for a check that errored."""
    return next((entry for entry in record["requirements"] if entry["requirement"] == record["decisive"]), None)
