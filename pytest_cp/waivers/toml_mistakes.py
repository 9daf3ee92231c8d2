"""What a line that is no TOML was meant to be."""

from __future__ import annotations

import re
from collections.abc import Callable

from cp_compress.base.error_reasons import shortened

_LONGEST, _LONGEST_LINE = 60, 1000
_CURLY = "“”„‟‘’‚«»"
_TRUE, _FALSE = ("true", "yes", "on", "y"), ("false", "no", "off", "n")
_NOTHING = ("none", "null", "nil", "undefined", "~")


def meant(text: str, number: int | None, reason: str) -> tuple[int | None, str]:
    """Return the line to look at, counted from 1, and what to write there; an empty text where that is not known.

    Args:
        text: The whole file.
        number: The line that its reader names; None where it names the end of the file.
        reason: What its reader says.

    >>> meant("a = True", 1, "Invalid value")
    (1, 'write true')
    """
    lines = text.split("\n")
    if number is None or number > len(lines):
        unclosed = [place for place, line in enumerate(lines, start=1) if _is_unclosed(line)]
        if not unclosed:
            return number, ""
        number = unclosed[0]
    line = lines[number - 1][:_LONGEST_LINE]  # patterns go back and forth, and a line may have millions of letters
    if "Cannot declare" in reason:
        name = shortened(line.strip().strip("[]"), _LONGEST)
        return number, f"the table [{name}] stands twice: put its keys together, or write [[{name}]] where it is a list"
    if "Cannot overwrite" in reason:
        key = re.split(r"\s*=", line.strip().strip("[]"))[0]
        name = shortened(key, _LONGEST)
        if line.lstrip().startswith("[[") and any(one.strip() == f"[{key}]" for one in lines[: number - 1]):
            return number, f"[{name}] stands above as one table: write [[{name}]] there too"
        return number, f"{name} stands twice: keep one"
    if "Unclosed array" in reason and "[" not in line:
        return number, "above this line a list is not closed: ] or a comma is missing"
    for pattern, told in _MISTAKES:
        found = re.search(pattern, line)
        if found and callable(told):
            return number, told(found)
        if found:
            shown = (shortened(part or "", _LONGEST) for part in (found[0], *found.groups()))
            return number, str(told).format(*shown)
    return number, ""


def _is_unclosed(line: str) -> bool:
    bare = line.partition("#")[0]
    return any(one in line for one in _CURLY) or any(bare.count(quote) % 2 for quote in "\"'")


def _told_word(found: re.Match[str]) -> str:
    word = found[1].lower()
    if word in _NOTHING:
        return "TOML has no such value: leave the line out"
    return f"write {'true' if word in _TRUE else 'false'}"


def _told_number(found: re.Match[str]) -> str:
    value = found[1]
    if value.startswith("."):
        return f"write 0{value}"
    return f"write {value}0" if value.endswith(".") else f"write {value.lstrip('0') or '0'}"


def _told_percent(found: re.Match[str]) -> str:
    return f"write {float(found[1]) / 100:g} for {found[1]}%"


def _told_date(found: re.Match[str]) -> str:
    return f"write the date as {found[1]}-{int(found[2]):02}-{int(found[3]):02}"


_KEY = r"^\s*([\w.\"'-]+)\s*"
_END = r"\s*(?:#.*)?$"
_TEXT = r"(?:\"[^\"]*\"|'[^']*')"
_WORDS = "|".join(map(re.escape, (*_TRUE, *_FALSE, *_NOTHING)))
# the order matters: the first that is found is told; {1} is the first group
_MISTAKES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (f"[{_CURLY}]", "quotation marks are straight: write \" or ' for {0}"),
    (r"^\s*//|^[^\"'#]*\s//\s", "a comment begins with #"),
    (r"^\s*-\s+\w", "leave out the dash: a line is key = value, and [[name]] begins each of several"),
    (r"^\s*\[\[([^\[\]]+)\](?!\])", "a bracket is missing: [[{1}]]"),
    (r"^\s*\[([^\[\]]+)\]\]\s*$", "a bracket is missing: [[{1}]]"),
    (r"^\s*\[([\w-]+(?: +[\w-]+)+)\]?\s*$", 'a name with spaces stands in quotes: ["{1}"]'),
    (r"^\s*([\w.-]+)\]\s*$|^\s*\[([\w.-]+)\s*$", "a bracket is missing: [{1}{2}]"),
    (r"=\s*([\d]+(?:\.\d+)?)\s*%", _told_percent),
    (rf"=\s*(\d+),(\d+){_END}", "write the number with a point: {1}.{2}"),
    (rf"=\s*(\d{{4}})-(\d{{1,2}})-(\d{{1,2}}){_END}", _told_date),
    (rf"(?i)=\s*({_WORDS}){_END}", _told_word),
    (rf"=\s*[-+]?(\.\d+|\d+\.|0\d+(?:\.\d+)?){_END}", _told_number),
    (r"=\s*\{[^}]*$", "what stands in braces stands on one line; or write a table [name] with a line for each"),
    (r"=\s*\{[^}]*\w\s*:", "in braces too a value is given by =, as in key = value"),
    (rf"=\s*.*([,;]){_END}", "leave out the {1} at the end"),
    (rf"{_KEY}(==|:=|\+=)", "a value is given by =, as in {1} = …"),
    (rf"{_KEY}(?:>=|<=|=>|=<|≥|≤|>|<|:)\s*(.+?)\s*$", "a value is given by =, as in {1} = {2}"),
    (rf"{_KEY}={_END}", "a value is missing after {1} ="),
    (r"^\s*([A-Za-z]\w*(?: +\w+)+)\s*=", "a key has no spaces, which may be _: {1}"),
    (rf"=\s*\[?({_TEXT}(?:\s+{_TEXT})+)", "several texts stand in brackets, with commas between them"),
    (r"\"[^\"]*\\[^\"]*\"", "write each backslash twice, or the text in single quotes"),
    (r"^[^#\"]*\"[^\"]*$|^[^#']*'[^']*$", "a quotation mark is missing"),
    (r"=.*[\w\"'\]]\s*[;,]?\s+[A-Za-z_]\w*\s*=", "each key stands on a line of its own"),
    (rf"{_KEY}=\s*([^\s\"'\[{{#\d+.-][^\"'#]*?){_END}", 'a text stands in quotes: {1} = "{2}"'),
    (r"^\s*([A-Za-z]\w*)\s+([^\s=#]+)\s*$", "a value is given by =, as in {1} = {2}"),
)
