"""The attribution methods that expressions name: those of this package, and those that users add."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.expressions import parse_one
from cp_compress.base.extensions import added, by_expression_name
from cp_compress.base.factories import make_from
from cp_compress.fidelity.attributions.methods.method import NEEDS, AttributionMethod

_KIND = "attribution method"
_FUNCTION = re.compile(r"[\w.]+:[\w.]+")


@explains_keywords
def parse_attribution_method(text: str) -> AttributionMethod:
    """Return the attribution method that an expression names; the inverse of `str`.

    Raises InvalidArgumentError for anything but one known method with arguments that it allows.

    >>> from cp_compress.fidelity import Occlusion
    >>> parse_attribution_method("integrated_gradients(steps=20)")
    integrated_gradients(steps=20)
    >>> str(Occlusion(window=5, stride=5)), str(parse_attribution_method("saliency"))
    ('occlusion(window=5, stride=5)', 'saliency()')
    """
    if not isinstance(text, str):
        reject("parse_attribution_method", "text", text, "an expression such as 'saliency()' is needed")
    return _checked(_parse_one(text, _every_method(), _KIND))


def as_attribution_method(method: AttributionMethod | str) -> AttributionMethod:
    """Return a method given as a value, as its expression, or as the function "package.module:function" that makes it.

    Raises InvalidArgumentError for anything else, and for a value that is no method as `check_method_class` asks.
    """
    made = make_from(method, "method") if isinstance(method, str) and _FUNCTION.fullmatch(method) else method
    if not isinstance(made, AttributionMethod) and made is not method:
        reject("attributions", "method", method, f"the function returned a {type(made).__name__}, no {_KIND}")
    return _checked(made) if isinstance(made, AttributionMethod) else parse_attribution_method(made)


def method_without_draws(owner: str, text: str) -> AttributionMethod:
    """Return the method of an expression; raises InvalidArgumentError unless it is one method without random draws."""
    still = {name: kind for name, kind in _every_method().items() if kind.draws is AttributionMethod.draws}
    return _parse_one(text, still, f"method for {owner}")


@functools.cache
def known_methods() -> Mapping[str, type[AttributionMethod]]:
    """Return the methods of this package by their names in expressions: all that the modules of this folder define."""
    found: dict[str, type[AttributionMethod]] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)], f"{__package__}."):
        for value in vars(importlib.import_module(module.name)).values():
            own = isinstance(value, type) and issubclass(value, AttributionMethod) and value.__module__ == module.name
            if own and value is not AttributionMethod:
                found[value.expression_name] = value
    return dict(sorted(found.items()))


def methods_without_needs() -> list[str]:
    """Return the names of this package's methods that need nothing of a model but its logits."""
    return [name for name, kind in known_methods().items() if not kind.needs]


def is_users_own(method: AttributionMethod) -> bool:
    """Tell whether a method, or the one that it averages, is none of this package's."""
    package = set(known_methods().values())
    return not {type(method), type(method.inner)} <= package


def attribution_methods_by_name(classes: Iterable[Any]) -> dict[str, type[AttributionMethod]]:
    """Return classes of users' own methods by their names; raises InvalidArgumentError as `check_method_class`."""
    found = list(classes)
    for kind in found:
        check_method_class(kind)
    return by_expression_name(found, _KIND)


def check_method_class(kind: type[Any]) -> None:
    """Raise InvalidArgumentError unless a class is that of an attribution method that can be written and asked."""
    if not (isinstance(kind, type) and issubclass(kind, AttributionMethod)):
        _refuse(kind, f"an {_KIND} is a subclass of cp_compress.fidelity.AttributionMethod")
    missing = sorted(kind.__abstractmethods__)
    if missing:
        _refuse(kind, f"an {_KIND} defines {', '.join(missing)}")
    # of its own: the decorator of a base class makes no fields of what a subclass adds
    if "__dataclass_params__" not in vars(kind) or not kind.__dataclass_params__.frozen:
        _refuse(kind, f"an {_KIND} is a frozen dataclass")
    if not isinstance(getattr(kind, "expression_name", None), str):
        _refuse(kind, "a class must say its expression_name, such as saliency")
    needs = kind.needs
    if not isinstance(needs, tuple) or not set(needs) <= set(NEEDS):
        _refuse(kind, f"its needs are {needs!r}; they are a tuple of {', '.join(map(repr, NEEDS))}")
    if "spatial layer" in needs and "layer" not in {field.name for field in dataclasses.fields(kind)}:
        _refuse(kind, "it needs a spatial layer, and has no field `layer` that names one")


def _every_method() -> dict[str, type[AttributionMethod]]:
    return {**known_methods(), **added(_KIND)}


def _parse_one(text: str, methods: Mapping[str, type[AttributionMethod]], kind: str) -> AttributionMethod:
    found: AttributionMethod = parse_one(text, methods.values(), kind)
    return found


def _checked(method: AttributionMethod) -> AttributionMethod:
    check_method_class(type(method))
    try:
        hash(method)
    except TypeError as error:
        rule = f"{error}; all fields of an {_KIND} must be hashable"
        raise InvalidArgumentError(f"{type(method).__name__}: {rule}") from error
    check_method_class(type(method.inner))  # what cannot be averaged is refused here, before any work
    return method


def _refuse(kind: object, rule: str) -> None:
    name = kind.__qualname__ if isinstance(kind, type) else repr(kind)
    raise InvalidArgumentError(f"{_KIND} {name}: {rule}")
