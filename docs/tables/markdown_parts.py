"""Parts of Markdown: tables, lists of code, and links to what the reference describes."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1]
_DESCRIBED = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
_CODE = re.compile(
    r"`[^`]*`"
    r"|\bpytest --\S.*$"
    r"|\{[^{}]*\}"
    r'|"[^"]{2,}"'
    r"|(?<![\w-])--[a-z][a-z-]+"
    r"|\b\w+\([^()]*\)"
    r"|\b[a-z]+(?:_[a-z]+)+(?:\.\w+)*\b"
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a pipe in a cell has the backslash that GitHub needs, see docs/hooks/table_cells.py."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in line) + " |" for line in lines
    )


def listed(names: Iterable[str]) -> str:
    """Return names as code, separated by commas."""
    return ", ".join(f"`{name}`" for name in names) or "–"


def with_code(text: str) -> str:
    """Return plain text, such as the help of an option, with names, calls and quoted text marked as code."""
    return _CODE.sub(lambda found: found[0] if found[0].startswith("`") else f"`{found[0]}`", text)


def capitalised(text: str) -> str:
    """Return a text that begins with a capital letter."""
    return text[:1].upper() + text[1:]


def first_sentence(described: Any) -> str:
    """Return the first sentence of a docstring."""
    paragraph = " ".join((inspect.getdoc(described) or "").partition("\n\n")[0].split())
    return re.split(r"(?<=\.)\s(?=[A-Z])", paragraph)[0]


@functools.cache
def pages_of_objects() -> Mapping[str, str]:
    """Return the page of each object that the reference describes, in the order of the pages."""
    pages = sorted(DOCS.joinpath("reference").glob("*.md"))
    return {name: f"reference/{page.name}" for page in pages for name in _DESCRIBED.findall(page.read_text("utf-8"))}


def link(target: str, shown: str | None = None) -> str:
    """Return a link to an object of the reference, which `relative_links` completes."""
    return f"[`{shown or target.rpartition('.')[2]}`](<{target}>)"


def relative_links(text: str, page: Path) -> str:
    """Return the text with its links to objects written as a page needs them."""

    def complete(found: re.Match[str]) -> str:
        path = os.path.relpath(DOCS / pages_of_objects()[found[1]], page.parent)
        return f"]({'' if path == page.name else Path(path).as_posix()}#{found[1]})"

    return re.sub(r"\]\(<([^>]+)>\)", complete, text)
