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
from pytest_cp.specification.collecting import MISSING_SUBJECTS


def pytest_configure(config: pytest.Config) -> None:
    """Listen for interruptions and for the end, in the process whose exit code counts."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Ending(config), "cp_compress_ending")


class _Ending:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.interrupted = False
        self.session: pytest.Session | None = None
        self.judged = self.not_made = False

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

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """End with the exit code of an interruption."""
        self.session = session
        if session.exitstatus == pytest.ExitCode.INTERRUPTED and (self.interrupted or session.shouldstop):
            session.exitstatus = INTERRUPTED
        elif self._nothing_judged(session.exitstatus):
            session.exitstatus = NOTHING_JUDGED

    def _nothing_judged(self, code: int) -> bool:
        if code == pytest.ExitCode.INTERRUPTED:  # by errors of the collection
            return self._config.stash.get(MISSING_SUBJECTS, False)
        return code == pytest.ExitCode.TESTS_FAILED and self.not_made and not self.judged

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Leave the mark of completion: the exit code that pytest is about to end with."""
        mark = os.environ.get(COMPLETION_VARIABLE)
        if mark and self.session is not None:
            Path(mark).write_text(str(int(self.session.exitstatus)), encoding="utf-8")
