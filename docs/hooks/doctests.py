"""Docstrings as Markdown: examples become fenced blocks, and shapes such as (n, *input) keep their stars."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> [^\n]*\n?(?:^(?!$)[^\n]*\n?)*|^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_LIST = re.compile(r"(?<=[^\n])\n(?=- |1\. )")
_STAR = re.compile(r"(?<=[(, ])\*(?=[a-z]+[,) ])")


class Doctests(griffe.Extension):
    """Prepares every docstring for Markdown."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object where it has one."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """Return a docstring in which Markdown shows what is written."""
    parts, end = [], 0
    for found in _EXAMPLE.finditer(text):
        example = f"\n```pycon\n{found[0].rstrip()}\n```\n" if found[0].startswith(">>>") else found[0]
        parts += [_prose(text[end : found.start()]), example]
        end = found.end()
    return "".join([*parts, _prose(text[end:])])


def _prose(text: str) -> str:
    # Markdown takes a list for one only after an empty line
    listed = _LIST.sub("\n\n", text, count=1)
    return _STAR.sub(r"\\*", listed)
