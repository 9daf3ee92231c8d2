"""pytest's short summary of failures, in which metric, value and bound fit the width of the terminal."""

from __future__ import annotations

import contextlib
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_cp.checks.messages import found_and_bound, in_brief
from pytest_cp.checks.recorder import Record, decisive_requirement
from pytest_cp.checks.records import REPORT_ATTRIBUTE
from pytest_cp.session.shown import shown_text

_PREFIX = re.compile(r"^(?:Failed: |(?:\w+\.)+(?=[A-Z]\w*(?:Error|Exception)\b))")
_PRESERVATION = re.compile(r"^\w+(?:NotPreserved|NotReduced|Found|Baseline)Error: ")
_CI_VARIABLES = ("CI", "BUILD_NUMBER")  # with one of them pytest cuts nothing
_BETWEEN = len(" - ")
_LEAST_ROOM = 40
_Report = pytest.TestReport | pytest.CollectReport


class ShortSummary:
    """Gives pytest reasons that fit while it writes its short summary, and adds those that there was no room for."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
        """Exchange what failed reports say, and restore it: other reports read it too."""
        kept: list[tuple[_Report, Any]] = []
        cut: list[tuple[str, str]] = []
        for kind in ("failed", "error"):
            for report in terminalreporter.stats.get(kind, ()):
                if _is_of_a_gate(report):
                    reason, fits = _fitting(report, kind, terminalreporter)
                    kept.append((report, report.longrepr))
                    cut += [] if fits else [(report.nodeid, reason)]
                    report.longrepr = _Told(report.longrepr, reason if fits else None)
        try:
            result = yield
        finally:
            for report, shown in kept:
                report.longrepr = shown
        if cut and any(letter in terminalreporter.reportchars for letter in "fE"):
            for test, reason in cut:
                name = test.rpartition("::")[2] or test
                for line in fitted(f"{name}: {reason}", terminalreporter):
                    terminalreporter.write_line(line, red=True)
        return result


def _is_of_a_gate(report: Any) -> bool:
    """Tell whether a report is of a test that compares, of the session itself, or of what could not be collected."""
    if isinstance(report, pytest.CollectReport):
        return True
    own = isinstance(report, pytest.TestReport) and report.nodeid.startswith("pytest_cp::")
    return own or getattr(report, "cp_gate", False) or bool(getattr(report, REPORT_ATTRIBUTE, ()))


class _Told:
    """What a report shows of a failure, with another text for the short summary, or none where it has no room."""

    def __init__(self, shown: Any, reason: str | None) -> None:
        self._shown = shown
        if reason is not None:
            self.reprcrash = _Crash(reason)

    def __getattr__(self, name: str) -> Any:
        if name == "reprcrash":
            raise AttributeError(name)
        return getattr(self._shown, name)

    def __str__(self) -> str:
        return str(self._shown)

    def toterminal(self, writer: Any) -> None:
        """Write what is shown of the failure itself."""
        if hasattr(self._shown, "toterminal"):
            self._shown.toterminal(writer)
        else:
            writer.line(str(self._shown))


class _Crash:
    def __init__(self, message: str) -> None:
        self.message = message


def _fitting(report: _Report, kind: str, reporter: pytest.TerminalReporter) -> tuple[str, bool]:
    """Return the longest reason that fits beside the name of a test, and whether one fits."""
    root = f"{reporter.config.rootpath}{os.sep}"
    reasons = [reason.replace(root, "") for reason in _reasons(report)]
    if any(os.environ.get(name) for name in _CI_VARIABLES):
        return reasons[0], True
    width = reporter.config.get_terminal_writer().fullwidth
    word = "FAILED" if kind == "failed" else "ERROR"
    room = width - len(f"{word} {_shown_name(report, reporter.config)}") - _BETWEEN
    fit = next((reason for reason in reasons if len(reason) <= room), None)
    if fit is not None:
        return fit, True
    if len(reasons) == 1 and room >= _LEAST_ROOM:  # a sentence: its beginning says something
        return textwrap.shorten(reasons[0], room, placeholder=" …"), True
    return reasons[min(1, len(reasons) - 1)], False


def _shown_name(report: _Report, config: pytest.Config) -> str:
    """Return the name of a test as pytest writes it, with its path from where pytest was called."""
    path, separator, rest = report.nodeid.partition("::")
    if path and config.invocation_params.dir != config.rootpath:
        with contextlib.suppress(ValueError):  # on another drive
            path = Path(os.path.relpath(config.rootpath / path, config.invocation_params.dir)).as_posix()
    return f"{path}{separator}{rest}"


def _reasons(report: _Report) -> Iterator[str]:
    """Yield why a report failed, from the longest text to the shortest."""
    text = _PREFIX.sub("", shown_text(report).strip()).partition("\n")[0].strip() or "no reason was given"
    told = _PRESERVATION.sub("", text)
    yield told
    record = next((one for one in getattr(report, REPORT_ATTRIBUTE, []) if one["outcome"] != "pass"), None)
    decisive = None if record is None else decisive_requirement(record)
    if record is None or decisive is None or not told.startswith(f"{decisive['metric']} = "):
        return
    if decisive["outcome"] == "error":  # a metric without a value
        yield f"{decisive['metric']} has no value: nothing was compared"
        return
    if not record["baseline_problems"]:
        yield in_brief(decisive)
    yield _in_signs(decisive)


def _in_signs(entry: Record) -> str:
    value, bound = found_and_bound(entry)
    signs = ("≥", "<") if entry["direction"] == "min" else ("≤", ">")
    undecided = " (inconclusive)" if entry["outcome"] == "inconclusive" else ""
    sign = signs[1] if entry["outcome"] == "fail" else signs[0]
    return f"{entry['metric']} {value} {sign} {bound.partition(' ')[2]}{undecided}"


def fitted(text: str, reporter: pytest.TerminalReporter) -> list[str]:
    """Return a text in lines that a terminal need not cut; as it is where no terminal shows it."""
    if not (reporter.isatty or os.environ.get("COLUMNS")):
        return [text]
    width = reporter.config.get_terminal_writer().fullwidth
    settings: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, width, subsequent_indent="    ", **settings) or [""]
