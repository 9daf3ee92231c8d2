"""Names for screen readers: the theme names parts of the navigation by labels that hold an icon, and search by none."""

from __future__ import annotations

import html
import re
from typing import Any

_PART = re.compile(
    r'(?P<start><nav class="md-nav"[^>]*) aria-labelledby="__nav_\w+_label"(?P<end>[^>]*>\s*'
    r'<label class="md-nav__title"[^>]*>\s*<span class="md-nav__icon md-icon"></span>(?P<title>.*?)</label>)',
    re.DOTALL,
)
_NESTED = re.compile(r'<nav class="md-nav" aria-label="[^"]*">')
_SEARCH = '<div class="md-search" data-md-component="search" role="dialog"'


def on_post_page(output: str, **kwargs: Any) -> str:
    """Name each part by its title, and the search by what it is; what a table of contents nests is no part."""
    output = _NESTED.sub('<nav class="md-nav" role="none">', output)
    return _PART.sub(_named, output).replace(_SEARCH, f'{_SEARCH} aria-label="Search"')


def on_post_template(output: str, *, template_name: str, **kwargs: Any) -> str:
    """Name the same of the page that a server shows for a missing one, which is made of a template alone."""
    return on_post_page(output) if template_name.endswith(".html") else output


def _named(part: re.Match[str]) -> str:
    title = " ".join(html.unescape(re.sub(r"<[^>]+>", "", part["title"])).split())
    return f'{part["start"]} aria-label="{html.escape(title)}"{part["end"]}'
