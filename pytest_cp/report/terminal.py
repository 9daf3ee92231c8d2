"""The terminal summary: one row per check, worst first, and the candidates by level."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cp_compress.base.error_reasons import printable_line
from cp_compress.base.numbers import headroom_text, number, percent
from pytest_cp.baselines import brief_problem, entry_name
from pytest_cp.checks.messages import found_and_bound, sensitivities
from pytest_cp.checks.recorder import Record, decisive_requirement
from pytest_cp.report.compressed import changed_cell, compressed_name, coverage_lines
from pytest_cp.report.document import count_outcomes, shown_outcome, told_document
from pytest_cp.report.matrix import build_matrices, level_of
from pytest_cp.report.shipping import advise
from pytest_cp.report.text_tables import Line, aligned, matrix_lines, reference_line, wrapped
from pytest_cp.session.short_summary import fitted
from pytest_cp.waivers.waivers import unused

if TYPE_CHECKING:
    import pytest

    from pytest_cp.session.state import SessionState

_MARKUP = {"pass": "green", "fail": "red", "error": "red", "inconclusive": "yellow", "waived": "yellow"}
_STANDINGS = _MARKUP | {"incomplete": "yellow"}
_ADVICE = {"pass": "green", "fail": "red", "noted": "yellow"}
_HEADINGS = ("outcome", "compressed", "changed", "metric", "value", "bound", "headroom", "n", "test")
_LISTED_GATES = 3
_LONGEST_REASON = 240


def write_summary(reporter: pytest.TerminalReporter, state: SessionState, exit_status: int = 0) -> None:
    """Write the table of checks, what was not compared, the notes, and the candidates by level with which may ship.

    Nothing is written when no gate ran.
    """
    if not state.records and not state.gate_tests and not state.not_run and not state.deselected:
        return
    if reporter.config.option.collectonly:
        return
    reporter.section("preservation under compression", sep="=")

    def say(text: str, **markup: bool) -> None:
        reporter.write_line(printable_line(text), **markup)

    def tell(text: str, **markup: bool) -> None:
        for line in fitted(printable_line(text), reporter):
            reporter.write_line(line, **markup)

    document = told_document(state, exit_status)
    records, matrices = document["checks"], build_matrices(document)
    width = reporter._tw.fullwidth
    numbers = {place: one.number for matrix in matrices for one in matrix.candidates for place in one.checks}
    rows = _check_lines(records, numbers, width)
    for text, outcome in rows.lines:
        say(text, **({_MARKUP[outcome]: True} if outcome else {}))
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
        tell(_waiver_line(waiver, records), yellow=True)
    for note in state.notes:
        tell(f"note: {note}", yellow=True)
    for matrix in matrices:
        if not rows.complete or len(matrix.candidates) > 1 or len(matrix.levels) > 1:
            for text, outcome in matrix_lines(matrix, width, numbered=rows.numbered):
                say(text, **({_STANDINGS[outcome]: True} if outcome in _STANDINGS else {}))
            if matrix.reference_cost:
                say(reference_line(matrix))
        advice = advise(matrix, document)
        for text in wrapped(advice.text, width, "  "):
            say(text, bold=True, **{_ADVICE[advice.kind]: True})


class _Rows(NamedTuple):
    """The lines of all checks, whether they call candidates by their numbers, and whether they leave nothing out."""

    lines: list[Line]
    numbered: bool
    complete: bool


def _check_lines(records: list[Record], numbers: dict[int, int], width: int) -> _Rows:
    """Return one row a check in the most columns that fit: what they leave out, the rows of the candidates tell.

    Left out are first what was changed and then the headroom; then candidates are called by their numbers, and at last
    the test has a line of its own, where it says more than the level.
    """
    if not records:
        return _Rows([], False, True)
    rows = [_HEADINGS, *(tuple(map(printable_line, _row(record))) for record in records)]
    unchanged = [(*one[:2], *one[3:]) for one in rows]
    slim = [(*one[:5], *one[6:]) for one in unchanged]
    short = [(one[0], str(numbers.get(place - 1, "")) if place else "#", *one[2:]) for place, one in enumerate(slim)]
    for cells, right in ((rows, (4, 6, 7)), (unchanged, (3, 5, 6)), (slim, (3, 5)), (short, (3, 5))):
        text = aligned(cells, right)
        if max(map(len, text)) <= width:
            return _Rows(_with_reasons([[line] for line in text], records, width), cells is short, cells is rows)
    text = aligned([one[:-1] for one in short], (3, 5))
    own = [one[-1] != level_of(record) for one, record in zip(short[1:], records, strict=True)]
    rows_of = zip(text, short, [any(own), *own], strict=True)
    lines = _with_reasons(
        [[line, f"    {cells[-1]}"] if told else [line] for line, cells, told in rows_of], records, width
    )
    return _Rows(lines, True, False)


def _with_reasons(rows: list[list[str]], records: list[Record], width: int) -> list[Line]:
    """Return the lines of rows, the head first, each with why its check could not be made or misses its baseline."""
    lines: list[Line] = [(line, "") for line in rows[0]]
    for row, record in zip(rows[1:], records, strict=True):
        reason = brief_problem(record) or ("" if decisive_requirement(record) else str(record["error"]))
        told = textwrap.shorten(printable_line(reason), _LONGEST_REASON, placeholder=" …") if reason else ""
        row = [*row, *(wrapped(f"    {told}", width, "    ") if told else [])]
        lines += [(line, shown_outcome(record)) for line in row]
    return lines


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


def _waiver_line(waiver: Record, records: Sequence[Record]) -> str:
    tests = len(waiver["used_by"])
    used = f"used by {tests} test{'s' if tests > 1 else ''}" if tests else unused(waiver, records)
    until = f"{'EXPIRED' if waiver['expired'] else 'expires'} on {waiver['expires']}"
    who = f"{waiver['owner']}: {waiver['reason']}"
    limit = f"{number(waiver['at_worst'], digits=6)} at worst"
    return f"waiver: {waiver['metric']} in {waiver['test']}, {limit}, {until}, {used} ({who})"


def _row(record: Record) -> tuple[str, ...]:
    decisive = decisive_requirement(record)
    compressed, changed = compressed_name(record), changed_cell(record)
    test = _short_test(record)
    shown = shown_outcome(record)
    outcome = shown if record["asserted"] else f"{shown} (not asserted)"
    if decisive is None:
        return outcome, compressed, changed, level_of(record), "", "", "", "", test
    value, bound = found_and_bound(decisive)
    if decisive["confidence"] is not None:
        bound += f" ({percent(decisive['confidence'], digits=0)})"
    headroom = headroom_text(decisive.get("headroom"))
    return outcome, compressed, changed, decisive["metric"], value, bound, headroom, str(decisive["count"]), test


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
