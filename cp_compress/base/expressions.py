"""Frozen dataclasses as text and back: `prune(density=0.1) | quantize(float16)`.

Schemes, codecs and attribution methods share this grammar, so that a marker, an ini line, a report and a command write
a value in the same way, and `parse(str(value)) == value`.
"""

from __future__ import annotations

import ast
import dataclasses
import keyword
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

from cp_compress.base.errors import InvalidArgumentError

_WORD = re.compile(rf"([=(,]\s*)({'|'.join(keyword.kwlist)})(?=\s*[,)])")


class Expressible(Protocol):
    """A frozen dataclass with a name for its expression and the fields that are written without theirs."""

    expression_name: ClassVar[str]
    positional_fields: ClassVar[tuple[str, ...]]
    __dataclass_fields__: ClassVar[dict[str, Any]]


def format_expression(value: Expressible) -> str:
    """Write a frozen dataclass as `name(argument, field=argument)`, leaving out fields at their default."""
    written = []
    for field in dataclasses.fields(value):
        argument = getattr(value, field.name)
        if field.name in value.positional_fields:
            written.append(_format_argument(argument))
        elif field.default is dataclasses.MISSING or argument != field.default:
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
            raise InvalidArgumentError(f"{kind} {text!r} cannot be read: {error}") from error


def _split_pipe(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _split_pipe(node.left) + _split_pipe(node.right)
    return [node]


def _build(node: ast.expr, text: str, registry: Mapping[str, type[Any]], kind: str) -> Any:
    if isinstance(node, ast.Name):
        name, positional, keywords = node.id, [], []
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name, positional, keywords = node.func.id, node.args, node.keywords
    else:
        raise InvalidArgumentError(f"{kind} {text!r}: {ast.unparse(node)!r} is not of the form name(field=value)")
    if name not in registry:
        known = ", ".join(sorted(registry))
        raise InvalidArgumentError(f"{kind} {text!r}: no {kind} is called {name!r}; known are {known}")
    arguments = [_read_argument(argument, text, kind) for argument in positional]
    named: dict[str, Any] = {}
    for given in keywords:
        if given.arg is None:
            raise InvalidArgumentError(f"{kind} {text!r}: '**' is not allowed")
        if given.arg in named:
            raise InvalidArgumentError(f"{kind} {text!r}: {given.arg} is given twice")
        named[given.arg] = _read_argument(given.value, text, kind)
    try:
        return registry[name](*arguments, **named)
    except TypeError as error:
        fields = ", ".join(field.name for field in dataclasses.fields(registry[name]))
        raise InvalidArgumentError(f"{kind} {text!r}: {error}; the fields of {name} are {fields}") from error


def _read_argument(node: ast.expr, text: str, kind: str) -> Any:
    if isinstance(node, ast.Name):
        return node.id
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError) as error:
        raise InvalidArgumentError(f"{kind} {text!r}: {ast.unparse(node)!r} is not a literal or a name") from error
