"""The content of a value as a digest, so that a resumed run can be recognised as the same run.

A callable's name is not enough: a closure over another learning rate has the same name. The digest covers its code, and
what the code can see: defaults, captured variables, the module's variables that it reads, attributes of objects.
"""

from __future__ import annotations

import functools
import pickle
import sys
import types
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from cp_compress.base.digests import Digested, digest_model, digest_tensors, digest_text
from cp_compress.base.holdings.foreign import names_read, slots_of

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), torch.dtype, torch.device, range, slice)
# what these packages do is part of their versions, not of a user's arguments
_OWN = ("cp_compress", "pytest_cp", "torch", "torchvision", "numpy", "scipy", "sklearn", "skopt")
_LIBRARIES = frozenset({"builtins", *_OWN, *sys.stdlib_module_names}) - {"__main__"}
_CODE = (types.FunctionType, staticmethod, classmethod, property)
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_MODULE_INTERNALS = frozenset(vars(torch.nn.Module()))


def identify(value: object) -> str:
    """Return a hex digest that is the same, in another process too, for values that are and do the same.

    Functions count with their code, defaults, captured variables and the variables of their module that they read;
    objects with their attributes and the code of their class, but for classes of libraries; other values as they are
    pickled. The order of sets and addresses do not count, nor do attributes that were set on a function. A value
    that cannot be told, such as a lock, is never the same as another one. Another version of Python compiles functions
    to other digests.

    >>> def at(rate): return lambda value: value * rate
    >>> identify(at(0.1)) == identify(at(0.1)), identify(at(0.1)) == identify(at(0.2))
    (True, False)
    """
    return _Digest().of(value)


class _Digest:
    """One walk through a value; what was met stays alive, so that no address stands for two objects."""

    def __init__(self) -> None:
        self._met: dict[int, tuple[int, Any]] = {}

    def of(self, value: Any) -> str:
        if isinstance(value, _PLAIN):
            return digest_text(type(value).__name__, repr(value))
        if id(value) in self._met:  # a cycle, or the same object again
            return digest_text("again", str(self._met[id(value)][0]))
        self._met[id(value)] = len(self._met), value
        return digest_text(*self._parts(value))

    def _each(self, values: Iterable[Any]) -> list[str]:
        return [self.of(part) for part in values]

    def _parts(self, value: Any) -> list[str]:
        if isinstance(value, torch.Tensor):
            return ["tensor", digest_tensors([value])]
        if isinstance(value, np.ndarray) and value.dtype != object:
            return ["array", str(value.dtype), str(value.shape), *self._each([value.tobytes()])]
        if isinstance(value, torch.nn.Module):
            return ["module", str(digest_model(value)), *self._module_parts(value)]
        if callable(value) and isinstance(getattr(value, "content_digest", None), str):
            return ["content", _name(type(value)), str(digest_model(value))]
        if isinstance(value, torch.Generator):
            return ["generator", digest_tensors([value.get_state()])]
        if isinstance(value, Digested):
            return ["data", value.digest()]
        if isinstance(value, Mapping):
            return ["mapping", *(part for key in value for part in self._each([key, value[key]]))]
        if isinstance(value, (set, frozenset)):
            return ["set", *sorted(_Digest().of(part) for part in value)]
        if isinstance(value, (list, tuple)):
            return [type(value).__name__, *self._each(value)]
        if isinstance(value, functools.partial):
            return ["partial", *self._each([value.func, value.args, dict(value.keywords)])]
        if isinstance(value, types.MethodType):
            return ["method", *self._each([value.__func__, value.__self__])]
        if isinstance(value, types.FunctionType):
            return ["function", _name(value), *self._function_parts(value)]
        if isinstance(value, types.CodeType):
            return ["code", value.co_code.hex(), *value.co_names, *value.co_freevars, *self._each(value.co_consts)]
        if isinstance(value, type):
            return ["class", _name(value), *self._class_parts(value)]
        if isinstance(value, types.ModuleType):
            return ["named", value.__name__]
        if isinstance(value, types.BuiltinFunctionType):
            own = value.__self__
            return ["builtin", value.__qualname__, *([] if isinstance(own, types.ModuleType) else self._each([own]))]
        if isinstance(value, (staticmethod, classmethod)):
            return [type(value).__name__, *self._each([value.__func__])]
        if isinstance(value, property):
            return ["property", *self._each([value.fget, value.fset])]
        return self._object_parts(value)

    def _object_parts(self, value: Any) -> list[str]:
        kind = ["object", *self._each([type(value)])]
        if hasattr(value, "__dict__"):
            slots = {name: getattr(value, name) for name in slots_of(type(value)) if hasattr(value, name)}
            return [*kind, *self._each([vars(value), slots])]
        try:
            return [*kind, digest_text(pickle.dumps(value, protocol=4).hex())]
        except Exception:  # such as a lock: nobody can tell what it is
            return [*kind, uuid.uuid4().hex]

    def _module_parts(self, module: torch.nn.Module) -> list[str]:
        parts = []
        for part in module.modules():
            own = {name: value for name, value in vars(part).items() if name not in _MODULE_INTERNALS}
            parts += self._each([type(part), own])
        return parts

    def _class_parts(self, kind: type) -> list[str]:
        if _is_of_library(kind):
            return []
        own = {
            name: value
            for name, value in vars(kind).items()
            if isinstance(value, _CODE) or not (name.startswith("_") or isinstance(value, _DESCRIPTORS))
        }
        return self._each([own, *kind.__bases__])

    def _function_parts(self, function: types.FunctionType) -> list[str]:
        cells = []
        for cell in function.__closure__ or ():
            try:
                cells.append(cell.cell_contents)
            except ValueError:  # not bound yet
                cells.append(None)
        library = _is_of_library(function)
        seen = () if library else sorted(names_read(function.__code__))
        names = [name for name in seen if name in function.__globals__]
        read = {name: function.__globals__[name] for name in names}
        return self._each([function.__code__, function.__defaults__, function.__kwdefaults__, cells, read])


def _is_of_library(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] in _LIBRARIES


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"
