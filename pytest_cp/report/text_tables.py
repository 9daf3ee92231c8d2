"""Tables for a terminal: fitted to its width, with nothing cut within a word."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from cp_compress.base.error_reasons import printable_line
from cp_compress.base.numbers import headroom_text, number
from pytest_cp.report.matrix import Candidate, Cell, Matrix

_GAP = "  "
_HELD = "\u00a0%"  # a space at which no line is broken
Line = tuple[str, str]
"""A line and the outcome that gives its colour, empty for none."""


def matrix_lines(matrix: Matrix, width: int, *, numbered: bool) -> list[Line]:
    """Return a matrix as lines: one row a candidate, in blocks of levels where they do not fit beside each other.

    `numbered` calls candidates by their numbers, whose names and costs stand in a legend below.
    """
    if not numbered:
        rows = _rows(matrix, matrix.levels, named=True)
        if _width(rows) <= width:
            return _aligned(matrix, rows)
    lines: list[Line] = []
    for levels in _blocks(matrix, width):
        lines += _aligned(matrix, _rows(matrix, levels, named=False))
    for candidate in matrix.candidates:
        lines += [(text, "") for text in wrapped(f"{candidate.number} = {_legend(candidate)}", width, "    ")]
    return lines


def reference_line(matrix: Matrix) -> str:
    """Return what the reference of a matrix is and costs; empty where nobody knows."""
    costs = [
        f"{value} {unit}"
        for value, unit in zip(cost_texts(matrix.reference_cost), _units(matrix), strict=True)
        if value
    ]
    known = [part for part in (matrix.reference, ", ".join(costs)) if part]
    return f"{'original' if matrix.stored else 'reference'}: {': '.join(known)}" if known else ""


def cell_text(cell: Cell | None) -> str:
    """Return outcome and headroom of a cell, in parentheses where nothing was asserted; "not compared" for no cell."""
    if cell is None:
        return "not compared"
    text = cell.outcome if cell.headroom is None else f"{cell.outcome} {headroom_text(cell.headroom)}"
    return text if cell.asserted else f"({text})"


def _legend(candidate: Candidate) -> str:
    """Return a candidate's name, what is lacking, its cost that no column tells, and what of its reference changed."""
    _, flops, milliseconds = cost_texts(candidate.cost)
    told = [f"{value} {unit}" for value, unit in ((flops, "FLOPs"), (milliseconds, "ms")) if value]
    told += [f"changed: {candidate.changed}"] if candidate.changed else []
    parts = [part for part in (candidate.lacking, ", ".join(told)) if part]
    return f"{printable_line(candidate.name)}: {'; '.join(parts)}" if parts else printable_line(candidate.name)


def cost_texts(cost: Mapping[str, float]) -> tuple[str, str, str]:
    """Return bytes, FLOPs and milliseconds as texts, empty where unknown."""
    size, flops, seconds = (cost.get(name) for name in ("bytes", "flops", "latency"))
    shown = ["" if value is None else f"{value:,.0f}" for value in (size, flops)]
    return shown[0], shown[1], "" if seconds is None else number(1000 * seconds, digits=3)


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Return a text as lines that are broken between words alone, and not before a percent sign."""
    held = text.replace(" %", _HELD)
    lines = textwrap.wrap(held, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return [line.replace(_HELD, " %") for line in lines] or [text]


def aligned(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Return rows of cells as lines; the columns whose positions are in `right` end below each other."""
    widths, ends = _widths(rows), set(right)
    return [
        _GAP.join(
            cell.rjust(width) if column in ends else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _units(matrix: Matrix) -> tuple[str, str, str]:
    return matrix.size_unit, "FLOPs", "ms"


def _rows(matrix: Matrix, levels: Sequence[str], *, named: bool) -> list[list[str]]:
    """Return head and rows; with names also what candidates cost, in the columns of which something is known."""
    rows = [[matrix.title.lower() if named else "#", *levels]]
    for candidate in matrix.candidates:
        name = printable_line(candidate.name) if named else str(candidate.number)
        rows.append([name, *(cell_text(candidate.cells.get(level)) for level in levels)])
    costs = list(zip(*(cost_texts(candidate.cost) for candidate in matrix.candidates), strict=True))
    columns = [*zip(_units(matrix), costs, strict=True), ("changed", [one.changed for one in matrix.candidates])]
    for unit, values in columns if named else columns[:1]:
        if any(values):
            rows = [[*row, text] for row, text in zip(rows, [unit, *values], strict=True)]
    return rows


def _aligned(matrix: Matrix, rows: list[list[str]]) -> list[Line]:
    units = _units(matrix)
    right = [column for column, head in enumerate(rows[0]) if head in units]
    outcomes = ["", *(candidate.standing for candidate in matrix.candidates)]
    return list(zip(aligned(rows, right), outcomes, strict=True))


def _blocks(matrix: Matrix, width: int) -> list[list[str]]:
    """Return the levels in groups that fit beside each other, at least one in each."""
    blocks: list[list[str]] = [[]]
    for level in matrix.levels:
        if blocks[-1] and _width(_rows(matrix, [*blocks[-1], level], named=False)) > width:
            blocks.append([])
        blocks[-1].append(level)
    return blocks


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _width(rows: Sequence[Sequence[str]]) -> int:
    widths = _widths(rows)
    return sum(widths) + len(_GAP) * (len(widths) - 1)
