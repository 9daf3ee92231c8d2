"""Records: what each check found, as plain JSON, from the assertion to the reports.

A test's records gather in a ContextVar, travel on its test report (plain Python types survive pytest-xdist), and
are read by everything that shows or saves them.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cp_compress.base.outcomes import SEVERITY
from pytest_cp.checks.exploring import ends_a_draw, exploring

if TYPE_CHECKING:
    from cp_compress.fidelity.judging.judgement import Check
    from pytest_cp.checks.asked import Asked

Record = dict[str, Any]
REPORT_ATTRIBUTE = "cp_checks"
_RECORDED = "cp_recorded"
OWN_ASSERTIONS = ("assert_comparison", "assert_measurement")
"""The assertions about what users measure themselves."""


@dataclass(frozen=True)
class HeldTo:
    """What applies to the checks of a test in addition to their own requirements.

    `baseline` returns a check's verdict against its baseline, or None; `waivers` returns the waivers that cover its
    failure; `hints` returns why other waivers do not.
    """

    baseline: Callable[[Record], Record | None]
    waivers: Callable[[Record], list[Record]]
    hints: Callable[[Record], list[str]]


class Recorder:
    """The checks of one running test.

    `options` are the command-line arguments with which the test runs in the same way again.
    """

    def __init__(self, test: str, options: tuple[str, ...] = (), held_to: HeldTo | None = None) -> None:
        self.test = test
        self.options = options
        self.held_to = held_to
        self._records: dict[tuple[str, ...], Record] = {}
        self._worst: dict[tuple[str, ...], Record] = {}
        self._set_aside: dict[tuple[str, ...], Record] = {}
        self._told: set[tuple[str, ...]] = set()
        self.refused: str | None = None
        self.asked: Asked | None = None

    def number(self, record: Record) -> int:
        """Return 1 for a check, 2 for the second of its name that is about other subjects or options, and so on.

        A `check_…` call and an assertion about the same subjects share one number.
        """
        name, numbers = _name(record), {_matter(kept): kept["ordinal"] for kept in self._records.values()}
        others = {_matter(kept) for kept in self._records.values() if _name(kept) == name}
        return int(numbers.get(_matter(record), len(others) + 1))

    def add(self, record: Record) -> Record:
        """Keep a check, and of one made many times (by Hypothesis) the last of the worst; return it as given.

        Hypothesis ends with the simplest failure that it found; the run with the least margin is kept in "worst".
        """
        key = _key(record)
        self._told.discard(key)
        earlier = self._records.get(key)
        kept = earlier if earlier is not None and _is_milder(record, earlier) else record
        kept["runs"] = 1 if earlier is None else earlier["runs"] + 1
        self._records[key] = kept
        worst = self._worst.setdefault(key, record)
        if _margin(record) < _margin(worst):
            self._worst[key] = worst = record
        if kept["runs"] > 1:
            kept["worst"] = _worst_run(worst)
            record["runs"], record["worst"] = kept["runs"], kept["worst"]
        return record

    def set_aside(self, record: Record) -> None:
        """Keep a run of a check that showed nothing; it is the check only where no other run shows something."""
        key = _key(record)
        earlier = self._set_aside.setdefault(key, record)
        record["runs"] = earlier["runs"] + (record is not earlier)
        self._set_aside[key] = record

    @property
    def failed(self) -> list[Record]:
        """The asserted checks that did not pass, those first that nothing has told of yet."""
        records = self._set_aside | self._records
        failed = [key for key, record in records.items() if record["asserted"] and not stands(record)]
        return [records[key] for key in sorted(failed, key=self._told.__contains__)]

    @property
    def caught(self) -> Record | None:
        """A failed check of which nothing has told, or None: in a test that passes, something swallowed it."""
        return next((record for record in self.failed if _key(record) not in self._told), None)

    def tell(self) -> None:
        """Count the failures so far as told: a part of the test, such as a subtest, was reported as failed by them."""
        self._told.update(map(_key, self.failed))
        self.refused = None

    def refuse(self, assertion: str, error: Exception) -> None:
        """Keep why an assertion was refused before there was a check."""
        self.refused = self.refused or f"{assertion}: {type(error).__name__}: {error}"

    def take(self) -> list[Record]:
        """Return the records and forget them."""
        for key, aside in self._set_aside.items():
            kept = self._records.setdefault(key, aside)
            kept["notes"] = [*kept["notes"], f"{aside['runs']} runs showed nothing and do not count"]
        records = list(self._records.values())
        for kind in (self._records, self._worst, self._set_aside, self._told):
            kind.clear()
        self.refused = None
        return records

    @property
    def comparisons(self) -> int:
        """The number of different checks that compared something, whatever they found."""
        return sum(record["outcome"] != "error" for record in self._records.values())


def stands(record: Record) -> bool:
    """Tell whether a check passed or is waived, and is no worse than its baseline."""
    return (record["outcome"] == "pass" or bool(record["waivers"])) and not record["baseline_problems"]


def _is_milder(record: Record, earlier: Record) -> bool:
    if stands(record) != stands(earlier):
        return stands(record)
    if record["explored"] and record["asserted"] and not stands(record):
        return False  # the last failure is the one that Hypothesis reports
    return SEVERITY.index(record["outcome"]) < SEVERITY.index(earlier["outcome"])


def _key(record: Record) -> tuple[str, ...]:
    """Return what makes two records runs of one check; a `check_…` call never counts as a run of an assertion."""
    return "asserted" if record["asserted"] else "looked at", *_matter(record)


def _matter(record: Record) -> tuple[str, ...]:
    """Return what a record is about: its assertion, subjects, requirements and options."""
    requirements = ", ".join(entry["requirement"] for entry in record["requirements"])
    subjects = sorted(record["subjects"].items())
    if record["explored"]:  # what Hypothesis draws, data and options too, makes other runs of one check
        return record["assertion"], str([(role, subject["name"]) for role, subject in subjects]), requirements
    # where answers depend on the batch, each batch size is a matter of its own
    size = record["details"].get("batch_dependence", {}).get("batch_size")
    return record["assertion"], str(subjects), requirements, str(record["options"]), str(size)


def _name(record: Record) -> tuple[str, ...]:
    plain = {name: value for name, value in record["options"].items() if not isinstance(value, dict)}
    metrics = sorted(entry["metric"] for entry in record["requirements"])
    return record["assertion"], str(metrics), str(plain)


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
_options: ContextVar[Mapping[str, Any]] = ContextVar("cp_options", default=MappingProxyType({}))


def current_recorder() -> Recorder | None:
    """Return the recorder of the running test, or None outside of pytest."""
    return _recorder.get()


def note_subjects(candidate: Any = None, reference: Any = None, data: tuple[Any, ...] = ()) -> None:
    """Let the running test, if there is one, know what a check is about."""
    recorder = current_recorder()
    if recorder is not None and recorder.asked is not None:
        recorder.asked.see(candidate, reference, data)


@contextlib.contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Let checks inside be recorded by `recorder`."""
    token = _recorder.set(recorder)
    try:
        yield
    finally:
        _recorder.reset(token)


@contextlib.contextmanager
def called_with(options: Mapping[str, Any]) -> Iterator[None]:
    """Let checks inside carry these options of their assertion, as plain JSON."""
    token = _options.set(options)
    try:
        yield
    finally:
        _options.reset(token)


@contextlib.contextmanager
def not_asserting() -> Iterator[None]:
    """Mark the checks inside as made for their result: a `check_*` call, which nothing requires to pass."""
    token = _asserting.set(False)
    try:
        yield
    finally:
        _asserting.reset(token)


@contextlib.contextmanager
def noting_refusals(assertion: str) -> Iterator[None]:
    """Let the running test know of an assertion that is refused before it is a check, whatever the test does then."""
    try:
        yield
    except Exception as error:
        recorder = current_recorder()
        recorded = hasattr(error, _RECORDED) or hasattr(error, "check")
        if recorder is not None and asserting() and not recorded and not ends_a_draw(error):
            recorder.refuse(assertion, error)
        raise


def record_check(check: Check, assertion: str, subjects: dict[str, Any]) -> Record:
    """Turn a check into a record and hand it to the running test, if there is one."""
    return _hand_over(_record(assertion, subjects, **_told(check, assertion)))


def set_aside_check(check: Check, assertion: str, subjects: dict[str, Any]) -> None:
    """Let the running test, if there is one, know of a run that showed nothing."""
    recorder = current_recorder()
    if recorder is not None:
        record = _record(assertion, subjects, **_told(check, assertion), test=recorder.test)
        record["ordinal"] = recorder.number(record)
        recorder.set_aside(record)


def _told(check: Check, assertion: str) -> Record:
    """Return a check as plain JSON; details of a user's own lie apart, since reports read those of this package."""
    told = check.to_json()
    if assertion in OWN_ASSERTIONS:
        told["details"] = {"own": told["details"]} if told["details"] else {}
    return told


def asserting() -> bool:
    """Tell whether checks made here must pass."""
    return _asserting.get()


def record_error(error: Exception, assertion: str, subjects: dict[str, Any]) -> Record:
    """Record a check that could not be made: its outcome is "error", never "pass"."""
    with contextlib.suppress(AttributeError):  # of an exception with slots
        setattr(error, _RECORDED, True)
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
        "evidence": None,
        "baseline": None,
        "baseline_problems": [],
        "waivers": [],
        "waiver_hints": [],
        "ordinal": 1,
    }
    called: Record = {
        "assertion": assertion,
        "asserted": _asserting.get(),
        "explored": exploring(),
        "options": dict(_options.get()),
        "subjects": subjects,
        "runs": 1,
    }
    record = called | _execution() | empty | parts
    cached = [
        f"the {role} was read from the cache: {one['cached']}" for role, one in subjects.items() if "cached" in one
    ]
    covered = subjects.get("candidate", {}).get("coverage", {}).get("notes", [])
    return record | {"notes": [*record["notes"], *covered, *cached]}


def _execution() -> Record:
    from pytest_cp.checks.execution import current_execution

    torch = sys.modules["torch"]
    execution = current_execution()
    device = execution.device or ("cuda" if torch.cuda.is_available() else "cpu")
    name = f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device
    return {"seed": execution.seed, "device": name}


def _hand_over(record: Record) -> Record:
    recorder = current_recorder()
    if recorder is None:
        return record
    record["test"] = recorder.test
    record["ordinal"] = recorder.number(record)
    if recorder.held_to is not None and record["outcome"] != "error":
        _hold(record, recorder.held_to)
    return recorder.add(record)


def _hold(record: Record, held_to: HeldTo) -> None:
    """Compare a check with its baseline, and apply waivers to requirements that do not hold."""
    if record["outcome"] != "pass" and record["asserted"]:
        record["waivers"] = held_to.waivers(record)
        record["waiver_hints"] = [] if record["waivers"] else held_to.hints(record)
    verdict = held_to.baseline(record)
    if verdict is None:
        return
    record["baseline_problems"] = verdict.pop("problems")
    record["baseline"] = verdict
    if record["baseline_problems"] and record["outcome"] == "pass":
        record["outcome"] = "fail"


def decisive_requirement(record: Record) -> Record | None:
    """Return the judged requirement that decides a record's outcome, or None for a check that errored."""
    return next((entry for entry in record["requirements"] if entry["requirement"] == record["decisive"]), None)
