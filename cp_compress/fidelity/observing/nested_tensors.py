"""The inputs and outputs of a layer: tensors, nested in tuples, lists and mappings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def cast_floats(value: Any, dtype: torch.dtype | None) -> Any:
    """Return nested values with every floating-point tensor in a dtype; None leaves them as they are."""
    if dtype is None:
        return value
    return _map_tensors(value, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def copied(value: Any) -> Any:
    """Return nested values with a copy of every tensor; what was one tensor stays one."""
    copies: dict[int, Tensor] = {}

    def copy_once(tensor: Tensor) -> Tensor:
        if id(tensor) not in copies:
            copies[id(tensor)] = tensor.detach().clone()
        return copies[id(tensor)]

    return _map_tensors(value, copy_once)


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        parts = [_map_tensors(entry, change) for entry in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {key: _map_tensors(entry, change) for key, entry in value.items()}
    return value


def tensors_in(value: Any) -> list[Tensor]:
    """Return the real tensors of nested values, in their order."""
    if isinstance(value, Tensor):
        return [] if value.is_complex() else [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for entry in value for tensor in tensors_in(entry)]
    return []
