"""References to modules that are not there yet are left out, so that a page can be written before its module."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_REFERENCE = re.compile(r"^::: ([\w.]+)\n((?: {4}.*\n)*)", re.MULTILINE)
_PLANNED = {"pytest_cp.hookspecs"}


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Replace the reference of a planned module by a sentence while its file is missing."""
    return _REFERENCE.sub(_present_or_said, markdown)


def _present_or_said(found: re.Match[str]) -> str:
    name = found[1]
    if name in _PLANNED and not Path(*name.split(".")).with_suffix(".py").exists():
        return f"This version has no `{name}`.\n"
    return found[0]
