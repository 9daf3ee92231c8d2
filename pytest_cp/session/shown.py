"""What pytest shows of a test that failed, with the texts of strangers in it made harmless."""

from __future__ import annotations

from typing import Any

import pytest

from cp_compress.base.error_reasons import printable_lines


def make_printable(
    report: pytest.TestReport | pytest.CollectReport, excinfo: pytest.ExceptionInfo[BaseException] | None = None
) -> None:
    """Escape what a terminal or a build server would obey in the text of a failure; its tracebacks stay as they are.

    The text of a plain `assert` is pytest's own, which has escaped the values in it and may have coloured them.
    """
    if excinfo is not None and excinfo.type is AssertionError:
        return
    shown: Any = report.longrepr
    if isinstance(shown, str):
        report.longrepr = printable_lines(shown)
    elif isinstance(shown, tuple):  # of a skip: path, line and reason
        path, line, reason = shown
        report.longrepr = (path, line, printable_lines(reason))
    elif isinstance(getattr(shown, "longrepr", None), str):  # of a module that could not be collected
        shown.longrepr = printable_lines(shown.longrepr)
    else:
        for traceback, crash, _ in getattr(shown, "chain", ()):
            _clean(traceback, crash)
        _clean(getattr(shown, "reprtraceback", None), getattr(shown, "reprcrash", None))


def _clean(traceback: Any, crash: Any) -> None:
    if crash is not None:
        crash.message = printable_lines(crash.message)
    for entry in getattr(traceback, "reprentries", ()):
        for part in (entry, getattr(entry, "reprlocals", None)):
            if getattr(part, "lines", None):
                part.lines = list(map(printable_lines, part.lines))
