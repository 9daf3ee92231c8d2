"""Numbers, aligned columns, and tables of HTML for notebooks."""

from __future__ import annotations

import html
from collections.abc import Sequence

from cp_compress.base import numbers
from cp_compress.base.error_reasons import printable_line


def number(value: float | int | None, *others: float | None) -> str:
    """Return a number for a person to read: whole ones in groups of three digits, others with four figures.

    More figures where it would look like one of `others`, or like 1, and is not.

    >>> number(1234567), number(0.98765), number(0.99998), number(None)
    ('1,234,567', '0.9877', '0.99998', '')
    """
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else numbers.number(value, *others, digits=4)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns, each in one printable line; the first row is the head.

    >>> print(table([("metric", "value"), ("agreement", "0.99")]))
    metric     value
    agreement  0.99
    """
    shown = [list(map(printable_line, row)) for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in shown)
    return "\n".join(map(str.rstrip, lines))


def html_table(rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """Return rows as a table of HTML, in which every text is escaped; the first row is the head.

    >>> html_table([("found",), ("< 1",)])
    '<table><thead><tr><th>found</th></tr></thead><tbody><tr><td>&lt; 1</td></tr></tbody></table>'
    """

    def row(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escaped(cell)}</{tag}>' for cell in cells)}</tr>"

    title = f"<caption>{escaped(caption)}</caption>" if caption else ""
    body = "".join(row(cells, "td") for cells in rows[1:])
    return f"<table>{title}<thead>{row(rows[0], 'th')}</thead><tbody>{body}</tbody></table>"


def escaped(text: object) -> str:
    """Return a text as HTML shows it, in one line, whatever is in it."""
    return html.escape(printable_line(text))
