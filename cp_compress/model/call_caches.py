"""What calls of a model leave in it, such as tables made of its weights: noticed as it runs, and kept out of copies."""

from __future__ import annotations

import ast
import contextlib
import dis
import functools
import inspect
import textwrap
import types
import weakref
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

from cp_compress.base.holdings.foreign import is_setting

OWN, BUFFERS = "", "_buffers"
"""Where a place lies: among a module's attributes, or its buffers; else in the dict that an attribute holds."""

Place = tuple[str, Hashable]
ABSENT, UNKNOWN = object(), object()
_INTERNALS = frozenset(vars(nn.Module()))
_BUILDING = ("__init__", "__new__", "__setstate__", "__deepcopy__", "__getstate__", "reset_parameters")
_noticed: weakref.WeakKeyDictionary[nn.Module, dict[Place, tuple[Any, Any]]] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def noticing_caches(model: nn.Module) -> Iterator[None]:
    """Notice what calls inside fill in a model, so that copies begin as it was before them."""
    before = [(module, state_of(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, was in before:
            _notice(module, was)


def empty_caches(model: nn.Module, copied: nn.Module) -> None:
    """Give a copy of a model the attributes, buffers and entries of dicts that the model had before it was called.

    Only what `noticing_caches` has seen being filled, and what nobody has changed since, is given back.
    """
    both = zip(model.modules(), copied.modules(), strict=False)  # a copy may be made by the model's own method
    pairs = [(_noticed.get(one, {}), state_of(one), other) for one, other in both]
    filled = [
        (place, first, other)
        for places, now, other in pairs
        for place, (first, after) in places.items()
        if _same(now.get(place, ABSENT), after)
    ]
    if any(not is_setting(first) or first is None for _, first, _ in filled):  # numbers alone are counters
        for place, first, other in filled:
            put(other, place, first)


def state_of(module: nn.Module) -> dict[Place, Any]:
    """Return the attributes and buffers of a module, and the entries of dicts in attributes, by their places."""
    own = {name: value for name, value in vars(module).items() if name not in _INTERNALS}
    state: dict[Place, Any] = {(OWN, name): value for name, value in own.items()}
    state |= {(BUFFERS, name): value for name, value in module._buffers.items()}
    for name, value in own.items():
        if type(value) is dict:
            state |= {(name, key): part for key, part in value.items()}
    return state


def put(module: nn.Module, place: Place, value: Any) -> None:
    """Put a value into a place of a module, or with ABSENT take away what is there."""
    where, key = place
    owner: Any = vars(module) if where == OWN else module._buffers if where == BUFFERS else vars(module).get(where, {})
    if value is ABSENT:
        owner.pop(key, None)
    else:
        owner[key] = value


def holds_tensor(value: Any) -> bool:
    """Tell whether a value is a tensor or an array, or a list or dict with one in it.

    >>> holds_tensor({"a": [Tensor()]}), holds_tensor({}), holds_tensor(1)
    (True, False, False)
    """
    if isinstance(value, (Tensor, np.ndarray)):
        return True
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return any(holds_tensor(part) for part in parts)


@functools.lru_cache(maxsize=1024)
def written_by_calls(kind: type) -> frozenset[str]:
    """Return the names of attributes and buffers that methods of a class write, but for those that build it."""
    names: set[str] = set()
    for part in kind.__mro__[: kind.__mro__.index(nn.Module)] if nn.Module in kind.__mro__ else ():
        for name, value in vars(part).items():
            function = inspect.unwrap(getattr(value, "__func__", value)) if callable(value) else None
            if name not in _BUILDING and isinstance(function, types.FunctionType):
                names |= _written(function.__code__)
    return frozenset(names)


@functools.lru_cache(maxsize=4096)
def built_with(kind: type, name: str) -> Any:
    """Return the constant, or the empty dict or list, that the constructor of a class gives an attribute.

    ABSENT where it gives it nothing, UNKNOWN where it gives it anything else, or its source cannot be read.
    """
    found = ABSENT
    for part in kind.__mro__[: kind.__mro__.index(nn.Module)] if nn.Module in kind.__mro__ else ():
        given = _assigned(part).get(name, ABSENT)
        found = given if found is ABSENT else found
        found = UNKNOWN if found is ABSENT and None in _assigned(part) else found
    return found


@functools.lru_cache(maxsize=1024)
def _assigned(kind: type) -> dict[str | None, Any]:
    """Return what the constructor of one class assigns to attributes; with a key None where it cannot be read."""
    build = vars(kind).get("__init__")
    if not isinstance(build, types.FunctionType):
        return {}
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(build)))
    except (OSError, TypeError, SyntaxError):
        return {None: UNKNOWN}
    found: dict[str | None, Any] = {}
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
        for target in targets if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)) else ():
            both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            pairs = zip(target.elts, value.elts, strict=False) if both else [(target, value)]  # type: ignore[union-attr]
            found |= {one.attr: _constant(given) for one, given in pairs if isinstance(one, ast.Attribute)}
    return found


def _constant(node: ast.expr | None) -> Any:
    try:
        return UNKNOWN if node is None else ast.literal_eval(node)
    except ValueError:
        empty = isinstance(node, ast.Call) and not node.args and not node.keywords
        name = getattr(node.func, "id", None) if empty and isinstance(node, ast.Call) else None
        return {"dict": {}, "list": []}.get(str(name), UNKNOWN)


def _written(code: types.CodeType) -> set[str]:
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_ATTR"}
    if {"register_buffer", "setattr"} & set(code.co_names):
        names |= {text for text in code.co_consts if isinstance(text, str) and text.isidentifier()}
    for part in code.co_consts:
        names |= _written(part) if isinstance(part, types.CodeType) else set()
    return names


def _notice(module: nn.Module, was: dict[Place, Any]) -> None:
    now, known = state_of(module), _noticed.get(module, {})
    found: dict[Place, tuple[Any, Any]] = {}
    for place in now.keys() | was.keys():
        before, after = was.get(place, ABSENT), now.get(place, ABSENT)
        if _same(before, after):
            continue
        first = known[place][0] if place in known and _same(known[place][1], before) else before
        filled = (first is None or first is ABSENT) and holds_tensor(after)
        if filled or ((first is ABSENT or is_setting(first)) and is_setting(after)):
            found[place] = first, after
    if found:
        _noticed[module] = known | found


def _same(one: Any, other: Any) -> bool:
    return one is other or (is_setting(one) and is_setting(other) and type(one) is type(other) and bool(one == other))
