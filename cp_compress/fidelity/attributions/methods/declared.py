"""The names and fields of attribution methods, read from their files, so that a text is checked without torch."""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cp_compress.base.expressions import parse_one
from cp_compress.base.extensions import added
from cp_compress.fidelity.attributions.methods.fields import set_layer

_KIND = "attribution method"
_BASE = "AttributionMethod"


def check_method_text(text: str) -> None:
    """Raise InvalidArgumentError for an expression of no known attribution method, or with fields that it has not.

    What its fields may hold is told by the method itself, when it is made.

    >>> check_method_text("occlusion(window=5)")
    """
    method = parse_one(text, {**declared_methods(), **added(_KIND)}.values(), _KIND)
    if getattr(method, "needs_layer", False):
        set_layer(method, optional=False)


@functools.cache
def declared_methods() -> Mapping[str, type[Any]]:
    """Return a dataclass with the fields of each method that the modules of this folder define, by its name."""
    found: dict[str, type[Any]] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == _BASE for base in node.bases):
                made = _as_dataclass(node)
                found[made.expression_name] = made
    return found


def _as_dataclass(node: ast.ClassDef) -> type[Any]:
    fields: list[Any] = []
    constants: dict[str, Any] = {"positional_fields": (), "needs_layer": _needs_layer(node)}
    for name, annotation, value in _assigned(node):
        if annotation.startswith("ClassVar"):
            constants[name] = ast.literal_eval(value) if name in ("expression_name", "positional_fields") else None
        else:  # no default can be mutable in a frozen dataclass
            fields.append((name, Any) if value is None else (name, Any, dataclasses.field(default=None)))
    return dataclasses.make_dataclass(node.name, fields, namespace=constants)


def _needs_layer(node: ast.ClassDef) -> bool:
    return "set_layer(self, optional=False)" in map(ast.unparse, ast.walk(node))


def _assigned(node: ast.ClassDef) -> Iterator[tuple[str, str, Any]]:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id, ast.unparse(statement.annotation), statement.value
