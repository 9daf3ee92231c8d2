"""Fewer bits for each weight: float16, bfloat16, or 8-bit integers with one scale for each output channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from cp_compress.base.arguments import check_choice, reject
from cp_compress.base.errors import CompressionError
from cp_compress.model.casting import cast_model, find_casts
from cp_compress.model.integer import can_run_dynamic, fill, int8_layers, quantize, to_int8_layer
from cp_compress.model.layers import Weight, copy_model, find_weights
from cp_compress.model.schemes import Piped
from cp_compress.model.steps import Change, Skip, Step, add_step

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}
_MODES = ("weight", "dynamic")


@dataclass(frozen=True)
class Quantize(Piped):
    """Hold a model's numbers in a smaller dtype; inputs and outputs keep theirs.

    "float16" and "bfloat16" cast every floating-point tensor and compute in that dtype, with casts around the model.
    "int8" stores the weights of linear layers, convolutions and attention projections as integers with a scale for
    each output channel and computes with their product (`mode="weight"`), or rounds the input of each such layer to
    8 bits as well and sums exactly (`mode="dynamic"`, see `cp_compress.model.integer`).

    >>> from torch import nn
    >>> layer = Quantize("int8").compress(nn.Linear(4, 2))
    >>> layer.weight_int8.dtype, isinstance(layer, nn.Linear)
    (torch.int8, True)
    """

    dtype: str
    mode: str = "weight"

    expression_name: ClassVar[str] = "quantize"
    positional_fields: ClassVar[tuple[str, ...]] = ("dtype",)

    def __post_init__(self) -> None:
        check_choice("Quantize", "dtype", self.dtype, tuple(_DTYPES))
        check_choice("Quantize", "mode", self.mode, _MODES)
        if self.mode == "dynamic" and self.dtype != "int8":
            reject("Quantize", "mode", self.mode, f"{self.dtype} has one mode, 'weight'; 'dynamic' is for int8")

    def compress(self, model: nn.Module) -> nn.Module:
        """Return a quantised copy of the model.

        Raises CompressionError when nothing can be quantised, when it is already, for a value that the dtype cannot
        hold, and for NaN or Inf weights.
        """
        candidate = copy_model("Quantize", model)
        require_float_weights(str(self), candidate)
        if self.dtype == "int8":
            changes, skips = _to_int8(candidate, self.mode == "dynamic")
            if not changes:
                listed = "; ".join(f"{skip.tensor}: {skip.reason}" for skip in skips[:5])
                raise CompressionError(f"{self}: the model has no weight to quantise ({listed or 'it has no tensors'})")
        else:
            casts = find_casts(candidate)
            if casts is not None:
                raise CompressionError(f"{self}: the model computes in {casts[0]} already; quantise it once")
            changes, skips = cast_model(candidate, _DTYPES[self.dtype]), []
        add_step(candidate, Step(str(self), tuple(changes), tuple(skips)))
        return candidate


def require_float_weights(owner: str, model: nn.Module) -> None:
    """Raise CompressionError, naming the first layer, when weights are 8-bit integers already."""
    layers = int8_layers(model)
    if layers:
        path = layers[0][0] or "the model itself"
        raise CompressionError(
            f"{owner}: {len(layers)} layers hold 8-bit weights already (first: {path}); int8 must be the last step"
        )


def _to_int8(model: nn.Module, dynamic: bool) -> tuple[list[Change], list[Skip]]:
    weights, skips = find_weights(model)
    planned: dict[nn.Module, list[tuple[str, Tensor, Tensor]]] = {}
    changes = []
    for weight in weights:
        reason = _obstacle(weight, dynamic)
        if reason:
            skips.append(Skip(weight.name, reason))
            continue
        values, scale = quantize(weight.tensor, _output_dimension(weight.owners[0].module))
        for owner in weight.owners:
            planned.setdefault(owner.module, []).append((owner.attribute, values, scale))
        activations = ", inputs rounded for each example" if dynamic else ""
        changes.append(Change(weight.name, f"int8 with {scale.numel()} scales{activations}"))
    for module, parts in planned.items():
        to_int8_layer(module, tuple(name for name, _, _ in parts), dynamic)
        for name, values, scale in parts:
            fill(module, name, values, scale)
    return changes, skips


def _obstacle(weight: Weight, dynamic: bool) -> str | None:
    modules = [owner.module for owner in weight.owners]
    for module in modules:
        kind = type(module).__name__
        if not isinstance(module, (nn.Linear, _ConvNd, nn.MultiheadAttention)):
            return f"{kind} does not compute with 8-bit weights here"
        if isinstance(module, _ConvTransposeNd) and module.groups > 1:
            return "a transposed convolution in groups has no single dimension of output channels"
        if dynamic and isinstance(module, NonDynamicallyQuantizableLinear):
            return "attention reads this weight without calling the layer: its inputs cannot be rounded"
        if dynamic and not can_run_dynamic(module):
            return f"{kind} has arithmetic of its own: its inputs cannot be rounded"
    if len({_output_dimension(module) for module in modules}) > 1:
        return "it is shared by layers with different dimensions of output channels"
    return None


def _output_dimension(module: nn.Module) -> int:
    return 1 if isinstance(module, _ConvTransposeNd) else 0
