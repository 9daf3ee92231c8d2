"""Records: what each check found, as plain JSON, from the assertion to the reports.

A test's records gather in a ContextVar, travel on its test report (plain Python types survive pytest-xdist), and
are read by everything that shows or saves them.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_cp.checks.exploring import ends_a_draw, exploring
from pytest_cp.checks.recorder import HeldTo, Record, Recorder

if TYPE_CHECKING:
    from cp_compress.fidelity.judging.judgement import Check

REPORT_ATTRIBUTE = "cp_checks"
_RECORDED = "cp_recorded"
OWN_ASSERTIONS = ("assert_comparison", "assert_measurement")
"""The assertions about what users measure themselves."""


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
