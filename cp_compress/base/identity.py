"""What a value is by its content, told as a digest: so that a run that goes on is known to be the same run.

A callable's name is not enough: a closure over another learning rate has the same name. Here its code counts, and
what the code can see: defaults, captured variables, the module's variables that it reads, attributes of objects.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from cp_compress.base.datasets import LabeledData
from cp_compress.base.digests import digest_model, digest_tensors, digest_text

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), torch.dtype, torch.device, range, slice)


def identify(value: object) -> str:
    """Return a hex digest that is the same, in another process too, for values that are and do the same.

    Functions count with their code, defaults, captured variables and the variables of their module that they read;
    objects with their type and attributes. Code of classes and of imported modules does not count, nor the order of
    sets and the addresses of objects. Another version of Python compiles functions to other digests.

    >>> def at(rate): return lambda value: value * rate
    >>> identify(at(0.1)) == identify(at(0.1)), identify(at(0.1)) == identify(at(0.2))
    (True, False)
    """
    return _identify(value, {})


def _identify(value: Any, seen: dict[int, int]) -> str:
    if isinstance(value, _PLAIN):
        return digest_text(type(value).__name__, repr(value))
    if id(value) in seen:  # a cycle, or the same object again
        return digest_text("again", str(seen[id(value)]))
    seen[id(value)] = len(seen)
    return digest_text(*_parts(value, seen))


def _parts(value: Any, seen: dict[int, int]) -> list[str]:
    def each(values: Any) -> list[str]:
        return [_identify(part, seen) for part in values]

    if isinstance(value, torch.Tensor):
        return ["tensor", digest_tensors([value])]
    if isinstance(value, np.ndarray):
        return ["array", str(value.dtype), str(value.shape), *each([value.tobytes() if value.dtype != object else 0])]
    if isinstance(value, torch.nn.Module):
        return ["module", str(digest_model(value))]
    if isinstance(value, LabeledData):
        return ["data", value.digest()]
    if isinstance(value, Mapping):
        return ["mapping", *(part for key in value for part in each([key, value[key]]))]
    if isinstance(value, (set, frozenset)):
        return ["set", *sorted(_identify(part, {}) for part in value)]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *each(value)]
    if isinstance(value, functools.partial):
        return ["partial", *each([value.func, value.args, dict(value.keywords)])]
    if isinstance(value, types.MethodType):
        return ["method", *each([value.__func__, value.__self__])]
    if isinstance(value, types.FunctionType):
        return ["function", _name(value), *_function_parts(value, seen)]
    if isinstance(value, types.CodeType):
        names = (*value.co_names, *value.co_freevars)
        return ["code", value.co_code.hex(), *names, *each(value.co_consts)]
    if isinstance(value, (type, types.ModuleType)) or not hasattr(value, "__dict__"):
        return ["named", _name(value)]
    if dataclasses.is_dataclass(value):
        attributes = {part.name: getattr(value, part.name) for part in dataclasses.fields(value)}
        return ["object", _name(type(value)), *each([attributes])]
    return ["object", _name(type(value)), *each([vars(value)])]


def _function_parts(function: types.FunctionType, seen: dict[int, int]) -> list[str]:
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not bound yet
            cells.append(None)
    read = {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
    parts = (function.__code__, function.__defaults__, function.__kwdefaults__, cells, read)
    return [_identify(part, seen) for part in parts]


def _names(code: types.CodeType) -> list[str]:
    """Return the names that code, and the functions written within it, look up outside."""
    inner = [name for part in code.co_consts if isinstance(part, types.CodeType) for name in _names(part)]
    return sorted({*code.co_names, *inner})


def _name(value: Any) -> str:
    kind = value if hasattr(value, "__qualname__") else type(value)
    name = getattr(value, "__name__", kind.__qualname__) if isinstance(value, types.ModuleType) else kind.__qualname__
    return f"{getattr(kind, '__module__', '')}.{name}"
