"""Linear layers and convolutions that round their inputs to 8 bits as well and sum integers exactly.

In mode "dynamic" the input has a scale for each vector (linear layers) or each example (convolutions) and never for
the batch: symmetric, max|x|/127. In mode "static" scale and zero point belong to the layer and were found on
calibration data (`cp_compress.model.quantization.calibration`): x is taken as s·(q − z) with q in 0..255, and what
lies outside the range is saturated. The products of integers are summed exactly, in a float type wide enough to hold
every partial sum, so the result does not depend on the order of summation or on the batch around an example.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cp_compress.base.errors import CompressionError
from cp_compress.model.layers import is_transposed_linear
from cp_compress.model.representations.formats import safe_scale, unstore
from cp_compress.model.representations.products import Product, Products, using_weight

_LIMIT = 127
_UNSIGNED = 255
_LARGEST_EXACT = 2**24  # up to here every integer is a float32
_STOCK = (nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)


class StayOnForward:
    """A pre-hook without effect: its presence keeps torch's fast path for transformers off, which skips forwards."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        """Leave the arguments as they are."""


def has_own_forward(kind: type[nn.Module]) -> bool:
    """Tell whether a class computes in another way than torch's own linear layers and convolutions."""
    return kind.forward not in _STOCK


def can_round_inputs(module: nn.Module) -> bool:
    """Tell whether a layer multiplies inputs by one weight, in torch's way or in a forward of its class."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    known = isinstance(module, kinds) or is_transposed_linear(module)
    return known and "forward" not in vars(module) and (not has_own_forward(type(module)) or _has_one_weight(module))


def _has_one_weight(module: nn.Module) -> bool:
    return module._parameters.get("weight") is not None


def integer_forward(base: type[nn.Module], mode: str) -> Callable[..., Tensor]:
    """Return the forward of a linear layer or convolution that rounds its inputs in a mode.

    A forward of the class's own is run as it is, but for its products of an input with the weight: what meets the
    weight there, behind padding for example, is what is rounded.
    """
    rounded = _dynamic if mode == "dynamic" else _static
    own = base.forward
    if has_own_forward(base):
        return _within(own, rounded)

    def linear(self: Any, input: Tensor) -> Tensor:
        if input.numel() == 0:
            return F.linear(input, self.weight, self.bias)
        integers, scale = rounded(self, input, (-1,), self.in_features, single=True)
        sums = F.linear(integers, _weight_integers(self).to(integers.dtype))
        return _rescale(sums, scale * self.weight_scale.float().view(-1), self.bias, input.dtype)

    def convolution(self: Any, input: Tensor) -> Tensor:
        if input.numel() == 0:
            outputs: Tensor = own(self, input)
            return outputs
        weight = _weight_integers(self)
        spatial = len(self.kernel_size)
        # the last dimensions are channels and space: an input without a batch dimension is one example
        # cuDNN may compute float32 convolutions by Winograd's method, which leaves the integers
        dimensions, products = tuple(range(-spatial - 1, 0)), math.prod(weight.shape[1:])
        integers, scale = rounded(self, input, dimensions, products, single=not input.is_cuda)
        sums = self._conv_forward(integers, weight.to(integers.dtype), None)
        channels = self.weight_scale.float().view(-1, *[1] * spatial)
        bias = None if self.bias is None else self.bias.view(-1, *[1] * spatial)
        return _rescale(sums, scale * channels, bias, input.dtype)

    return linear if issubclass(base, nn.Linear) else convolution


def _within(own: Callable[..., Any], rounded: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Any]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        weight = self.weight
        seen = Products(weight, lambda product: _multiply(self, product, rounded, weight))
        with using_weight(self, weight), seen:
            outputs = own(self, *args, **kwargs)
        if seen.others:
            raise CompressionError(f"{seen.obstacle(self.integer_base.__name__)}")
        return outputs

    return forward


def _multiply(layer: Any, product: Product, rounded: Any, weight: Tensor) -> Tensor:
    inputs = product.inputs
    if inputs.numel() == 0:
        return product.plain(weight)
    rows = layer.weight_scale.float().view(-1, *[1] * product.spatial)
    dimensions = tuple(range(-product.spatial - 1, 0))
    exact = product.spatial == 0 or not inputs.is_cuda
    integers, scale = rounded(layer, inputs, dimensions, weight.numel() // rows.numel(), single=exact)
    sums = product.multiply(integers, _weight_integers(layer).to(integers.dtype))
    bias = None if product.bias is None else product.bias.view(rows.shape)
    return _rescale(sums, scale * rows, bias, inputs.dtype)


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


def _dynamic(
    layer: Any, inputs: Tensor, dimensions: tuple[int, ...], products: int, single: bool
) -> tuple[Tensor, Tensor]:
    """Return the inputs as integers in a float dtype that sums `products` products exactly, and their scales."""
    scale = safe_scale(inputs.detach().abs().amax(dimensions, keepdim=True).float(), _LIMIT)
    integers: Tensor = _Round.apply(inputs.float() / scale)
    return _exact(layer, integers, _LIMIT * products, single), scale


def _static(
    layer: Any, inputs: Tensor, dimensions: tuple[int, ...], products: int, single: bool
) -> tuple[Tensor, Tensor]:
    scale, zero = layer.int8_input_scale.float(), layer.int8_input_zero.float()
    codes: Tensor = _Round.apply(inputs.float() / scale) + zero
    return _exact(layer, codes.clamp(0, _UNSIGNED) - zero, _UNSIGNED * products, single), scale


def _exact(layer: Any, integers: Tensor, largest_sum: int, single: bool) -> Tensor:
    limit = layer.integer_formats["weight"].largest
    return integers if single and largest_sum * limit <= _LARGEST_EXACT else integers.double()


def _weight_integers(layer: Any) -> Tensor:
    form = layer.integer_formats["weight"]
    return unstore(layer.get_buffer(f"weight_int{form.stored_bits}"), layer.integer_shapes["weight"], form)


def _rescale(sums: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    outputs = sums.float() * scale
    return (outputs if bias is None else outputs + bias).to(dtype)
