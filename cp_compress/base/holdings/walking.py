"""One walk through everything that a model, or another callable, holds: the only place that knows where weights hide.

Sizes, digests and files read what it found. Parameters and buffers come first; then whatever attributes, lists, dicts,
objects, hooks, closures and packed parameters hold; each storage once.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cp_compress.base.holdings import foreign
from cp_compress.base.holdings.found import (
    ATTRIBUTE,
    CAPTURED,
    PACKED,
    REGISTERED,
    Content,
    Held,
    Holdings,
    Unseen,
)
from cp_compress.base.holdings.tensors import NotVisibleError, as_plain, geometry, is_plain, parts_of, told

_DEEPEST = 64
_LONG = 256  # that many numbers in a list are data, fewer are settings
_INTERNALS = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_NUMBERS = (bool, int, float, complex)
_SEQUENCES = (list, tuple, set, frozenset, deque)


def holdings_of(model: object) -> Holdings:
    """Return what a model, or another callable, holds.

    Found are parameters and buffers, the parts of tensor subclasses, quantised and sparse ones; packed parameters and
    other script objects with a state; tensors, arrays, bytes and modules in attributes, containers, objects, hooks,
    partials, closures, variables that functions read, attributes of users' classes; extra states; TorchScript.
    Optimisers, data loaders, locks, loggers and the like are passed over. Nothing is changed.

    >>> class Hidden(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.tables = [torch.zeros(3)]
    >>> [held.path for held in holdings_of(Hidden()).tensors]
    ['tables[0]']
    """
    walk = _Walk()
    walk.value("", model, ATTRIBUTE, 0)
    return walk.found


class _Walk:
    def __init__(self) -> None:
        self.found = Holdings()
        self._met: dict[int, Any] = {}  # alive, so that no address stands for two objects
        self._views: set[tuple[Any, ...]] = set()

    def value(self, path: str, value: Any, place: str, depth: int) -> None:
        """Look at any value; what was met before is passed over."""
        if foreign.is_setting(value):
            self.found.settings.append(f"{path}={told(value)}")
            return
        if id(value) in self._met:
            self.found.settings.append(f"{path} is object {id(value)}")  # which of two known parts is used
            return
        self._met[id(value)] = value
        if depth > _DEEPEST:
            self._unseen(path, value, f"nested more than {_DEEPEST} deep")
            return
        try:
            self._look(path, value, place, depth + 1)
        except NotVisibleError as reason:
            self._unseen(path, value, str(reason))

    def _unseen(self, path: str, value: Any, why: str) -> None:
        kind = type(value)
        self.found.unseen.append(Unseen(path or "the model", f"{kind.__module__}.{kind.__qualname__}: {why}"))

    def _each(self, parts: Iterable[tuple[str, Any]], place: str, depth: int) -> None:
        for path, value in parts:
            self.value(path, value, place, depth)

    def _look(self, path: str, value: Any, place: str, depth: int) -> None:
        if isinstance(value, nn.Module):
            self._module(path, value, place, depth)
        elif isinstance(value, Tensor):
            self.tensor(path, value, place, depth)
        elif isinstance(value, np.ndarray):
            self._array(path, value, place, depth)
        elif isinstance(value, Mapping):
            self._each(((_at(path, key), part) for key, part in list(value.items())), place, depth)
            self._attributes(path, value, place, depth)
        elif isinstance(value, _SEQUENCES):
            self._sequence(path, value, place, depth)
        elif isinstance(value, functools.partial):
            parts = [(f"{path}.func", value.func), (f"{path}.args", value.args), (f"{path}.keywords", value.keywords)]
            self._each(parts, place, depth)
        elif isinstance(value, types.MethodType):
            self._each([(path, value.__func__), (f"{path}.__self__", value.__self__)], place, depth)
        elif isinstance(value, types.FunctionType):
            self._function(path, value, depth)
        elif isinstance(value, type):
            self._class(path, value, depth)
        elif isinstance(value, types.BuiltinFunctionType):
            if not isinstance(value.__self__, (types.ModuleType, type(None))):
                self.value(f"{path}.__self__", value.__self__, place, depth)
        elif not isinstance(value, weakref.ReferenceType) and not foreign.is_passed_over(value):
            self._object(path, value, place, depth)

    def _module(self, path: str, module: nn.Module, place: str, depth: int) -> None:
        parts = [(f"{path}.{name}".strip(".") if name else path, part) for name, part in module.named_modules()]
        inner = [(name, part) for name, part in parts if part is module or id(part) not in self._met]
        if path:
            self.found.modules.extend(inner)
        for _, part in inner:
            self._met[id(part)] = part
        registered = REGISTERED if not path else place
        before = len(self.found.tensors)
        for name, part in inner:
            for store in (part._parameters, part._buffers):
                for key, tensor in store.items():
                    if tensor is not None:
                        self.tensor(_dot(name, key), tensor, registered, depth, store is part._parameters)
        if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
            size = sum(held.tensor.nbytes for held in self.found.tensors[before:])
            archive = foreign.archive_of(module)
            self.found.content.append(Content(path, max(0, archive.size - size), archive.digest))
            return
        for name, part in inner:
            self._module_attributes(name, part, place, depth)

    def _module_attributes(self, path: str, module: nn.Module, place: str, depth: int) -> None:
        code = foreign.code_of(module)
        if code is not None:
            self.found.facts.append(f"{path} {code}")
        own = vars(module)
        for name in sorted(own.keys() - _INTERNALS):
            if not foreign.is_bookkeeping(module, name):
                self.value(_dot(path, name), own[name], place, depth)
        for name in _HOOKS:
            hooks = own.get(name) or {}
            self._each(((_dot(path, f"{name}[{at}]"), hook) for at, hook in enumerate(hooks.values())), place, depth)
        self.value(path, type(module), CAPTURED, depth)
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            try:
                state = module.get_extra_state()
            except Exception as error:
                raise NotVisibleError(f"get_extra_state of {path or 'the model'} fails: {error}") from error
            self._extra(_dot(path, "get_extra_state()"), state, depth)

    def _extra(self, path: str, state: Any, depth: int) -> None:
        """Look at an extra state; what equals a tensor that is held already is told from it, and no content more."""
        before = len(self.found.tensors)
        self._unpacked(path, state, depth, parameter=False)
        known, new = self.found.tensors[:before], self.found.tensors[before:]
        self.found.tensors[before:] = [held for held in new if not any(_equal(held.tensor, o.tensor) for o in known)]

    def tensor(self, path: str, tensor: Tensor, place: str, depth: int, parameter: bool = False) -> None:
        """Look at a tensor, and at what is attached to it."""
        if foreign.is_passed_over(tensor):
            return
        self._met[id(tensor)] = tensor
        try:
            if is_plain(tensor):
                self._plain(Held(path, as_plain(tensor), place, parameter))
            else:
                facts, parts = parts_of(tensor)
                self.found.facts.append(f"{path} {facts}")
                tensors = [(name, part) for name, part in parts if isinstance(part, Tensor)]
                main = max(tensors, key=lambda part: part[1].numel(), default=("", None))[0]
                for name, part in tensors:  # the numbers are the parameter; scales belong to it
                    self.tensor(_dot(path, name), part, place, depth + 1, parameter and name == main)
        except NotVisibleError as reason:
            self._unseen(path, tensor, str(reason))
        attached = getattr(tensor, "__dict__", None)
        if attached:
            kept = ATTRIBUTE if place == REGISTERED else place
            self._each(((_dot(path, name), attached[name]) for name in sorted(attached)), kept, depth + 1)

    def _plain(self, held: Held) -> None:
        view = geometry(held.tensor)
        if view not in self._views:
            self._views.add(view)
            self.found.tensors.append(held)

    def _array(self, path: str, array: Any, place: str, depth: int) -> None:
        if array.dtype.hasobject:
            self._each(((f"{path}[{at}]", part) for at, part in enumerate(array.ravel().tolist())), place, depth)
            return
        tensor = foreign.tensor_of(array)
        if tensor is None:
            self._content(path, f"{array.dtype}{array.shape}".encode(), np.ascontiguousarray(array))
        else:
            self.tensor(path, tensor, place, depth)

    def _content(self, path: str, head: bytes, data: Any) -> None:
        digest, size = foreign.digest_bytes(head, data)
        if size:
            self.found.content.append(Content(path, size, digest))

    def _sequence(self, path: str, values: Any, place: str, depth: int) -> None:
        if all(map(foreign.is_setting, values)):
            if len(values) >= _LONG and all(isinstance(part, _NUMBERS) for part in values):
                self._content(path, b"numbers", np.array(sorted(values) if _unordered(values) else values).data)
            else:
                self.found.settings.append(f"{path}={told(values)}")
        else:
            parts = enumerate(sorted(values, key=told) if _unordered(values) else values)
            self._each(((f"{path}[{at}]", part) for at, part in parts), place, depth)
        self._attributes(path, values, place, depth)

    def _attributes(self, path: str, value: Any, place: str, depth: int) -> None:
        own = getattr(value, "__dict__", None)
        if isinstance(own, dict):
            self._each(((_dot(path, name), own[name]) for name in sorted(own)), place, depth)
        for name in foreign.slots_of(type(value)):
            if hasattr(value, name):
                self.value(_dot(path, name), getattr(value, name), place, depth)

    def _object(self, path: str, value: Any, place: str, depth: int) -> None:
        if foreign.is_packed(value):
            self._unpacked(path, foreign.state_of(value), depth)
            return
        data = foreign.bytes_of(value)
        if data is not None:
            self._content(path, type(value).__qualname__.encode(), data)
            return
        array = foreign.array_of(value)
        if array is not None:
            self._array(path, array, PACKED, depth)
            return
        self._attributes(path, value, place, depth)
        self.value(path, type(value), CAPTURED, depth)
        if foreign.has_more_than_attributes(value):
            self.value(path, foreign.reduced(value), PACKED, depth)

    def _unpacked(self, path: str, state: Any, depth: int, parameter: bool = True) -> None:
        """Look at the state of packed parameters: its tensors are parameters, its numbers belong to them."""
        for name, part in _leaves(path, state):
            if isinstance(part, Tensor):
                self.tensor(name, part, PACKED, depth, parameter)
            elif foreign.is_setting(part):
                self.found.facts.append(f"{name} {told(part)}")
            else:
                self.value(name, part, PACKED, depth)

    def _function(self, path: str, function: types.FunctionType, depth: int) -> None:
        self.found.settings.append(f"{path} {function.__qualname__} {foreign.digest_code(function.__code__)}")
        if foreign.is_of_library(function):
            captured: Iterable[tuple[str, Any]] = foreign.closure_of(function)
        else:
            captured = (*foreign.closure_of(function), *foreign.variables_of(function))
        if not foreign.is_passed_over(function):
            self._each(((f"{path}<{name}>", value) for name, value in captured), CAPTURED, depth)
            self._attributes(path, function, CAPTURED, depth)

    def _class(self, path: str, kind: type, depth: int) -> None:
        for part in kind.__mro__:
            if foreign.is_of_library(part):
                continue
            for name, value in list(vars(part).items()):
                inner = foreign.function_in(name, value)
                if inner is not None:
                    self.value(f"{path}<{name}>", inner, CAPTURED, depth)
                elif not name.startswith("__") and not foreign.is_of_class(value):
                    self.value(f"{path}<{name}>", value, CAPTURED, depth)


def _leaves(path: str, state: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(state, (list, tuple, dict)):
        for at, part in state.items() if isinstance(state, dict) else enumerate(state):
            yield from _leaves(_at(path, at), part)
    else:
        yield path, state


def _dot(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _at(path: str, key: Any) -> str:
    return f"{path}[{key!r}]" if isinstance(key, (str, int)) else f"{path}[{told(key)}]"


def _unordered(values: Any) -> bool:
    return isinstance(values, (set, frozenset))


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu())
