"""Models that hold their parameters in 16 bits and compute in the dtype of the original.

This is what storing a model in float16 does to it: every parameter is rounded once, the arithmetic stays as it was. It
runs at the speed of the original on any machine, where float16 arithmetic on a CPU can be thirty times slower.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.errors import CompressionError
from cp_compress.model.record import Change
from cp_compress.model.representations.half_computed import (
    dtype_names,
    find_casts,
    model_dtype,
    read_dtypes,
    require_range,
)
from cp_compress.model.representations.integer_layers import formats_of, stored_names
from cp_compress.model.representations.representation import Representation

# tensors are exchanged in the model itself, so that threads that share one must take turns
_one_at_a_time = threading.RLock()


class HeldForward:
    """The `forward` of a model whose parameters are widened, for one call, from `held` to `computed`.

    It is an attribute of the instance, so that the model keeps its class, its paths and its hooks. Threads take turns.
    The model is one unit: a layer or another method of it called alone, `model.half()` and `torch.export(strict=True)`
    find narrow parameters; for those use `mode="dynamic"`.
    """

    def __init__(self, model: nn.Module, held: torch.dtype, computed: torch.dtype) -> None:
        self.model, self.held, self.computed = model, held, computed

    @property
    def __code__(self) -> Any:
        """The code of the model's own forward, by which `torch.export` names the inputs."""
        return type(self.model).forward.__code__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the model's own forward gives with wide parameters; gradients reach the held ones."""
        with _one_at_a_time, _widened(self.model, self.held, self.computed):
            return type(self.model).forward(self.model, *args, **kwargs)


def hold_model(model: nn.Module, dtype: torch.dtype) -> list[Change]:
    """Round all floating-point parameters of a model in place to a dtype and widen them whenever they are used.

    Raises CompressionError for a finite value that the dtype cannot hold, for a model whose parameters are of
    several dtypes or whose `forward` was replaced, and when there is nothing to round.
    """
    computed = model_dtype(model)
    wide = {name: tensor for name, tensor in model.named_parameters() if tensor.is_floating_point()}
    dtypes = {tensor.dtype for tensor in wide.values()}
    if computed is None or not wide or dtypes == {dtype}:
        raise CompressionError(f"nothing to round: the model has no floating-point parameter outside {dtype}")
    if len(dtypes) > 1:
        kinds = ", ".join(sorted(map(str, dtypes)))
        raise CompressionError(f"the parameters are of several dtypes ({kinds}): no single dtype to compute in")
    if "forward" in vars(model):
        raise CompressionError("the model's forward was replaced on the instance: its parameters cannot be widened")
    require_range(wide, dtype)
    with torch.no_grad():
        for tensor in wide.values():
            tensor.data = tensor.data.to(dtype)
    add_holding(model, dtype, computed)
    return [Change(name, f"{computed} to {dtype}".replace("torch.", "")) for name in wide]


def add_holding(model: nn.Module, held: torch.dtype, computed: torch.dtype) -> None:
    """Make a model whose parameters are of dtype `held` compute in dtype `computed`."""
    model.forward = HeldForward(model, held, computed)


def find_holding(model: nn.Module) -> tuple[torch.dtype, torch.dtype] | None:
    """Return the dtypes (held, computed) of a model made by `add_holding`, or None."""
    forward = vars(model).get("forward")
    return (forward.held, forward.computed) if isinstance(forward, HeldForward) else None


def find_half(model: nn.Module) -> tuple[torch.dtype, torch.dtype] | None:
    """Return the 16-bit dtype in which a model computes or holds its parameters, and its own dtype; else None."""
    return find_casts(model) or find_holding(model)


class HalfStored(Representation):
    """A model that holds its parameters in 16 bits: the names of the dtypes (held, computed)."""

    key = "holding"
    whole = True

    def describe(self, model: nn.Module) -> list[str] | None:
        """Return the names of both dtypes, or None."""
        return dtype_names(find_holding(model))

    def read(self, content: Any) -> tuple[torch.dtype, torch.dtype] | None:
        """Return both dtypes, or None."""
        return read_dtypes(content)

    def finish(self, model: nn.Module, found: tuple[torch.dtype, torch.dtype] | None) -> None:
        """Make the model compute in its own dtype."""
        if found is not None and find_holding(model) is None:
            add_holding(model, *found)


@contextlib.contextmanager
def _widened(model: nn.Module, held: torch.dtype, computed: torch.dtype) -> Iterator[None]:
    """Put wide tensors in the places of held ones; gradients flow back through the widening."""
    wide: dict[int, Tensor] = {}
    places: list[tuple[dict[str, Any], Iterable[str]]] = []
    for module in model.modules():
        places.append((module._parameters, list(module._parameters)))
        # a model's own 16-bit buffers stay: it may update them in place
        places.append((module._buffers, [stored_names(name, form)[1] for name, form in formats_of(module).items()]))
    narrow = [(store, name, store[name]) for store, names in places for name in names if _is(store[name], held)]
    # recurrent layers keep a list of their parameters beside the parameters themselves
    recurrent = [(module, module._flat_weights) for module in model.modules() if isinstance(module, nn.RNNBase)]
    try:
        for store, name, tensor in narrow:
            # one wide tensor for each that is shared
            store[name] = wide.setdefault(id(tensor), tensor.to(computed))
        for layer, _ in recurrent:
            layer._flat_weights = [getattr(layer, name, None) for name in layer._flat_weights_names]
        yield
    finally:
        for store, name, tensor in narrow:
            store[name] = tensor
        for layer, weights in recurrent:
            layer._flat_weights = weights


def _is(tensor: Tensor | None, dtype: torch.dtype) -> bool:
    return tensor is not None and tensor.dtype == dtype
