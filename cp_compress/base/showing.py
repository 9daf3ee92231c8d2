"""How values are shown: numbers, aligned columns, tables for notebooks, and objects in one line whatever they hold."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import Any

from cp_compress.base.error_reasons import printable_line, shortened

_LONGEST_VALUE = 120
_WHOLE = 1000  # above it nobody asks for what is behind the point
_MOST_ENTRIES = 4


def number(value: float | int | None) -> str:
    """Return a number for a person to read: whole ones in groups of three digits, others with four figures.

    Small numbers that are not whole have as many figures as it takes to tell them from the nearest whole one.

    >>> number(1234567), number(0.98765), number(0.99998), number(None)
    ('1,234,567', '0.9877', '0.99998', '')
    """
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    figures = 4
    while abs(value) < _WHOLE and figures < 17 and float(f"{value:.{figures}g}") == round(value) != value:
        figures += 1
    return f"{value:.{figures}g}"


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


def brief(value: Any) -> str:
    """Return what a value is in a few words: of a tensor its shape and dtype, of a long sequence its length.

    >>> brief(list(range(100))), brief(0.5), brief({"a": 1})
    ('<100 int>', '0.5', "{'a': 1}")
    """
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"<{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}>"
    if hasattr(value, "named_parameters"):
        return f"<{type(value).__name__}>"
    if isinstance(value, (list, tuple, Mapping, set, frozenset)):
        parts = list(value.items()) if isinstance(value, Mapping) else list(value)
        plain = len(parts) <= _MOST_ENTRIES and not any(_is_large(part) for part in _flat(parts))
        if not plain or len(repr(value)) > _LONGEST_VALUE:
            kinds = dict.fromkeys(type(part).__name__ for part in value)
            return f"<{len(parts)} {' or '.join(kinds) if 0 < len(kinds) <= 2 else 'entries'}>"
        return repr(value)
    return shortened(repr(value), _LONGEST_VALUE)


def _flat(parts: Sequence[Any]) -> list[Any]:
    return [one for part in parts for one in (part if isinstance(part, (list, tuple)) else (part,))]


def _is_large(value: Any) -> bool:
    return hasattr(value, "shape") or hasattr(value, "named_parameters")


class Brief:
    """The repr of a dataclass that may hold tensors, models or long lists: each field in a few words.

    >>> @dataclasses.dataclass(repr=False)
    ... class Found(Brief):
    ...     values: list[float]
    >>> Found([0.0] * 1000)
    Found(values=<1000 float>)
    """

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        shown = (f"{field.name}={brief(getattr(self, field.name))}" for field in fields if field.repr)
        return f"{type(self).__name__}({', '.join(shown)})"
