"""The terminal summary: one row per check, worst first."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

from cp_compress.base.error_reasons import printable_line
from pytest_cp.baselines import entry_name
from pytest_cp.checks.messages import number, sensitivities
from pytest_cp.checks.recorder import Record, decisive_requirement
from pytest_cp.report.compressed import changed_cell, compressed_name, coverage_lines
from pytest_cp.report.document import count_outcomes, shown_outcome, worst_first
from pytest_cp.session.short_summary import wrapped

if TYPE_CHECKING:
    import pytest

    from pytest_cp.session.state import SessionState

_MARKUP = {"pass": "green", "fail": "red", "error": "red", "inconclusive": "yellow", "waived": "yellow"}
_HEADINGS = ("outcome", "compressed", "changed", "metric", "value", "bound", "margin", "n", "test")
_LISTED_GATES = 3
_RIGHT = {"value", "margin", "n"}


def write_summary(reporter: pytest.TerminalReporter, state: SessionState) -> None:
    """Write the table of checks, what was not compared, and the notes; nothing when no gate ran."""
    if not state.records and not state.gate_tests and not state.not_run and not state.deselected:
        return
    if reporter.config.option.collectonly:
        return
    reporter.section("preservation under compression", sep="=")

    def say(text: str, **markup: bool) -> None:
        reporter.write_line(printable_line(text), **markup)

    def tell(text: str, **markup: bool) -> None:
        for line in wrapped(printable_line(text), reporter):
            reporter.write_line(line, **markup)

    records = worst_first(state.records)
    rows = [tuple(map(printable_line, _row(record))) for record in records]
    if rows:
        widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
        say(_line(_HEADINGS, widths))
        for record, row in zip(records, rows, strict=True):
            say(_line(row, widths), **{_MARKUP[shown_outcome(record)]: True})
    counts = count_outcomes(state.records)
    say(", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "no checks")
    for line in sensitivities(records):
        tell(line)
    for line in coverage_lines(records):
        tell(f"coverage: {line}", yellow=True)
    _say_missing(tell, state)
    for record in records:
        for note in record["baseline"]["notes"] if record["baseline"] is not None else ():
            tell(f"baseline: {entry_name(record)}: {note}", yellow=True)
    for waiver in state.waivers.report(records):
        tell(_waiver_line(waiver), yellow=True)
    for note in state.notes:
        tell(f"note: {note}", yellow=True)


def _say_missing(say: Callable[..., None], state: SessionState) -> None:
    """Name the gates that compared nothing; of those that were left out or did not run, the first few."""
    left = len(state.not_compared)
    if left:
        say(f"{len(state.all_gates) - left} of {len(state.all_gates)} gates compared something", yellow=True)
    for test, reason in sorted(state.skipped.items()):
        say(f"not compared: {test}: {reason}", yellow=True)
    for test, reason in sorted(state.unchecked.items()):
        say(f"no check made: {test}: {reason}", red=True)
    for found, colour in ((state.not_run, "red"), (state.deselected, "yellow")):
        for reason in dict.fromkeys(found.values()):
            tests = [test for test, one in found.items() if one == reason]
            more = f"; and {len(tests) - _LISTED_GATES} more gates" if len(tests) > _LISTED_GATES else ""
            told = f"{len(tests)} gates, " if len(tests) > 1 else ""
            say(f"not compared: {told}{'; '.join(tests[:_LISTED_GATES])}{more}: {reason}", **{colour: True})


def _waiver_line(waiver: Record) -> str:
    tests = len(waiver["used_by"])
    used = f"used by {tests} test{'s' if tests > 1 else ''}" if tests else "not used in this session"
    until = f"{'EXPIRED' if waiver['expired'] else 'expires'} on {waiver['expires']}"
    who = f"{waiver['owner']}: {waiver['reason']}"
    return f"waiver: {waiver['metric']} in {waiver['test']}, {waiver['at_worst']:g} at worst, {until}, {used} ({who})"


def _row(record: Record) -> tuple[str, ...]:
    decisive = decisive_requirement(record)
    compressed = compressed_name(record)
    changed = changed_cell(record)
    test = _short_test(record)
    if decisive is None:
        return (
            record["outcome"],
            compressed,
            changed,
            textwrap.shorten(str(record["error"]), 60, placeholder="…"),
            "",
            "",
            "",
            "",
            test,
        )
    sign = "≥" if decisive["direction"] == "min" else "≤"
    bound = f"{sign} {number(decisive['bound'])}"
    if decisive["confidence"] is not None:
        bound += f" ({decisive['confidence']:.0%})"
    value, margin = number(decisive["value"]), number(decisive["margin"])
    shown = shown_outcome(record)
    outcome = shown if record["asserted"] else f"{shown} (not asserted)"
    return outcome, compressed, changed, decisive["metric"], value, bound, margin, str(decisive["count"]), test


def _short_test(record: Record) -> str:
    """Return the test's name and parameters, without the scheme and codec that the row already shows."""
    path, _, parameters = record["test"].partition("[")
    name = path.rpartition("::")[2]
    rest = name.removeprefix(f"{compressed_name(record)} ")
    name = name if rest.startswith("+") else rest
    for subject in record["subjects"].values():
        parameters = parameters.replace(subject["name"], "")
    rest = parameters.removesuffix("]").strip("-")
    return f"{name}[{rest}]" if rest else str(name)


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    padded = [
        cell.rjust(width) if heading in _RIGHT else cell.ljust(width)
        for cell, width, heading in zip(cells, widths, _HEADINGS, strict=True)
    ]
    return "  ".join(padded).rstrip()
