"""The plugin with which `cp-compress gate` distinguishes an interrupted run from one that could not be collected.

pytest ends with exit code 2 for both.
"""

from __future__ import annotations

from typing import Any

import pytest

from cp_compress.base.outcomes import INTERRUPTED


def pytest_configure(config: pytest.Config) -> None:
    """Listen for interruptions, in the process whose exit code counts."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Interruptions(), "cp_compress_interruptions")


class _Interruptions:
    def __init__(self) -> None:
        self.interrupted = False

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[Any]) -> None:
        """Take note of Ctrl-C and of `pytest.exit`; errors of the collection arrive here as another class."""
        self.interrupted = excinfo.type is KeyboardInterrupt or isinstance(excinfo.value, pytest.exit.Exception)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """End with the exit code of an interruption."""
        if session.exitstatus == pytest.ExitCode.INTERRUPTED and (self.interrupted or session.shouldstop):
            session.exitstatus = INTERRUPTED
