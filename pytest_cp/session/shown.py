"""What pytest shows of a test that failed, with the texts of strangers in it made harmless."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from cp_compress.base.error_reasons import printable_lines

_COLOUR = re.compile(r"(\x1b\[[\d;]*m)")


def make_printable(
    report: pytest.TestReport | pytest.CollectReport, excinfo: pytest.ExceptionInfo[BaseException] | None = None
) -> None:
    """Escape what a terminal or a build server would obey in the text of a failure, its tracebacks included.

    The colours that pytest gives to the differences of a plain `assert` stay.
    """
    clean = _but_for_colours if excinfo is not None and excinfo.type is AssertionError else printable_lines
    shown: Any = report.longrepr
    if isinstance(shown, str):
        report.longrepr = clean(shown)
    elif isinstance(shown, tuple):  # of a skip: path, line and reason
        path, line, reason = shown
        report.longrepr = (path, line, clean(reason))
    elif isinstance(getattr(shown, "longrepr", None), str):  # of a module that could not be collected
        shown.longrepr = clean(shown.longrepr)
    else:
        for traceback, crash, _ in getattr(shown, "chain", ()):
            _clean(traceback, crash, clean)
        _clean(getattr(shown, "reprtraceback", None), getattr(shown, "reprcrash", None), clean)


def shown_text(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return what a failed report says of its reason: the message of the exception, or the text that it consists of."""
    shown: Any = report.longrepr
    crash = getattr(shown, "reprcrash", None)
    if crash is not None:
        return str(crash.message)
    inner = getattr(shown, "longrepr", None)  # of a module that could not be collected
    return inner if isinstance(inner, str) else str(shown)


def _clean(traceback: Any, crash: Any, clean: Callable[[str], str]) -> None:
    if crash is not None:
        crash.message = clean(crash.message)
    for entry in getattr(traceback, "reprentries", ()):
        for part in (entry, getattr(entry, "reprlocals", None)):
            if part is not None and getattr(part, "lines", None):
                part.lines = list(map(clean, part.lines))


def _but_for_colours(text: str) -> str:
    parts = _COLOUR.split(text)  # every second part is a colour
    return "".join(part if place % 2 else printable_lines(part) for place, part in enumerate(parts))
