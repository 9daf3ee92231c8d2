"""The plugin with which `cp-compress gate` learns how its run of pytest ended.

pytest ends with exit code 2 for an interruption and for tests that could not be collected; and a process that ends by
itself, in the code of a model or of a native library, has any exit code, 0 included.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cp_compress.base.outcomes import COMPLETION_VARIABLE, INTERRUPTED


def pytest_configure(config: pytest.Config) -> None:
    """Listen for interruptions and for the end, in the process whose exit code counts."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Ending(), "cp_compress_ending")


class _Ending:
    def __init__(self) -> None:
        self.interrupted = False
        self.session: pytest.Session | None = None

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[Any]) -> None:
        """Take note of Ctrl-C and of `pytest.exit`; errors of the collection arrive here as another class."""
        self.interrupted = excinfo.type is KeyboardInterrupt or isinstance(excinfo.value, pytest.exit.Exception)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """End with the exit code of an interruption."""
        self.session = session
        if session.exitstatus == pytest.ExitCode.INTERRUPTED and (self.interrupted or session.shouldstop):
            session.exitstatus = INTERRUPTED

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Leave the mark of completion: the exit code that pytest is about to end with."""
        mark = os.environ.get(COMPLETION_VARIABLE)
        if mark and self.session is not None:
            Path(mark).write_text(str(int(self.session.exitstatus)), encoding="utf-8")
