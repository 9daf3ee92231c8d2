"""Layers that hold their weights as 8-bit integers, and stay instances of the layers they were.

The weight of channel c is q_c·s_c with integers q in −127..127 and one scale s_c = max|w_c|/127 for each output
channel (symmetric, rounded to nearest). A layer's class is replaced by a subclass in which the weight is a property
that is computed from the two stored tensors whenever it is used, so that hooks, paths, `isinstance` and code that
reads `layer.weight` go on working.

With dynamic quantisation the input is rounded too, with a scale for each vector (linear layers) or each example
(convolutions) and never for the batch. The products of integers are then summed exactly, in a float type wide enough
to hold every partial sum, so the result does not depend on the order of summation or on the batch around an example.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from cp_compress.base.errors import CompressionError
from cp_compress.model.layers import Owner, is_weight

_LIMIT = 127
_LARGEST_EXACT = 2**24  # up to here every integer is a float32
_VALUES, _SCALE = "_int8", "_scale"


class StayOnForward:
    """A pre-hook that does nothing but be there: torch's fast path for transformers passes by a layer's forward."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        """Leave the arguments as they are."""


class Int8Weights:
    """What the subclasses with integer weights have in common; never instantiated by itself."""

    int8_base: type[nn.Module]
    int8_names: tuple[str, ...]
    int8_dynamic: bool

    def extra_repr(self) -> str:
        """Return the layer's own settings and how it is quantised."""
        mode = "dynamic" if self.int8_dynamic else "weight"
        own = super().extra_repr()  # type: ignore[misc]
        return f"{own}, int8 {mode}" if own else f"int8 {mode}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        # the class is made at run time: what is stored is how to make it again
        state = self.__getstate__() if hasattr(self, "__getstate__") else self.__dict__
        return _blank_layer, (self.int8_base, self.int8_names, self.int8_dynamic), state


def int8_layers(model: nn.Module) -> list[tuple[str, Int8Weights]]:
    """Return the path and layer of every layer that holds 8-bit weights."""
    return [(path, module) for path, module in model.named_modules() if isinstance(module, Int8Weights)]


def require_float_weights(owner: str, model: nn.Module) -> None:
    """Raise CompressionError, naming the first layer, when weights are 8-bit integers already."""
    layers = int8_layers(model)
    if layers:
        path = layers[0][0] or "the model itself"
        raise CompressionError(
            f"{owner}: {len(layers)} layers hold 8-bit weights already (first: {path}); int8 must be the last step"
        )


def stored_names(name: str) -> tuple[str, str]:
    """Return the names of the two buffers that hold a weight: its integers and its scales."""
    return name + _VALUES, name + _SCALE


def to_int8_layer(module: nn.Module, names: tuple[str, ...], dynamic: bool) -> None:
    """Turn a layer, in place, into one whose named weights are buffers yet to be filled by `fill`."""
    for name in names:
        del module._parameters[name]
    module.__class__ = _int8_class(type(module), names, dynamic)  # type: ignore[arg-type]
    if dynamic:
        module.register_forward_pre_hook(StayOnForward())


def fill(module: nn.Module, name: str, values: Tensor, scale: Tensor) -> None:
    """Give a layer the integers and scales of one weight; their product is the weight."""
    for stored, tensor in zip(stored_names(name), (values, scale), strict=True):
        module.register_buffer(stored, tensor)


def quantize(weight: Tensor, channel: int) -> tuple[Tensor, Tensor]:
    """Return integers (as `weight`, int8) and scales (1 in every dimension but `channel`) of a weight.

    >>> values, scale = quantize(torch.tensor([[1.0, -2.54]]), 0)
    >>> values.tolist(), scale.shape
    ([[50, -127]], torch.Size([1, 1]))
    """
    weight = weight.detach()
    others = [dimension for dimension in range(weight.ndim) if dimension != channel]
    scale = _safe_scale(weight.abs().amax(others, keepdim=True))
    # in float64 the quotient is rounded once, whatever the dtype of the weight
    values = (weight.double() / scale.double()).round_().clamp_(-_LIMIT, _LIMIT).to(torch.int8)
    return values, scale


def _safe_scale(largest: Tensor) -> Tensor:
    scale = (largest / _LIMIT).clamp_min(torch.finfo(largest.dtype).tiny)
    return torch.where(largest == 0, torch.ones_like(scale), scale)


def output_dimension(module: nn.Module) -> int:
    """Return the dimension of a layer's weight that runs over its output channels."""
    return 1 if isinstance(module, _ConvTransposeNd) else 0


def can_hold_int8(place: Owner, dynamic: bool) -> bool:
    """Tell whether a parameter, in one place of its use, can be held as 8-bit integers."""
    return is_weight(place) and int8_obstacle(place.module, dynamic) is None


def int8_obstacle(module: nn.Module, dynamic: bool) -> str | None:
    """Return why the weights of a layer cannot be held as 8-bit integers, or None."""
    kind = type(module).__name__
    if not isinstance(module, (nn.Linear, _ConvNd, nn.MultiheadAttention)):
        return f"{kind} does not compute with 8-bit weights here"
    if isinstance(module, _ConvTransposeNd) and module.groups > 1:
        return "a transposed convolution in groups has no single dimension of output channels"
    if dynamic and isinstance(module, NonDynamicallyQuantizableLinear):
        return "attention reads this weight without calling the layer: its inputs cannot be rounded"
    if dynamic and not _can_run_dynamic(module):
        return f"{kind} has arithmetic of its own: its inputs cannot be rounded"
    return None


def _can_run_dynamic(module: nn.Module) -> bool:
    stock = (nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)
    return type(module).forward in stock


@functools.cache
def _int8_class(base: type[nn.Module], names: tuple[str, ...], dynamic: bool) -> type[nn.Module]:
    body: dict[str, Any] = {name: _weight_property(name) for name in names}
    body |= {"int8_base": base, "int8_names": names, "int8_dynamic": dynamic, "__module__": base.__module__}
    if dynamic:
        body["forward"] = _forward_linear if issubclass(base, nn.Linear) else _forward_convolution
    return type(f"Int8{'Dynamic' if dynamic else ''}{base.__name__}", (Int8Weights, base), body)


def _blank_layer(base: type[nn.Module], names: tuple[str, ...], dynamic: bool) -> nn.Module:
    kind = _int8_class(base, names, dynamic)  # type: ignore[arg-type]
    return kind.__new__(kind)


def _weight_property(name: str) -> property:
    values_name, scale_name = stored_names(name)

    def weight(self: nn.Module) -> Tensor:
        values, scale = self._buffers[values_name], self._buffers[scale_name]
        assert values is not None
        assert scale is not None
        return values.to(scale.dtype) * scale

    return property(weight)


class _Round(torch.autograd.Function):
    """Rounding to the nearest integer with the gradient of the identity (straight-through)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return values.round()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


def _integers(inputs: Tensor, dimensions: tuple[int, ...], products: int, single: bool) -> tuple[Tensor, Tensor]:
    """Return the inputs as integers in a float dtype that sums `products` products exactly, and their scales."""
    scale = _safe_scale(inputs.detach().abs().amax(dimensions, keepdim=True).float())
    integers: Tensor = _Round.apply(inputs.float() / scale)
    exact_in_single = single and products * _LIMIT**2 <= _LARGEST_EXACT
    return integers if exact_in_single else integers.double(), scale


def _forward_linear(self: Any, inputs: Tensor) -> Tensor:
    if inputs.numel() == 0:
        return F.linear(inputs, self.weight, self.bias)
    integers, scale = _integers(inputs, (-1,), self.in_features, single=True)
    sums = F.linear(integers, self.weight_int8.to(integers.dtype))
    return _rescale(sums, scale * self.weight_scale.float().view(-1), self.bias, inputs.dtype)


def _forward_convolution(self: Any, inputs: Tensor) -> Tensor:
    if inputs.numel() == 0:
        outputs: Tensor = self.int8_base.forward(self, inputs)
        return outputs
    spatial = len(self.kernel_size)
    products = math.prod(self.weight_int8.shape[1:])
    # the last dimensions are channels and space: an input without a batch dimension is one example
    # cuDNN may compute float32 convolutions by Winograd's method, which leaves the integers
    single = not inputs.is_cuda
    integers, scale = _integers(inputs, tuple(range(-spatial - 1, 0)), products, single)
    sums = self._conv_forward(integers, self.weight_int8.to(integers.dtype), None)
    channels = self.weight_scale.float().view(-1, *[1] * spatial)
    bias = None if self.bias is None else self.bias.view(-1, *[1] * spatial)
    return _rescale(sums, scale * channels, bias, inputs.dtype)


def _rescale(sums: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    outputs = sums.float() * scale
    return (outputs if bias is None else outputs + bias).to(dtype)
