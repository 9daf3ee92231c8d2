"""Links from names in the text to what the reference says of them: `compare_predictions` leads to its page."""

from __future__ import annotations

import functools
import html
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DOCS = Path(__file__).resolve().parents[1]
_DESCRIBED = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
# what already leads somewhere, is shown as it is, or is a title
_LEFT_ALONE = r"<(?P<tag>a|pre|h[1-6]|nav)\b.*?</(?P=tag)>"
_PART = re.compile(rf"{_LEFT_ALONE}|</(?:p|li|td|dd)>|<code>(?P<name>\w+(?:\.\w+)*)(?:\(\))?</code>", re.DOTALL)


def on_page_content(content: str, page: Any, **kwargs: Any) -> str:
    """Link the first time that a paragraph, a point or a cell names something that the reference describes."""
    linked: set[str] = set()

    def replace(part: re.Match[str]) -> str:
        if part[0].startswith("</"):
            linked.clear()
        target = _targets().get(part["name"] or "")
        if target is None or target in linked:
            return part[0]
        linked.add(target)
        place, _, anchor = target.partition("#")
        path = os.path.relpath(place, Path(page.url).parent.as_posix())
        own = place == page.url
        return f'<a href="{html.escape("" if own else path)}#{anchor}">{part[0]}</a>'

    return _PART.sub(replace, content)


@functools.cache
def _targets() -> Mapping[str, str]:
    """Return the address of each object, by its full name and by its own name where no other has it."""
    found: dict[str, str] = {}
    short: dict[str, set[str]] = {}
    for path in sorted(_DOCS.joinpath("reference").glob("*.md")):
        for name in _DESCRIBED.findall(path.read_text(encoding="utf-8")):
            found[name] = f"reference/{path.stem}.html#{name}"
            short.setdefault(name.rpartition(".")[2], set()).add(name)
    return found | {name: found[next(iter(full))] for name, full in short.items() if len(full) == 1}
