"""Models that compute in float16 or bfloat16 behind the input and output dtype of the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from cp_compress.base.errors import CompressionError
from cp_compress.model.layers import named_tensors
from cp_compress.model.record import Change
from cp_compress.model.representations.representation import Representation

_FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


class CastInputs:
    """A forward pre-hook that casts every floating-point argument to the dtype of the arithmetic."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Return the arguments in the new dtype."""
        return cast(args, self.dtype), cast(kwargs, self.dtype)


class CastOutputs:
    """A forward hook that casts every floating-point result back to the dtype of the original model."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Return the output in the original dtype."""
        return cast(output, self.dtype)


def add_casts(model: nn.Module, inner: torch.dtype, outer: torch.dtype) -> None:
    """Make a model whose tensors are of dtype `inner` take and give values of dtype `outer`."""
    model.register_forward_pre_hook(CastInputs(inner), with_kwargs=True)
    # before hooks of the user's own, which expect the original dtype
    model.register_forward_hook(CastOutputs(outer), prepend=True)


def find_casts(model: nn.Module) -> tuple[torch.dtype, torch.dtype] | None:
    """Return the dtypes (inner, outer) of a model made by `add_casts`, or None."""
    inner = [hook.dtype for hook in model._forward_pre_hooks.values() if isinstance(hook, CastInputs)]
    outer = [hook.dtype for hook in model._forward_hooks.values() if isinstance(hook, CastOutputs)]
    return (inner[0], outer[0]) if inner and outer else None


class HalfComputed(Representation):
    """A model with casts around it: the names of the dtypes (inner, outer)."""

    key = "casts"
    whole = True

    def describe(self, model: nn.Module) -> list[str] | None:
        """Return the names of both dtypes, or None."""
        return dtype_names(find_casts(model))

    def read(self, content: Any) -> tuple[torch.dtype, torch.dtype] | None:
        """Return both dtypes, or None."""
        return read_dtypes(content)

    def finish(self, model: nn.Module, found: tuple[torch.dtype, torch.dtype] | None) -> None:
        """Add the casts."""
        if found is not None and find_casts(model) is None:
            add_casts(model, *found)


def dtype_names(dtypes: tuple[torch.dtype, torch.dtype] | None) -> list[str] | None:
    """Return the names of two dtypes, or None for None."""
    return None if dtypes is None else [str(dtype).removeprefix("torch.") for dtype in dtypes]


def read_dtypes(names: Any) -> tuple[torch.dtype, torch.dtype] | None:
    """Return the dtypes of two names, or None for None; raises KeyError, TypeError or ValueError for anything else."""
    if names is None:
        return None
    first, second = names
    return _FLOATS[first], _FLOATS[second]


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Return a nested structure with every real floating-point tensor in it cast; all else is kept."""

    def one(leaf: Any) -> Any:
        is_tensor = isinstance(leaf, Tensor) and leaf.is_floating_point()
        is_packed = isinstance(leaf, PackedSequence) and leaf.data.is_floating_point()
        return leaf.to(dtype) if is_tensor or is_packed else leaf

    return pytree.tree_map(one, value, is_leaf=lambda leaf: isinstance(leaf, PackedSequence))


def model_dtype(model: nn.Module) -> torch.dtype | None:
    """Return the dtype of a model's first floating-point parameter (else buffer), or None where it has none."""
    for _, tensor in named_tensors(model):
        if tensor.is_floating_point():
            return tensor.dtype
    return None


def cast_model(model: nn.Module, dtype: torch.dtype) -> list[Change]:
    """Cast all floating-point tensors of a model in place and add the casts around it.

    Raises CompressionError for a finite value that the dtype cannot hold, and when there is nothing to cast.
    """
    outer = model_dtype(model)
    before = dict(named_tensors(model))
    wide = {name: tensor for name, tensor in before.items() if tensor.is_floating_point() and tensor.dtype != dtype}
    if outer is None or not wide:
        raise CompressionError(f"nothing to cast: the model holds no floating-point tensor outside {dtype}")
    require_range(wide, dtype)
    was = {name: tensor.dtype for name, tensor in wide.items()}
    _converters[dtype](model)
    add_casts(model, dtype, outer)
    return [Change(name, f"{was[name]} to {dtype}".replace("torch.", "")) for name in wide]


def require_range(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Raise CompressionError, naming the tensor, for a value that a dtype cannot hold, or a layer it would empty."""
    limit = torch.finfo(dtype).max
    for name, tensor in tensors.items():
        if tensor.ndim > 1 and bool(tensor.any()) and not bool(tensor.detach().to(dtype).any()):
            largest = float(tensor.detach().abs().max())
            raise CompressionError(
                f"{name} would hold nothing but zeros in {dtype}: its largest value is {largest:.4g}"
            )
        if bool((torch.isfinite(tensor) & torch.isinf(tensor.detach().to(dtype))).any()):
            largest = float(tensor.detach().abs().max())
            raise CompressionError(
                f"{name} holds {largest:.4g}, which {dtype} cannot: its largest number is {limit:.4g}"
            )


_converters: dict[torch.dtype, Callable[[nn.Module], nn.Module]] = {
    torch.float16: nn.Module.half,
    torch.bfloat16: nn.Module.bfloat16,
}
