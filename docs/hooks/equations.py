"""Equations as MathML, made when the site is built: the pages need neither scripts nor a network."""

from __future__ import annotations

import html
import re
from typing import Any

import latex2mathml.converter

_EQUATION = re.compile(r'<(span|div) class="arithmatex">(\\\(|\\\[)(.*?)(\\\)|\\\])</\1>([.,;:)]*)', re.DOTALL)


def on_page_content(content: str, **kwargs: Any) -> str:
    """Replace what arithmatex marked by MathML."""
    return _EQUATION.sub(_as_mathml, content)


def _as_mathml(found: re.Match[str]) -> str:
    display = "block" if found[2] == r"\[" else "inline"
    converted: str = latex2mathml.converter.convert(html.unescape(found[3]).strip(), display=display)
    if display == "inline" and found[5]:  # a line does not begin with a full stop
        return f'<span class="equation">{converted}{found[5]}</span>'
    return converted + found[5]
