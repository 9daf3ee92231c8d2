"""Fail closed: a gate that compared nothing, a rerun that got lucky and a session of skips do not pass."""

from __future__ import annotations

import pytest

from pytest_cp.parametrization import is_gate, unused_option
from pytest_cp.records import REPORT_ATTRIBUTE, Recorder, decisive_requirement
from pytest_cp.state import session_state

_ASKED_FOR = ("--cp-scheme", "--cp-codec", "--cp-report-json", "--cp-baseline")
_WORDS_OF_GATES = ("pytest_cp", "compressed_model", "compressed_dataset")
_VERDICT = "pytest_cp::every-gate-must-compare"


class Attempt:
    """One run of a test: what it recorded, and what its earlier attempts found."""

    def __init__(self, item: pytest.Item, recorder: Recorder) -> None:
        self.item = item
        self.recorder = recorder
        self.is_gate = is_gate(item)

    def note_failure(self, message: str) -> None:
        """Remember a check that did not pass in a failed attempt, which no rerun in this process can undo."""
        if self.recorder.caught is not None:
            first_line = message.partition("\n")[0]
            session_state(self.item.config).failed_attempts.setdefault(self.item.nodeid, first_line)

    def require_comparison(self) -> None:
        """Fail a test that ended well but is a gate without a check, or failed a check when it first ran."""
        earlier = session_state(self.item.config).failed_attempts.get(self.item.nodeid)
        if earlier is not None:
            pytest.fail(f"a rerun does not undo a failed check; an earlier attempt found: {earlier}", pytrace=False)
        caught = self.recorder.caught
        if caught is not None:
            found = decisive_requirement(caught)
            what = caught["error"] if found is None else f"{found['requirement']} found {found['value']}"
            pytest.fail(
                f"a failed check was caught on its way: {caught['assertion']}: {what}; "
                "use the check_ function of the same name to look at a result that need not pass",
                pytrace=False,
            )
        if self.is_gate and self.recorder.comparisons == 0:
            pytest.fail(
                "nothing was compared: the test asks for a compressed model or data set but made no check of it; "
                "use one of pytest_cp's assertions",
                pytrace=False,
            )


def fail_if_nothing_was_compared(session: pytest.Session) -> None:
    """Report a failed test of its own when gates were asked for and the whole session made no check."""
    config, state = session.config, session_state(session.config)
    asked = bool(state.gate_tests) or any(config.getoption(option) for option in _ASKED_FOR)
    harmless = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    if not asked or config.option.collectonly or session.exitstatus not in harmless:
        return
    unused = unused_option(config)
    if unused is not None:
        _fail_session(session, unused)
        return
    compared = any(record["outcome"] != "error" for record in state.records)
    all_skipped = bool(state.gate_tests) and state.gate_tests <= state.skipped.keys()
    if compared and not all_skipped:
        return
    _fail_session(session, f"nothing was compared in this session: {_what_happened(state.skipped)}")


def _fail_session(session: pytest.Session, message: str) -> None:
    """Report a failed test that no function stands for, so that the exit code and every report agree."""
    for when, outcome in (("setup", "passed"), ("call", "failed"), ("teardown", "passed")):
        report = pytest.TestReport(
            nodeid=_VERDICT,
            location=("pytest_cp", None, "every-gate-must-compare"),
            keywords={},
            outcome=outcome,  # type: ignore[arg-type]
            longrepr=message if outcome == "failed" else None,
            when=when,  # type: ignore[arg-type]
        )
        session.config.hook.pytest_runtest_logreport(report=report)
    session.testsfailed += 1
    session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _what_happened(skipped: dict[str, str]) -> str:
    if not skipped:
        return "no test made a check"
    test, reason = next(iter(skipped.items()))
    return f"{len(skipped)} gate tests were skipped, the first {test}: {reason}"


def collect_skipped_module(config: pytest.Config, report: pytest.CollectReport) -> None:
    """Count a test module that was skipped while it was imported as a skipped gate when it uses the plugin."""
    path = config.rootpath / report.nodeid
    if not report.skipped or not path.is_file():
        return
    if any(word in path.read_text(encoding="utf-8", errors="replace") for word in _WORDS_OF_GATES):
        state = session_state(config)
        state.gate_tests.add(report.nodeid)
        state.skipped[report.nodeid] = _skip_reason(report)


def _skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)


def collect_report(config: pytest.Config, report: pytest.TestReport) -> None:
    """Take a test's checks from its report into the session's state, in the process that writes the reports."""
    state = session_state(config)
    for record in getattr(report, REPORT_ATTRIBUTE, []):
        state.records.append({**record, "test_passed": report.passed})
    state.notes += [note for note in getattr(report, "cp_notes", []) if note not in state.notes]
    if getattr(report, "cp_gate", False):
        state.gate_tests.add(report.nodeid)
        if report.skipped and not hasattr(report, "wasxfail"):
            state.skipped[report.nodeid] = _skip_reason(report)
        elif report.failed and not getattr(report, REPORT_ATTRIBUTE, []):
            crash = getattr(report.longrepr, "reprcrash", None)
            first = str(getattr(crash, "message", report.longrepr)).strip().partition("\n")[0]
            state.unchecked[report.nodeid] = first
