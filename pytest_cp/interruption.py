"""The plugin with which `cp-compress gate` learns how its run of pytest ended.

pytest ends with exit code 2 for an interruption and for tests that could not be collected; and a process that ends by
itself, in the code of a model or of a native library, has any exit code, 0 included.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cp_compress.base.outcomes import COMPLETION_VARIABLE, INTERRUPTED, NOTHING_JUDGED
from pytest_cp.checks.records import REPORT_ATTRIBUTE


def pytest_configure(config: pytest.Config) -> None:
    """Listen for interruptions and for the end, in the process whose exit code counts."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Ending(), "cp_compress_ending")


class _Ending:
    def __init__(self) -> None:
        self.interrupted = False
        self.session: pytest.Session | None = None
        self.judged = self.not_made = self.not_collected = self.subjects_missing = False

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[Any]) -> None:
        """Take note of Ctrl-C and of `pytest.exit`; errors of the collection arrive here as another class."""
        self.interrupted = excinfo.type is KeyboardInterrupt or isinstance(excinfo.value, pytest.exit.Exception)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of what failed: what the candidates do, or a check that could not be made."""
        if not report.failed:
            return
        outcomes = {record["outcome"] for record in getattr(report, REPORT_ATTRIBUTE, [])}
        self.judged |= bool(outcomes & {"fail", "inconclusive"})
        self.not_made |= not outcomes & {"fail", "inconclusive"}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Take note of a specification that could not be collected, and of why."""
        self.not_collected |= report.failed
        self.subjects_missing |= getattr(report, "cp_missing_subjects", False)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """End with the exit code of an interruption."""
        self.session = session
        if session.exitstatus == pytest.ExitCode.INTERRUPTED and (self.interrupted or session.shouldstop):
            session.exitstatus = INTERRUPTED
        elif session.exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.TESTS_FAILED) and not self.judged:
            session.exitstatus = self._why_nothing_was_judged(session.exitstatus)

    def _why_nothing_was_judged(self, code: int) -> int:
        """Return the exit code of a run without a verdict; of a failed collection pytest-xdist makes failed tests."""
        if self.subjects_missing or (self.not_made and not self.not_collected):
            return NOTHING_JUDGED
        return pytest.ExitCode.INTERRUPTED if self.not_collected else code

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Leave the mark of completion: the exit code that pytest is about to end with."""
        mark = os.environ.get(COMPLETION_VARIABLE)
        if mark and self.session is not None:
            Path(mark).write_text(str(int(self.session.exitstatus)), encoding="utf-8")
