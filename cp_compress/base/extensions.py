"""What users register by name: their own schemes, codecs, attribution methods, directions and comparisons."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cp_compress.base.arguments import reject
from cp_compress.base.expressions import format_expression

_METHODS = {"scheme": "compress", "codec": "encode", "attribution method": "attribute"}
_added: dict[str, dict[str, Any]] = {kind: {} for kind in (*_METHODS, "directions", "comparison")}


def added(kind: str) -> Mapping[str, Any]:
    """Return what was added of a kind ("scheme", "codec", "attribution method" or "directions"), by name."""
    return dict(_added[kind])


def is_added(value: object) -> bool:
    """Tell whether a scheme or codec, or a part of it, is of a class that a user added: its text does not say all."""
    parts = getattr(value, "schemes", (value,))
    classes = {*_added["scheme"].values(), *_added["codec"].values()}
    return any(type(part) in classes for part in parts)


@contextlib.contextmanager
def extending(kind: str, extensions: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[None]:
    """Make extensions known by their names while the work inside goes on; `known` are the names that are taken.

    Schemes, codecs and attribution methods are frozen dataclasses with `expression_name`, `positional_fields` and the
    method `compress`, `encode` or `attribute`; directions are functions. Raises InvalidArgumentError for anything else,
    and for a name that is taken.
    """
    for name, extension in extensions.items():
        if not name.isidentifier():
            reject("extending", kind, name, "its name must be a valid Python identifier")
        if name in known or _added[kind].get(name, extension) is not extension:
            reject("extending", kind, name, "this name is taken")
        _check_extension(kind, name, extension)
    before = dict(_added[kind])
    _added[kind].update(extensions)
    try:
        yield
    finally:
        _added[kind].clear()
        _added[kind].update(before)


def by_expression_name(classes: Any, kind: str) -> dict[str, type[Any]]:
    """Return classes by the names under which expressions call them."""
    found = {}
    for extension in classes:
        name = getattr(extension, "expression_name", None)
        if not isinstance(name, str):
            reject("extending", kind, extension, "a class must have an expression_name, such as prune")
        found[name] = extension
    return found


def _check_extension(kind: str, name: str, extension: Any) -> None:
    if kind == "comparison":
        return  # an object that has checked itself when it was made
    if kind == "directions":
        if not callable(extension):
            reject("extending", kind, name, "must be a function (observation, indices, seed) that returns Directions")
        return
    if not (isinstance(extension, type) and dataclasses.is_dataclass(extension)):
        reject("extending", kind, name, f"a {kind} is a frozen dataclass")
    frozen = extension.__dataclass_params__.frozen  # type: ignore[attr-defined]
    fits = frozen and callable(getattr(extension, _METHODS[kind], None))
    if not fits or not isinstance(getattr(extension, "positional_fields", None), tuple):
        rule = f"a {kind} is a frozen dataclass with positional_fields and the method {_METHODS[kind]}"
        reject("extending", kind, name, rule)
    if extension.__str__ is object.__str__:
        # what a report, a cache and a baseline call a value must be what an ini line calls it
        text: Callable[[Any], str] = format_expression
        extension.__str__ = text  # type: ignore[method-assign]
