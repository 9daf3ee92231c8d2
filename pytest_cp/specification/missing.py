"""What a specification names that is not there: files, and modules of factories, found before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cp_compress.base.files import no_such_file
from pytest_cp.specification.levels import levels
from pytest_cp.specification.lines import find_line
from pytest_cp.specification.reading import FACTORY, Specification, Table
from pytest_cp.specification.source_files import wrong_factory

_FILES = ("file", "metadata", "search", "observation")
_FACTORIES = ("model", "factory", "examples")

Place = tuple[str | int, ...]


def missing_subjects(specification: Specification) -> list[str]:
    """Return a line for each file, module and function that is not there, without which no candidate could be checked.

    What one candidate of several lacks fails that candidate's tests alone.
    """
    folder = specification.path.parent
    told = [*_missing("reference", ("reference",), specification.reference, folder)]
    told += _missing("data", ("data",), specification.data, folder)
    lacking = [
        list(_missing(f"candidate {one['name']}", ("candidate", position), one, folder))
        for position, one in enumerate(specification.candidates)
    ]
    if all(lacking):
        told += [found for part in lacking for found in part]
    for one in specification.requirements:
        told += _missing_of(one.level, one.arguments, folder)
    for reference in specification.noise:
        told += _wrong("noise", ("noise", "references"), "references", reference, folder)
    text = specification.text
    return [f"{specification.path}:{find_line(text, place)}: {line}" for place, line in dict.fromkeys(told)]


def _missing(where: str, place: Place, table: Table, folder: Path) -> Iterator[tuple[Place, str]]:
    for key in _FILES:
        if key in table and not (folder / table[key]).exists():
            yield (*place, key), f'{where}: {key} = "{table[key]}": {no_such_file(folder / table[key])}'
    for key in _FACTORIES:
        if key in table:
            yield from _wrong(where, (*place, key), key, table[key], folder)


def _missing_of(level: str, arguments: Table, folder: Path) -> Iterator[tuple[Place, str]]:
    """Yield the factories of a table of requirements that are not there; those of slices too."""
    for key in (*levels()[level].made, "clusters"):
        yield from _wrong(level, (level, key), key, arguments.get(key), folder)
    for name, value in arguments.get("slices", {}).items():
        yield from _wrong(level, (level, "slices", name), f"slices.{name}", value, folder)


def _wrong(where: str, place: Place, key: str, value: Any, folder: Path) -> Iterator[tuple[Place, str]]:
    if isinstance(value, str) and FACTORY.fullmatch(value):
        told = wrong_factory(value, folder)
        if told is not None:
            yield place, f'{where}: {key} = "{value}": {told}'
