"""A copy of a whole model, or why there can be none, in the words of what is in it, with what to do."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from cp_compress.base.errors import CompressionError
from cp_compress.base.holdings.tensors import is_made_of_others
from cp_compress.model.call_caches import empty_caches

Model = TypeVar("Model", bound=nn.Module)

_BY_HOOK = {
    BasePruningMethod: (
        "has a mask of torch.nn.utils.prune attached, which computes {name} anew in each call",
        "make the pruning permanent with torch.nn.utils.prune.remove(module, {name!r})",
    ),
    SpectralNorm: (
        "has torch.nn.utils.spectral_norm attached, which computes {name} anew in each call",
        "take it off with torch.nn.utils.remove_spectral_norm(module, {name!r}), or use "
        "torch.nn.utils.parametrizations.spectral_norm",
    ),
    WeightNorm: (
        "has torch.nn.utils.weight_norm attached, which computes {name} anew in each call",
        "take it off with torch.nn.utils.remove_weight_norm(module, {name!r}), or use "
        "torch.nn.utils.parametrizations.weight_norm",
    ),
}


def copy_whole(model: Model) -> Model:
    """Return a deep copy of a model, without what its observed calls have left in it.

    Raises CompressionError, with what is in the way, where there can be none.
    """
    try:
        copied = copy.deepcopy(model, _copies_of_subclasses(model))
    except Exception as error:
        reason = _uncopied(model) or error
        raise CompressionError(f"the model cannot be copied, and the original is never changed: {reason}") from error
    empty_caches(model, copied)
    return copied


def _copies_of_subclasses(model: nn.Module) -> dict[int, Any]:
    """Return, for `copy.deepcopy` to take, copies of tensors whose own class does not copy them, by their `id`."""
    copies: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        if not is_made_of_others(tensor):
            continue
        try:
            copy.deepcopy(tensor)
        except Exception:  # a library's tensors may do without, and are put together anew
            with contextlib.suppress(Exception):
                copies[id(tensor)] = _rebuilt(tensor)
    return copies


def _rebuilt(tensor: Any) -> Tensor:
    names, context = tensor.__tensor_flatten__()
    inner = {name: getattr(tensor, name) for name in names}
    parts = {name: _rebuilt(part) if is_made_of_others(part) else part.detach().clone() for name, part in inner.items()}
    made = type(tensor).__tensor_unflatten__(parts, context, tensor.shape, tensor.stride())
    return nn.Parameter(made, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _uncopied(model: nn.Module) -> str | None:
    """Return which part of a model holds a tensor of a computation, which no copy can hold, and what to do; else None.

    >>> import torch
    >>> layer = torch.nn.utils.prune.l1_unstructured(nn.Linear(2, 2), "weight", 0.5)
    >>> print(_uncopied(layer))
    the model has a mask of torch.nn.utils.prune attached, which computes weight anew in each call: make the pruning ...
    """
    found = [(path, module, name) for path, module in model.named_modules() for name in _computed(module)]
    for path, module, name in found:
        where = path or "the model"
        for hook in module._forward_pre_hooks.values():
            for kind, (what, remedy) in _BY_HOOK.items():
                if isinstance(hook, kind) and _names(hook) == name:
                    return f"{where} {what.format(name=name)}: {remedy.format(name=name)}"
    if not found:
        return None
    path, _, name = found[0]
    full = f"{path}.{name}" if path else name
    return f"{full} is a tensor that belongs to a computation of gradients: keep {name}.detach() instead, or remove it"


def _computed(module: nn.Module) -> list[str]:
    """Return the attributes of a module that hold tensors which autograd has computed, alone or among others."""
    held = {**vars(module), **module._buffers, **module._parameters}
    held = {name: value for name, value in held.items() if name not in ("_parameters", "_buffers", "_modules")}
    return [name for name, value in held.items() if any(one.grad_fn is not None for one in _tensors(value))]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)


def _names(hook: object) -> str | None:
    """Return the parameter that a hook of torch.nn.utils computes."""
    return getattr(hook, "_tensor_name", None) or getattr(hook, "name", None)
