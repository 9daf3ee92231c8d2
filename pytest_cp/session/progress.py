"""What a terminal shows while tests run: one line with the running test and the remaining time, and work that lasts."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

import pytest

from cp_compress.base.error_reasons import printable_line
from cp_compress.base.showing.work import LOGGER
from pytest_cp.session import options

# to the line below (which scrolls where there is none) and back, without moving within the line
_MAKE_ROOM, _SAVE, _RESTORE, _DOWN, _CLEAR = "\x1bD\x1bM", "\x1b7", "\x1b8", "\x1bD", "\r\x1b[2K"


class Progress:
    """The line, drawn when a test starts and removed before anything else is written."""

    def __init__(self, config: pytest.Config, stream: TextIO) -> None:
        self._config = config
        self._stream = stream
        self._total = 0
        self._finished = 0
        self._running: dict[str, float] = {}
        self._began: float | None = None
        self._drawn = False

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Learn how many tests there are, in the only process."""
        self._total = max(self._total, len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        """Learn how many tests there are, from the workers."""
        self._total = max(self._total, len(ids))

    @pytest.hookimpl(tryfirst=True, wrapper=True)
    def pytest_runtest_logstart(self, nodeid: str) -> Any:
        """Draw the line when everybody has written."""
        self._erase()
        result = yield
        self._began = self._began or time.monotonic()
        self._running[nodeid] = time.monotonic()
        self._draw()
        return result

    @pytest.hookimpl(tryfirst=True, wrapper=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Any:
        """Remove the line while the report is written."""
        self._erase()
        result = yield
        if report.when == "teardown":
            self._finished += 1
            self._running.pop(report.nodeid, None)
        self._draw()
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Remove the line for good."""
        self._running.clear()
        self._erase()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Remove the line while something is written."""
        self._erase()
        yield
        self._draw()

    def _draw(self) -> None:
        if not self._running or self._drawn:
            return
        width = max(20, self._columns() - 1)
        text = self._text()
        shown = text if len(text) <= width else text[: width - 1] + "…"
        self._write(f"{_MAKE_ROOM}{_SAVE}{_DOWN}{_CLEAR}{shown}{_RESTORE}")
        self._drawn = True

    def _columns(self) -> int:
        """Return the width of the terminal; one that does not know its own counts as COLUMNS says, or as 80."""
        return os.get_terminal_size(self._stream.fileno()).columns or shutil.get_terminal_size().columns

    def _erase(self) -> None:
        if self._drawn:
            self._write(f"{_SAVE}{_DOWN}{_CLEAR}{_RESTORE}")
            self._drawn = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def _text(self) -> str:
        now = printable_line(next(reversed(self._running)).rpartition("::")[2])
        return f"{self._finished} of {self._total} done{self._left()} · now {now}"

    def _left(self) -> str:
        """Say how long the rest takes, if it goes on as it went."""
        if not self._finished or self._began is None:
            return ""
        seconds = (time.monotonic() - self._began) / self._finished * max(0, self._total - self._finished)
        if seconds < 5:
            return ""
        told = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
        return f", about {told} left"


class _WorkLines(logging.Handler):
    """Writes what work lies ahead to the terminal while a test runs, on a line of its own."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(logging.INFO)
        self._config = config

    def emit(self, record: logging.LogRecord) -> None:
        manager = self._config.pluginmanager
        reporter, capture = manager.getplugin("terminalreporter"), manager.getplugin("capturemanager")
        if reporter is None:
            return
        with contextlib.nullcontext() if capture is None else capture.global_and_fixture_disabled():
            drawn = manager.getplugin("pytest_cp_progress")
            with contextlib.nullcontext() if drawn is None else drawn.aside():
                reporter.ensure_newline()
                reporter.write_line(printable_line(record.getMessage()))


def tell_work(config: pytest.Config) -> None:
    """Tell in the terminal what is expected to last, unless output is quiet."""
    if config.option.verbose < 0:
        return
    handler, before = _WorkLines(config), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)

    def stop() -> None:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)

    config.add_cleanup(stop)


def show_progress(config: pytest.Config) -> None:
    """Show the line on a terminal outside of CI, unless output is quiet or not captured."""
    stream = sys.stdout
    watched = stream.isatty() and not options.in_ci() and os.environ.get("TERM", "dumb") != "dumb"
    if watched and config.option.verbose >= 0 and config.option.capture != "no":
        config.pluginmanager.register(Progress(config, stream), "pytest_cp_progress")
