"""What the copy button takes: of a console or an interpreter the commands alone, without prompts and output."""

from __future__ import annotations

import html
import re
from typing import Any

_BLOCK = re.compile(
    r'<div class="(?P<class>[^"]*\bhighlight\b[^"]*)">(?P<body>.*?<code>(?P<code>.*?)</code></pre>)', re.DOTALL
)
_TAG = re.compile(r"<[^>]+>")
_PROMPT = re.compile(r"^(?:\$ |>>> ?|\.\.\. ?)")


def on_page_content(content: str, **kwargs: Any) -> str:
    """Give each block with prompts the text that the theme's copy button takes."""
    return _BLOCK.sub(_with_commands, content)


def _with_commands(block: re.Match[str]) -> str:
    if 'class="gp"' not in block["code"]:
        return block[0]
    commands = "\n".join(commands_of(html.unescape(_TAG.sub("", block["code"]))))
    return f'<div class="{block["class"]}" data-copy="{html.escape(commands)}">{block["body"]}'


def commands_of(text: str) -> list[str]:
    """Return the lines of commands, without their prompts, and those that a backslash continues."""
    found: list[str] = []
    continued = False
    for line in text.splitlines():
        if continued or _PROMPT.match(line):
            found.append(_PROMPT.sub("", line, count=1))
            continued = line.endswith("\\")
    return found
