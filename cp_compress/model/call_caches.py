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
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cp_compress.base.holdings.foreign import is_of_library, is_setting

OWN, BUFFERS = "", "_buffers"
"""Where a place lies: among a module's attributes, or its buffers; else in what an attribute of that name holds."""

Place = tuple[str, Hashable]
ABSENT, UNKNOWN = object(), object()
_INTERNALS = frozenset(vars(nn.Module()))
_LONGEST = 256  # of lists whose entries are looked at
_BUILDING = ("__init__", "__new__", "__setstate__", "__deepcopy__", "__getstate__", "reset_parameters")
_noticed: weakref.WeakKeyDictionary[nn.Module, dict[Place, tuple[Any, Any]]] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def noticing_caches(modules: Iterable[nn.Module]) -> Iterator[list[nn.Module]]:
    """Notice what calls inside fill in modules, so that copies begin as they were before them.

    The list that is given holds, once it is left, the modules that anything was noticed in.
    """
    before = [(module, state_of(module), _copies(module)) for module in modules]
    noticed: list[nn.Module] = []
    try:
        yield noticed
    finally:
        noticed += [module for module, was, copies in before if _notice(module, was, copies)]


def empty_caches(model: nn.Module, copied: nn.Module) -> None:
    """Give a copy of a model, or itself, the attributes, buffers and entries of dicts that it had before its calls.

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
        # from behind, so that the places in a list that grew stay what they are
        for place, first, other in sorted(filled, key=lambda one: one[0][1] if isinstance(one[0][1], int) else 0)[::-1]:
            put(other, place, first.clone() if place[0] == BUFFERS and isinstance(first, Tensor) else first)


def state_of(module: nn.Module) -> dict[Place, Any]:
    """Return the attributes and buffers of a module, and the entries of dicts and lists in attributes, by place."""
    everything = vars(module)
    own = {name: everything[name] for name in everything.keys() - _INTERNALS}
    state: dict[Place, Any] = {(OWN, name): value for name, value in own.items()}
    state |= {(BUFFERS, name): value for name, value in module._buffers.items()}
    for name, value in own.items():
        if type(value) is dict:
            state |= {(name, key): part for key, part in value.items()}
        elif type(value) is list and len(value) <= _LONGEST:
            state |= {(name, place): part for place, part in enumerate(value)}
    return state


def put(module: nn.Module, place: Place, value: Any) -> None:
    """Put a value into a place of a module, or with ABSENT take away what is there."""
    where, key = place
    owner: Any = vars(module) if where == OWN else module._buffers if where == BUFFERS else vars(module).get(where, {})
    if type(owner) is list and isinstance(key, int):
        owner[key:] = [*([] if value is ABSENT else [value]), *owner[key + 1 :]]
    elif value is ABSENT:
        owner.pop(key, None)
    else:
        owner[key] = value


def holds_tensor(value: Any, depth: int = 3) -> bool:
    """Tell whether a value is a tensor or an array, or a list, a dict or a user's object with one in it.

    >>> holds_tensor({"a": [Tensor()]}), holds_tensor({}), holds_tensor(1)
    (True, False, False)
    """
    if isinstance(value, (Tensor, np.ndarray)):
        return True
    parts: Iterable[Any] = value if isinstance(value, (list, tuple)) else ()
    if isinstance(value, dict) or is_own_object(value):
        parts = (value if isinstance(value, dict) else vars(value)).values()
    return depth > 0 and any(holds_tensor(part, depth - 1) for part in list(parts))


def is_own_object(value: Any) -> bool:
    """Tell whether a value is an object of a user's class, whose attributes are all of it, and no module."""
    kind = type(value)
    return not isinstance(value, (nn.Module, type)) and hasattr(value, "__dict__") and not is_of_library(kind)


def written_by_calls(module: nn.Module) -> frozenset[str]:
    """Return the names of attributes and buffers that methods of a module write, but for those that build it."""
    kind: Any = type(module)
    return _written_by_class(kind)


@functools.lru_cache(maxsize=1024)
def _written_by_class(kind: type) -> frozenset[str]:
    return frozenset().union(*map(_written, _own_methods(kind)))


def _own_methods(kind: type, but: str | None = None) -> Iterator[types.CodeType]:
    """Yield the code of what a class and its bases below nn.Module define, but for what builds an object."""
    for part in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        if but is not None and part.__module__.startswith(but):
            continue
        for name, value in vars(part).items():
            function = inspect.unwrap(getattr(value, "__func__", value)) if callable(value) else None
            if name not in _BUILDING and isinstance(function, types.FunctionType):
                yield function.__code__


def filled_in_place(module: nn.Module) -> frozenset[str]:
    """Return the names of attributes whose content methods of a module may change in place, as `written_by_calls`."""
    kind: Any = type(module)
    return _changed_in_place(kind)


@functools.lru_cache(maxsize=1024)
def _changed_in_place(kind: type) -> frozenset[str]:
    kept = _own_methods(kind, but="torch.nn.")  # those change statistics, in training
    return frozenset().union(*(_read(code) for code in kept if _changes_in_place(code)))


def built_with(module: nn.Module, name: str) -> Any:
    """Return the constant, or the empty dict or list, that the constructor of a module gives an attribute.

    ABSENT where it gives it nothing, UNKNOWN where it gives it anything else, or its source cannot be read.
    """
    found, kind = ABSENT, type(module)
    for part in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        key: Any = part
        given = _assigned(key).get(name, ABSENT)
        found = given if found is ABSENT else found
        found = UNKNOWN if found is ABSENT and None in _assigned(key) else found
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


def _changes_in_place(code: types.CodeType) -> bool:
    steps = list(dis.get_instructions(code))
    methods = {step.argval for step in steps if step.opname in ("LOAD_ATTR", "LOAD_METHOD")}
    named = any(isinstance(name, str) and name.endswith("_") and not name.endswith("__") for name in methods)
    signs = any(
        step.opname.startswith("INPLACE_") or (step.opname == "BINARY_OP" and "=" in step.argrepr) for step in steps
    )
    parts = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return named or signs or any(step.opname == "STORE_SUBSCR" for step in steps) or any(map(_changes_in_place, parts))


def _read(code: types.CodeType) -> set[str]:
    names = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_ATTR", "LOAD_METHOD")}
    return names.union(*(_read(part) for part in code.co_consts if isinstance(part, types.CodeType)))


def _copies(module: nn.Module) -> dict[Place, Tensor]:
    names = filled_in_place(module) & set(module._buffers.keys())  # of TorchScript they are a list
    held = {(BUFFERS, name): module._buffers[name] for name in names}
    return {place: value.detach().clone() for place, value in held.items() if value is not None}


def _notice(module: nn.Module, was: dict[Place, Any], copies: dict[Place, Tensor]) -> bool:
    now = state_of(module)
    known = _noticed.get(module, {})
    found = {
        place: (known[place][0] if place in known and _same(known[place][1], first) else first, now[place].clone())
        for place, first in copies.items()
        if now.get(place) is was[place] and not torch.equal(first, now[place])
    }
    if not found and now.keys() == was.keys() and all(value is was[place] for place, value in now.items()):
        return False
    for place in now.keys() | was.keys():
        before, after = was.get(place, ABSENT), now.get(place, ABSENT)
        if _same(before, after):
            continue
        first = known[place][0] if place in known and _same(known[place][1], before) else before
        filled = _is_empty(first) and holds_tensor(after)
        if filled or ((first is ABSENT or is_setting(first)) and is_setting(after)):
            found[place] = first, after
    if found:
        _noticed[module] = known | found
    return bool(found)


def _is_empty(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 0
    return value is None or value is ABSENT or (isinstance(value, (tuple, list, dict)) and not value)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor) and one is not other:
        alike = (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
        return alike and one.device.type != "meta" and torch.equal(one, other)
    return one is other or (is_setting(one) and is_setting(other) and type(one) is type(other) and bool(one == other))
