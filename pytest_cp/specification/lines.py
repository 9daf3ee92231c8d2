"""The line of a value in a TOML text, for error messages."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ONE = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"({_ONE}(?:\s*\.\s*{_ONE})*)"
_HEADER = re.compile(rf"^\s*\[(\[)?\s*{_DOTTED}\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(rf"^\s*{_DOTTED}\s*=")
_LONGEST = 1000
_PART = re.compile(_ONE)


def find_line(text: str, path: Sequence[str | int]) -> int:
    """Return the line, counted from 1, of the value at a path of keys and positions, or of the last part that has one.

    >>> find_line('a = 1\\n[b]\\nc = 2\\n', ["b", "c"])
    3
    >>> find_line('[[b]]\\nc = 1\\n[[b]]\\nd = 2\\n', ["b", 1, "c"])
    3
    """
    places = _places(text)
    wanted = tuple(path)
    while wanted and wanted not in places:
        wanted = wanted[:-1]
    return places.get(wanted, 1)


def _places(text: str) -> dict[tuple[str | int, ...], int]:
    places: dict[tuple[str | int, ...], int] = {}
    counts: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        start = line[:_LONGEST]  # the patterns go back and forth, and a line may have millions of letters
        header, key = _HEADER.match(start), _KEY.match(start)
        if header:
            table = _resolve(_parts(header[2]), counts)
            if header[1]:
                counts[table] = counts.get(table, -1) + 1
                places.setdefault(table, number)
                table = (*table, counts[table])
            places.setdefault(table, number)
        elif key:
            place = table
            for part in _parts(key[1]):
                place = (*place, part)
                places.setdefault(place, number)
    return places


def _resolve(parts: list[str], counts: dict[tuple[str | int, ...], int]) -> tuple[str | int, ...]:
    """Return the path of a header's table: below an array of tables, keys belong to its last one."""
    path: tuple[str | int, ...] = ()
    for position, part in enumerate(parts):
        path = (*path, part)
        if path in counts and position < len(parts) - 1:
            path = (*path, counts[path])
    return path


def _parts(text: str) -> list[str]:
    return [part.strip("\"'") for part in _PART.findall(text)]
