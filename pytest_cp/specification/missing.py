"""What a specification names that is not there: files, and modules of factories, found before anything is loaded."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from cp_compress.base.files import no_such_file
from pytest_cp.specification.reading import FACTORY, Specification, Table

_FILES = ("file", "metadata", "search")
_FACTORIES = ("model", "factory", "examples")


def missing_subjects(specification: Specification) -> list[str]:
    """Return a line for each file and module that is not there, and without which no candidate could be checked.

    What one candidate of several lacks fails that candidate's tests alone.
    """
    folder = specification.path.parent
    told = [*_missing("reference", specification.reference, folder), *_missing("data", specification.data, folder)]
    lacking = [list(_missing(f"candidate {one['name']}", one, folder)) for one in specification.candidates]
    if all(lacking):
        told += [line for lines in lacking for line in lines]
    return [f"{specification.path}: {line}" for line in dict.fromkeys(told)]


def _missing(where: str, table: Table, folder: Path) -> Iterator[str]:
    for key in _FILES:
        if key in table and not (folder / table[key]).exists():
            yield f'{where}: {key} = "{table[key]}": {no_such_file(folder / table[key])}'
    for key in _FACTORIES:
        module = table[key].partition(":")[0] if key in table and FACTORY.fullmatch(table[key]) else ""
        if module and not _is_there(module.partition(".")[0], folder):
            rule = f"no module is called {module.partition('.')[0]}, in this folder or on the path of Python"
            yield f'{where}: {key} = "{table[key]}": {rule}'


def _is_there(module: str, folder: Path) -> bool:
    """Tell whether a module can be found, without importing it."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        return module in sys.modules or importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # it says itself that it cannot be found in the usual way
        return True
    finally:
        sys.path[:] = before
