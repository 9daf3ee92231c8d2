"""What can be reached from a value, such as the model that a function closes over; see `walking` for what it weighs."""

from __future__ import annotations

import functools
import itertools
import types
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.holdings.foreign import closure_of, slots_of, variables_of

_MOST_PARTS = 20_000
_MOST_ITEMS = 1_000  # of one list: a data set may hold a million paths
_PLAIN = (str, bytes, int, float, complex, bool, type(None), type, types.ModuleType, torch.dtype, torch.device)


def reachable_from(value: Any) -> Iterator[Any]:
    """Yield a value and what it holds: submodules, tensors, items, attributes, and what a function closes over.

    Of a list or a dictionary the first 1,000 items are looked at, of everything 20,000 parts, the nearest ones first.
    """
    seen: set[int] = set()
    waiting = deque([value])
    while waiting and len(seen) < _MOST_PARTS:
        part = waiting.popleft()
        if id(part) in seen or isinstance(part, _PLAIN):
            continue
        seen.add(id(part))
        yield part
        waiting.extend(_held(part))


def modules_within(value: Any) -> Iterator[nn.Module]:
    """Yield the modules that can be reached from a callable, each with all of its submodules."""
    seen: set[int] = set()
    for part in [value] if isinstance(value, nn.Module) else reachable_from(value):
        for module in part.modules() if isinstance(part, nn.Module) and id(part) not in seen else ():
            if id(module) not in seen:
                seen.add(id(module))
                yield module


def _held(part: Any) -> Iterable[Any]:
    if isinstance(part, Tensor):
        return []
    if isinstance(part, (dict, types.MappingProxyType)):  # other mappings may compute what they are asked for
        return itertools.islice(part.values(), _MOST_ITEMS)
    if isinstance(part, (list, tuple, set, frozenset)):
        return itertools.islice(part, _MOST_ITEMS)
    if isinstance(part, functools.partial):
        return [part.func, *part.args, *part.keywords.values()]
    if isinstance(part, types.MethodType):
        return [part.__self__, part.__func__]
    if isinstance(part, types.FunctionType):
        captured = [value for _, value in closure_of(part)]
        models = [value for _, value in variables_of(part) if isinstance(value, nn.Module)]
        return [*captured, *models, *vars(part).values()]
    slots = [getattr(part, name, None) for name in slots_of(type(part))]
    return [*getattr(part, "__dict__", {}).values(), *slots]
