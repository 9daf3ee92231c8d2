"""The reason for a failure in one printable line; the text of a library or an untrusted file may be part of it."""

from __future__ import annotations

import os
import re
from typing import Any

_LONGEST_REASON = 300
_INTERNAL = re.compile(r" ?<[\w.]+ (?:object|name)[^>]*>|\b\w+Error: ")
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "unable to allocate")


def shortened(value: Any, longest: int = 500) -> str:
    """Return a text in one printable line of at most `longest` characters: what is in it may be a stranger's.

    >>> shortened("two\\nlines, and a \\x1b[2J", 12)
    'two lines, a…'
    """
    text = " ".join(str(value)[: 10 * longest].split())
    text = "".join(character if character.isprintable() else "�" for character in text)
    return text if len(text) <= longest else f"{text[:longest]}…"


def reason_of(error: BaseException) -> str:
    """Return the first sentence of what an exception says, without its class, its stack and its library's advice.

    >>> reason_of(EOFError()), reason_of(KeyError("bias")), reason_of(ValueError("no such form\\n  at line 3"))
    ('it ends early', "it has no 'bias'", 'no such form at line 3')
    """
    first = error.args[0] if error.args else None
    text = first.decode("utf-8", "replace") if isinstance(first, bytes) else str(error)
    if isinstance(error, MemoryError) or any(words in text.lower() for words in _NO_MEMORY):
        return "it needs more memory than is available"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, EOFError):
        return "it ends early"
    if isinstance(error, KeyError) and error.args:
        return f"it has no {shortened(repr(error.args[0]), 80)}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    for advice in ("Exception raised from", "; use sys."):
        text = text.partition(advice)[0]
    text = shortened(_INTERNAL.sub("", text), 5 * _LONGEST_REASON)
    return shortened(text.partition(". ")[0].rstrip("."), _LONGEST_REASON) or type(error).__name__
