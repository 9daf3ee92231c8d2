"""Fail closed: a gate that compared nothing, a rerun that got lucky and a session of skips do not pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from cp_compress.base.error_reasons import printable_lines
from pytest_cp.baselines.files import BaselineFileError
from pytest_cp.baselines.leftovers import find_leftovers
from pytest_cp.baselines.session import read_policy
from pytest_cp.checks.recorder import HeldTo, Recorder, decisive_requirement
from pytest_cp.checks.records import REPORT_ATTRIBUTE
from pytest_cp.session import options
from pytest_cp.session.parametrization import is_gate, unused_keys, unused_option
from pytest_cp.session.selection import WORDS_OF_GATES, left_out
from pytest_cp.session.state import session_state

if TYPE_CHECKING:
    from pytest_cp.checks.asked import Asked

_ASKED_FOR = ("--cp-scheme", "--cp-codec", *options.REPORTS, "--cp-baseline", "--cp-spec")
_NOTHING_COMPARED = "every-gate-must-compare"
_NOT_MADE = "every-saved-check-must-be-made"
_BASELINES = "baselines-must-be-readable-and-writable"
_EXPIRED = "no-waiver-may-be-expired"
_UNWRITTEN = "reports-must-be-written"
_NOT_RUN = "every-collected-gate-must-run"
_DESELECTED = "no-gate-may-be-deselected"
_OTHER_MODEL = (
    "compressed_model was never compared: the test asked for it, and its checks are about {compared}; pass it to an "
    "assertion, or, where what was compared was made from it, say so with "
    "cp_compress.model.declare_source(compared, compressed_model)"
)
_OTHER_DATA = (
    "compressed_dataset was never compared: the test asked for it, and its checks read other data; pass it to an "
    "assertion as compressed_dataset="
)
_LISTED = 10
_HARMLESS = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


def held_to(item: pytest.Item) -> HeldTo:
    """Return what applies to the checks of a test in addition to their requirements."""
    state = session_state(item.config)
    policy = read_policy(item.config, item.get_closest_marker("cp_baseline"))
    return HeldTo(
        lambda record: state.baselines.judge(record, policy),
        state.waivers.cover,
        state.waivers.hints,
    )


def refuse_lucky_baselines(session: pytest.Session) -> None:
    """Refuse to write baselines where a marker reruns a test until it passes; raises pytest.UsageError."""
    mode = session.config.getoption("--cp-baseline")
    if mode not in ("new", "update") or not session.config.pluginmanager.hasplugin("rerunfailures"):
        return
    for item in session.items:
        if item.get_closest_marker("flaky") is not None:
            raise pytest.UsageError(f"--cp-baseline={mode}: refused with the marker flaky of {item.nodeid}")


def note_collected_gates(session: pytest.Session) -> None:
    """Remember which gates a session is about to run, and which it leaves out, so that a missing one is reported."""
    state = session_state(session.config)
    state.collected_gates.update(item.nodeid for item in session.items if is_gate(item))
    state.deselected |= left_out(session, state.found_gates)
    state.found_gates = []


def note_leftovers(session: pytest.Session) -> None:
    """Remember the saved baselines that belong to none of the collected tests."""
    state = session_state(session.config)
    collected = state.collected | {item.nodeid for item in session.items}
    state.leftovers = find_leftovers(session, state.baselines, collected, state.unread_modules)


class Attempt:
    """One run of a test: what it recorded, and what its earlier attempts found."""

    def __init__(self, item: pytest.Item, recorder: Recorder) -> None:
        self.item = item
        self.recorder = recorder
        self.is_gate = is_gate(item)
        self.runs = False

    def expect_subjects(self) -> None:
        """Take note of what the test was given, before it runs: its checks must be about that."""
        given = getattr(self.item, "funcargs", {})
        models, data = ([given[name]] if name in given else [] for name in ("compressed_model", "compressed_dataset"))
        if models or data:
            from pytest_cp.checks.asked import Asked

            self.recorder.asked = Asked(models, data)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Say that a phase of the test runs inside, so that what is reported now is a part of it, such as a subtest."""
        self.runs = True
        try:
            yield
        finally:
            self.runs = False

    def take_part(self, report: pytest.TestReport) -> None:
        """Mark the report of a part of the test; its checks stay with the test, which must not hide their failures."""
        self.refuse_skip(report)
        if report.failed or hasattr(report, "wasxfail"):
            self.recorder.tell()
        report.cp_part = True  # type: ignore[attr-defined]

    def note_failure(self, report: pytest.TestReport, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Remember a check that did not pass in a failed attempt, which no rerun in this process can undo."""
        if self.recorder.failed:
            told = report.longrepr if isinstance(report.longrepr, str) else f"{excinfo.typename}: {excinfo.value}"
            first_line = told.partition("\n")[0]
            session_state(self.item.config).failed_attempts.setdefault(self.item.nodeid, first_line)

    def require_comparison(self) -> None:
        """Fail a test that ended well but is a gate without a check, or failed a check when it first ran."""
        earlier = self._found_earlier()
        if earlier is not None:
            pytest.fail(earlier, pytrace=False)
        self.refuse_caught()
        if self.is_gate and self.recorder.comparisons == 0:
            pytest.fail(
                "nothing was compared: the test uses a compressed model or data set but made no check; "
                "call one of pytest_cp's assertions; for a measure of your own, call assert_comparison or "
                "assert_measurement",
                pytrace=False,
            )
        if self.recorder.asked is not None:
            self._require_asked(self.recorder.asked)

    def _require_asked(self, asked: Asked) -> None:
        """Fail a test whose checks are about something else than what it asked its fixtures for."""
        if asked.models_missed:
            compared = ", ".join(dict.fromkeys(asked.compared)) or "data alone"
            pytest.fail(_OTHER_MODEL.format(compared=compared), pytrace=False)
        if asked.data_missed:
            pytest.fail(_OTHER_DATA, pytrace=False)
        if asked.unseen:
            note = f"{self.item.nodeid}: {asked.unseen[0]}, which cannot be seen into, was taken for compressed_model"
            session_state(self.item.config).own_notes.append(note)

    def refuse_caught(self) -> None:
        """Fail a phase of a test that ended well though a check failed in it."""
        caught = self._caught()
        if caught is not None:
            pytest.fail(caught, pytrace=False)

    def refuse_skip(self, report: pytest.TestReport) -> None:
        """Let a phase that was skipped fail where a check failed before, in it or in an earlier attempt.

        A test that calls `pytest.xfail` after a check failed is a known deviation, as one with the marker is.
        """
        if not report.skipped:
            return
        deviation = hasattr(report, "wasxfail")
        told = self._found_earlier() or (None if deviation else self._caught())
        if told is None:
            return
        report.outcome, report.longrepr = "failed", told
        if deviation:
            del report.wasxfail

    def _found_earlier(self) -> str | None:
        earlier = session_state(self.item.config).failed_attempts.get(self.item.nodeid)
        if earlier is None:
            return None
        return f"a rerun does not undo a failed check; an earlier attempt failed with: {earlier}"

    def _caught(self) -> str | None:
        caught = self.recorder.caught
        if caught is None:
            refused = self.recorder.refused
            return None if refused is None else f"a refused check was caught and ignored: {refused}"
        found = decisive_requirement(caught)
        what = caught["error"] if found is None else f"required {found['requirement']}, found {found['value']}"
        remedy = "to get a result that need not pass, call the check_ function of the same name"
        return f"a failed check was caught and ignored: {caught['assertion']}: {what}; {remedy}"


def fail_what_no_test_fails(session: pytest.Session) -> None:
    """Report failed tests of their own for what went wrong in the session and in no test of it."""
    if session.config.option.collectonly:
        state = session_state(session.config)
        state.not_run = dict.fromkeys(state.collected_gates, "did not run: tests were only collected")
        return
    _fail_if_gates_did_not_run(session)
    _fail_if_gates_were_deselected(session)
    _fail_if_nothing_was_compared(session)
    try:
        _fail_if_saved_checks_were_not_made(session)
        _save_baselines(session)
    except (BaselineFileError, OSError) as error:
        _fail_session(session, _BASELINES, str(error))
    _fail_if_waivers_expired(session)
    session_state(session.config).notes += unused_keys(session.config)


def fail_unwritten_reports(session: pytest.Session, unwritten: list[str]) -> None:
    """Report a failed test for reports that could not be written, and note each for those that could."""
    session_state(session.config).notes += unwritten
    _fail_session(session, _UNWRITTEN, "\n".join(unwritten))


def _fail_if_gates_did_not_run(session: pytest.Session) -> None:
    """List the gates that were collected and did not run to their end; a session must not end well without them."""
    state = session_state(session.config)
    missing = sorted(state.collected_gates - state.outcomes.keys())
    reason = session.shouldfail or session.shouldstop or "the session ended early"
    state.not_run = dict.fromkeys(missing, f"did not run: {reason}")
    if missing and session.exitstatus in _HARMLESS:
        _fail_session(session, _NOT_RUN, f"{len(missing)} collected gates did not run: {reason}\n{_first(missing)}")


def _fail_if_gates_were_deselected(session: pytest.Session) -> None:
    """Fail a session in which gates were left out, where the project says so; else the verdict alone says it."""
    deselected = session_state(session.config).deselected
    if deselected and session.config.getini("cp_fail_on_deselected"):
        listed = _first([f"{test}: {reason}" for test, reason in sorted(deselected.items())])
        _fail_session(session, _DESELECTED, f"{len(deselected)} gates were left out of this session:\n{listed}")


def _fail_if_saved_checks_were_not_made(session: pytest.Session) -> None:
    state = session_state(session.config)
    if session.exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR):
        return
    lost = [*state.leftovers, *state.baselines.unmade(state.records, state.outcomes)]
    lost = list(dict.fromkeys(lost))  # a damaged file is read where tests are collected and where they are judged
    if lost:
        remedy = "restore the check, or remove its entry (--cp-baseline=update does so if the test still exists)"
        lines = [f"{lost[0]} ({len(lost)} in all); {remedy}", *lost[1:]]
        _fail_session(session, _NOT_MADE, _first(lines))


def _first(lines: list[str]) -> str:
    """Return the first lines of many, and how many there are in the reports."""
    more = len(lines) - _LISTED
    return "\n".join([*lines[:_LISTED], *([f"… and {more} more, which --cp-report-json lists"] if more > 0 else [])])


def _save_baselines(session: pytest.Session) -> None:
    state = session_state(session.config)
    state.notes += state.baselines.write(state.records, state.outcomes)


def _fail_if_waivers_expired(session: pytest.Session) -> None:
    state = session_state(session.config)
    state.notes += state.waivers.doubts(state.all_gates)
    expired = [row for row in state.waivers.report(()) if row["expired"]]
    if not expired or not state.records:
        return
    texts = [f"{row['metric']} in {row['test']} (owner {row['owner']}) on {row['expires']}" for row in expired]
    _fail_session(session, _EXPIRED, f"renew or remove the waivers that expired: {'; '.join(texts)}")


def _fail_if_nothing_was_compared(session: pytest.Session) -> None:
    config, state = session.config, session_state(session.config)
    asked = bool(state.gate_tests) or any(config.getoption(option) for option in _ASKED_FOR)
    if not asked or session.exitstatus not in _HARMLESS:
        return
    unused = unused_option(config)
    if unused is not None:
        _fail_session(session, _NOTHING_COMPARED, unused)
        return
    compared = any(record["outcome"] != "error" for record in state.records)
    all_skipped = bool(state.gate_tests) and state.gate_tests <= state.skipped.keys()
    if compared and not all_skipped:
        return
    _fail_session(session, _NOTHING_COMPARED, f"nothing was compared in this session: {_what_happened(state.skipped)}")


def _fail_session(session: pytest.Session, name: str, message: str) -> None:
    """Report a failed test without a test function, so that the exit code and every report agree."""
    for when, outcome in (("setup", "passed"), ("call", "failed"), ("teardown", "passed")):
        report = pytest.TestReport(
            nodeid=f"pytest_cp::{name}",
            location=("pytest_cp", None, name),
            keywords={},
            outcome=outcome,  # type: ignore[arg-type]
            longrepr=printable_lines(message) if outcome == "failed" else None,
            when=when,  # type: ignore[arg-type]
        )
        session.config.hook.pytest_runtest_logreport(report=report)
    session.testsfailed += 1
    if session.exitstatus in _HARMLESS:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _what_happened(skipped: dict[str, str]) -> str:
    if not skipped:
        return "no test made a check"
    test, reason = next(iter(skipped.items()))
    return f"{len(skipped)} gate tests were skipped; the first was {test}: {reason}"


def collect_skipped_module(config: pytest.Config, report: pytest.CollectReport) -> None:
    """Count a test module that was skipped while it was imported as a skipped gate when it uses the plugin."""
    path = config.rootpath / report.nodeid
    if not report.skipped or not path.is_file():
        return
    if any(word in path.read_text(encoding="utf-8", errors="replace") for word in WORDS_OF_GATES):
        state = session_state(config)
        state.gate_tests.add(report.nodeid)
        state.skipped[report.nodeid] = _skip_reason(report)


def _skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)


def _xfail_reason(report: pytest.TestReport) -> str:
    """Return why a test is expected to fail, without the words that pytest puts before it."""
    reason = str(report.wasxfail).removeprefix("[NOTRUN] ").removeprefix("reason: ")
    return reason or "no reason given"


def collect_report(config: pytest.Config, report: pytest.TestReport) -> None:
    """Take a test's checks from its report into the session's state, in the process that writes the reports."""
    state = session_state(config)
    if getattr(report, "cp_part", False):
        state.failed_parts.update([report.nodeid] if report.failed else [])
        return
    if report.nodeid in state.failed_parts:
        state.outcomes[report.nodeid] = "failed"
    elif report.when == "call" or report.outcome != "passed":
        state.outcomes[report.nodeid] = report.outcome
    for record in getattr(report, REPORT_ATTRIBUTE, []):
        state.records.append(record)
    state.notes += [note for note in getattr(report, "cp_notes", []) if note not in state.notes]
    state.collected_gates.update(getattr(report, "cp_collected_gates", ()))
    state.deselected |= getattr(report, "cp_deselected", {})
    # if a worker crashed, the report comes from pytest-xdist, which does not know that the test is a gate
    if getattr(report, "cp_gate", False) or report.nodeid in state.collected_gates:
        state.gate_tests.add(report.nodeid)
        if report.skipped and hasattr(report, "wasxfail"):
            if not any(record["test"] == report.nodeid for record in state.records):
                state.skipped[report.nodeid] = f"xfail: {_xfail_reason(report)}"
        elif report.skipped:
            state.skipped[report.nodeid] = _skip_reason(report)
        elif report.failed and not getattr(report, REPORT_ATTRIBUTE, []):
            crash = getattr(report.longrepr, "reprcrash", None)
            text = str(getattr(crash, "message", report.longrepr)).strip().removeprefix("Failed: ")
            state.unchecked[report.nodeid] = next(
                (line.strip() for line in text.splitlines() if line.strip()), "no reason was given"
            )
