"""Reading of untrusted TOML files: an error is one short sentence that names the problem and its line."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from cp_compress.base.error_reasons import reason_of
from cp_compress.base.files import no_such_file, read_regular_text
from pytest_cp.waivers.toml_mistakes import meant

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_BYTES = 4 * 1024 * 1024
_DEEPEST, _MOST_PARTS, _LARGEST = 64, 64, 1 << 63
_DOTTED = re.compile(
    r"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*)"""
    rf"{{{_MOST_PARTS}}}"
)


class TomlError(Exception):
    """A file is not valid TOML; the message names the file and, if known, the line."""


def read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    """Return a file's text and tables; raises TomlError.

    Also refused are values for which TOML lets each reader choose a limit: integers of more than 64 bits, deeply nested
    tables, and dotted keys of very many parts.
    """
    try:
        text = read_regular_text(path, _MAX_BYTES)
    except FileNotFoundError as error:
        raise TomlError(f"{path}: {no_such_file(path)}") from error
    except (OSError, ValueError) as error:
        raise TomlError(f"{path}: cannot be read: {reason_of(error)}") from error
    dotted = _DOTTED.search(text)
    if dotted is not None:
        line = text.count("\n", 0, dotted.start()) + 1
        raise TomlError(f"{path}:{line}: not valid TOML: a dotted key of more than {_MOST_PARTS} parts")
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        told = re.search(r"at line (\d+)", str(error))
        place, advice = meant(text, int(told[1]) if told else None, str(error))
        where = str(path) if place is None else f"{path}:{place}"
        raise TomlError(f"{where}: not valid TOML: {reason_of(error)}{advice and f'; {advice}'}") from error
    trouble = _trouble(tables)
    if trouble is not None:
        raise TomlError(f"{path}: not valid TOML: {trouble}")
    return text, tables


def _trouble(tables: dict[str, Any]) -> str | None:
    """Return what is wrong with values that a reader of TOML let through, or None."""
    waiting: list[tuple[Any, int]] = [(tables, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _DEEPEST:
            return f"tables nested more than {_DEEPEST} deep"
        if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
            return "an integer of more than 64 bits"
        if isinstance(value, (dict, list)):
            waiting += [(part, depth + 1) for part in (value.values() if isinstance(value, dict) else value)]
    return None
