"""Frozen dataclasses as text and back: `prune(density=0.1) | quantize(float16)`.

Schemes, codecs and attribution methods share this grammar, so that a marker, an ini line, a report and a command write
a value in the same way, and `parse(str(value)) == value`.
"""

from __future__ import annotations

import ast
import dataclasses
import keyword
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NoReturn, Protocol

from cp_compress.base.arguments import did_you_mean, unknown_argument
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import InvalidArgumentError

_WORD = re.compile(rf"([=(,]\s*)({'|'.join(keyword.kwlist)})(?=\s*[,)])")
_LONGEST = 500


class Expressible(Protocol):
    """A frozen dataclass with a name for its expression and the fields that are written without theirs."""

    expression_name: ClassVar[str]
    positional_fields: ClassVar[tuple[str, ...]]
    __dataclass_fields__: ClassVar[dict[str, Any]]


def format_expression(value: Expressible) -> str:
    """Write a frozen dataclass as `name(argument, field=argument)`, leaving out fields at their default.

    A class may name fields that are written in any case, since they say what it does, as `written_fields`.
    """
    written = []
    always = getattr(value, "written_fields", ())
    for field in dataclasses.fields(value):
        argument = getattr(value, field.name)
        if field.name in value.positional_fields:
            written.append(_format_argument(argument))
        elif field.default is dataclasses.MISSING or argument != field.default or field.name in always:
            written.append(f"{field.name}={_format_argument(argument)}")
    return f"{value.expression_name}({', '.join(written)})"


def _format_argument(argument: object) -> str:
    # Python reads some letters beyond ASCII as others
    if (
        isinstance(argument, str)
        and argument.isascii()
        and argument.isidentifier()
        and argument not in ("None", "True", "False")
    ):
        try:
            ast.parse(argument, mode="eval")
        except SyntaxError:  # a keyword such as "lambda"
            return repr(argument)
        return argument
    return repr(argument)


def parse_expression(text: str, registry: Mapping[str, type[Any]], kind: str) -> list[Any]:
    """Read an expression into the values it names, in order of their `|`.

    `registry` maps expression names to dataclasses; `kind` ("scheme", "codec") is what errors call them.
    Raises InvalidArgumentError for anything but calls of registered names with literal arguments, and for
    arguments that the dataclass refuses. No code in the text is run.
    """
    try:
        return [_build(node, text, registry, kind) for node in _split_pipe(_parse(text, kind).body)]
    except RecursionError:
        raise InvalidArgumentError(f"{kind} {text[:60]!r}…: it is nested too deeply") from None


def parse_one(text: str, kinds: Iterable[type[Any]], kind: str) -> Any:
    """Read an expression that names one value of some dataclasses; raises as `parse_expression`, and for several."""
    found = parse_expression(text, {known.expression_name: known for known in kinds}, kind)
    if len(found) != 1:
        raise InvalidArgumentError(f"{kind} {text!r}: give one, not {len(found)}")
    return found[0]


def _parse(text: str, kind: str) -> ast.Expression:
    try:
        return ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        try:  # names of values may be Python's own words, as in scope=global
            return ast.parse(_WORD.sub(r"\1'\2'", text.strip()), mode="eval")
        except (SyntaxError, ValueError):
            _refuse(kind, text, f"it cannot be read: {_unreadable(text.strip(), kind, error)}", error)


def _refuse(kind: str, text: str, reason: str, cause: Exception | None = None) -> NoReturn:
    raise InvalidArgumentError(f"{kind} {shortened(repr(text), _LONGEST)}: {reason}") from cause


def _unreadable(text: str, kind: str, error: SyntaxError | ValueError) -> str:
    """Return what keeps a text from being an expression, and what to write instead."""
    if not text:
        return f"it is empty; write a {kind} as name(field=value)"
    for pattern, told in _MISTAKES:
        found = pattern.search(text)
        if found:
            return told(found)
    for opening, closing in ("()", "[]"):
        if text.count(opening) != text.count(closing):
            return f"{text.count(opening)} × {opening!r} and {text.count(closing)} × {closing!r}: one is missing"
    if any(text.count(quote) % 2 for quote in "\"'"):
        return "a quotation mark is missing"
    place = getattr(error, "offset", None) or 1
    near = shortened(text[max(0, place - 1) :], 30) or "its end"
    return f"something is wrong at {near!r}; write name(field=value), and join several by |"


def _told_percent(found: re.Match[str]) -> str:
    return f"leave out the percent sign: a share of {found[1]} % is {float(found[1]) / 100:g}"


def _told_pattern(found: re.Match[str]) -> str:
    return f'put {found[2]} in quotes: {found[1]}="{found[2]}"'


# the order matters: the first that is found is told
_MISTAKES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*%"), _told_percent),
    (
        re.compile(r"(\w+)\s*=\s*(\d+),(\d+)\s*(?=[,)]|$)"),
        lambda found: f"write the number with a point: {found[1]}={found[2]}.{found[3]}",
    ),
    (re.compile(r"(\w+)\s*=\s*([^\s\"'(),|=]*[*?:/\[\-][^\s\"'(),|]*)(?=\s*[,)|])"), _told_pattern),
    (re.compile(r"(\w+)\s*=\s*([A-Za-z_]\w*(?:\.\w+)+)(?=\s*[,)|])"), _told_pattern),
    (
        re.compile(r"(\w+)\s*:\s*([\w.\"']+)(?=\s*[,)}])"),
        lambda found: f"a field is given by =, not by a colon: {found[1]}={found[2]}",
    ),
    (
        re.compile(r"(\w+)\s*=\s*([\w.\"']+)\s+(?:and\s+)?(\w+)\s*="),
        lambda found: f"a comma is missing before {found[3]}: {found[1]}={found[2]}, {found[3]}=…",
    ),
    (
        re.compile(r"^(\w+)\s*(?:[\[{]|\s)\s*(\w+\s*[=:][^\]}]*)"),
        lambda found: f"its fields stand in round brackets: {found[1]}({found[2].strip()})",
    ),
    (re.compile(r"^(\w+)\s*=\s*(.+)$"), lambda found: f"write what to do with it, as in name({found[0].strip()})"),
    (re.compile(r"^\||\|\s*$"), lambda found: "nothing stands on one side of |"),
    (re.compile(r"->|=>|\|\||&&"), lambda found: f"several are joined by |, not by {found[0]}"),
)
_JOINING = {
    ast.Add: "+",
    ast.BitAnd: "&",
    ast.RShift: ">>",
    ast.MatMult: "@",
    ast.Mult: "*",
    ast.Sub: "-",
    ast.Div: "/",
}


def _split_pipe(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _split_pipe(node.left) + _split_pipe(node.right)
    return [node]


def _misjoined(node: ast.expr) -> str | None:
    """Return how several values are joined that are not joined by |, and how they should be."""
    if isinstance(node, ast.Tuple) and node.elts:
        parts, by = node.elts, "a comma"
    elif isinstance(node, ast.List) and node.elts:
        parts, by = node.elts, "a list"
    elif isinstance(node, ast.BoolOp):
        parts, by = node.values, "and" if isinstance(node.op, ast.And) else "or"
    elif isinstance(node, ast.Compare):
        parts, by = [node.left, *node.comparators], "a comparison"
    elif isinstance(node, ast.BinOp) and type(node.op) in _JOINING:
        parts, by = [node.left, node.right], _JOINING[type(node.op)]
    else:
        return None
    return f"several are joined by |, not by {by}: {' | '.join(map(ast.unparse, parts))}"


def _build(node: ast.expr, text: str, registry: Mapping[str, type[Any]], kind: str) -> Any:
    if isinstance(node, ast.Name):
        name, positional, keywords = node.id, [], []
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name, positional, keywords = node.func.id, node.args, node.keywords
    else:
        form = f"{ast.unparse(node)!r} is not of the form name(field=value)"
        _refuse(kind, text, _misjoined(node) or form)
    if name not in registry:
        _refuse(kind, text, f"no {kind} is called {name!r}; {_nearest_call(node, name, registry)}")
    arguments = [_read_argument(argument, text, kind) for argument in positional]
    named: dict[str, Any] = {}
    for given in keywords:
        if given.arg is None:
            _refuse(kind, text, "'**' is not allowed")
        if given.arg in named:
            _refuse(kind, text, f"{given.arg} is given twice")
        named[given.arg] = _read_argument(given.value, text, kind)
    trouble = _misfit(registry[name], name, arguments, named)
    if trouble:
        _refuse(kind, text, trouble)
    try:
        return registry[name](*arguments, **named)
    except TypeError as error:
        fields = ", ".join(field.name for field in dataclasses.fields(registry[name]))
        _refuse(kind, text, f"{error}; the fields of {name} are {fields}", error)


def _nearest_call(node: ast.expr, name: str, registry: Mapping[str, type[Any]]) -> str:
    """Return what an unknown name may stand for: a call that takes it as its argument, or a name that is near."""
    if isinstance(node, ast.Name):
        for known, made in registry.items():
            for argument in (name, name.lower()):
                try:
                    made(**dict.fromkeys(made.positional_fields, argument))
                except Exception:  # those of a user may raise anything
                    continue
                if made.positional_fields:
                    return f"did you mean {known}({argument})?"
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    found = did_you_mean(snake, registry)
    return found or f"known are {', '.join(sorted(registry))}"


def _misfit(made: type[Any], name: str, arguments: list[Any], named: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the arguments of a call, beside their values; None where they fit its fields."""
    fields = [field for field in dataclasses.fields(made) if field.init]
    names = [field.name for field in fields]
    for field in named:
        if field not in names:
            return f"{name} has no field {field}; {unknown_argument(field, named[field], names, made)}"
    if len(arguments) > len(names):
        return f"{name} takes {len(names)} arguments, and {len(arguments)} are given; its fields are {', '.join(names)}"
    twice = [field for field in names[: len(arguments)] if field in named]
    if twice:
        return f"{twice[0]} is given twice"
    empty = (dataclasses.MISSING, dataclasses.MISSING)
    needed = [field.name for field in fields if (field.default, field.default_factory) == empty]
    missing = [field for field in needed if field not in names[: len(arguments)] and field not in named]
    if missing:
        return f"{name} needs {' and '.join(missing)}, as in {name}({', '.join(f'{field}=…' for field in missing)})"
    return None


def _read_argument(node: ast.expr, text: str, kind: str) -> Any:
    if isinstance(node, ast.Name):
        return node.id
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError) as error:
        written = ast.unparse(node)
        advice = f'; put it in quotes: "{written}"' if isinstance(node, ast.Attribute) else ""
        if isinstance(node, ast.BinOp):
            advice = "; write the number itself"
        _refuse(kind, text, f"{written!r} is not a literal or a name{advice}", error)
