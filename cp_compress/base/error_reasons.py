"""Texts of strangers as they may be printed, and the reason for a failure in one such line.

Names and texts of a library or an untrusted file reach terminals and the logs of build servers, which obey control
characters, escape sequences and lines such as `::error`. They are made harmless where they are printed: data stay.
"""

from __future__ import annotations

import os
import re
import unicodedata
from typing import Any

_LONGEST_REASON = 300
_INTERNAL = re.compile(r" ?<[\w.]+ (?:object|name)[^>]*>|\b\w+Error: ")
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "unable to allocate")
_JOINERS = "\u200c\u200d"  # they belong to the spelling of Persian, of Indian languages and of emoji
# build servers obey a line that begins with ::, and anywhere in a line ##[error], ##vso[…] and ##teamcity[…]
_FIRST = re.compile(r"^(\s*)(?=::)")
_ANYWHERE = re.compile(r"##(?=\w*\[)")


def printable_line(value: Any) -> str:
    """Return a text in one line that shows what it holds: what a terminal or a build server would obey is escaped.

    Text that can be printed, in whatever language, stays as it is; so does what this function has returned.

    >>> printable_line("two\\nlines, \\x1b[2J and ##[error]"), printable_line("::error file=a.py::b")
    ('two\\\\nlines, \\\\x1b[2J and ##\\\\[error]', '\\\\::error file=a.py::b')
    """
    text = str(value)
    if not text.isprintable():
        text = "".join(one if _is_shown(one) else one.encode("unicode_escape").decode() for one in text)
    return _ANYWHERE.sub(r"##\\", _FIRST.sub(r"\1\\", text))


def printable_lines(value: Any) -> str:
    """Return a text whose line breaks and tabs are kept, and each line as `printable_line` returns it.

    >>> printable_lines("two\\n::error")
    'two\\n\\\\::error'
    """
    parts = ("\t".join(map(printable_line, line.split("\t"))) for line in str(value).split("\n"))
    return "\n".join(_FIRST.sub(r"\1\\", line) for line in parts)


def _is_shown(character: str) -> bool:
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"


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
    if isinstance(error, AssertionError) and not text:
        return "it breaks an assumption of the library that reads it"
    if isinstance(error, KeyError) and error.args:
        return f"it has no {shortened(repr(error.args[0]), 80)}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    for advice in ("Exception raised from", "; use sys."):
        text = text.partition(advice)[0]
    text = shortened(_INTERNAL.sub("", text), 5 * _LONGEST_REASON)
    return shortened(text.partition(". ")[0].rstrip("."), _LONGEST_REASON) or type(error).__name__
