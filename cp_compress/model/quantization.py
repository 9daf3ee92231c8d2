"""Fewer bits for each weight: float16, bfloat16, or 8-bit integers with one scale for each output channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from cp_compress.base.arguments import check_choice
from cp_compress.base.errors import CompressionError
from cp_compress.model.casting import cast_model, find_casts
from cp_compress.model.holding import find_holding, hold_model
from cp_compress.model.integer import (
    fill,
    int8_obstacle,
    output_dimension,
    quantize,
    require_float_weights,
    to_int8_layer,
)
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

    "float16" and "bfloat16" hold every parameter in that dtype and compute in the model's own (`mode="weight"`), or
    cast every floating-point tensor and compute in that dtype, with casts around the model (`mode="dynamic"`, as
    `model.half()` would; slow on a CPU without float16 arithmetic).
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
            narrow = find_casts(candidate) or find_holding(candidate)
            if narrow is not None:
                raise CompressionError(f"{self}: the model is in {narrow[0]} already; quantise it once")
            narrowed = cast_model if self.mode == "dynamic" else hold_model
            changes, skips = narrowed(candidate, _DTYPES[self.dtype]), []
        add_step(candidate, Step(str(self), tuple(changes), tuple(skips)))
        return candidate


def _to_int8(model: nn.Module, dynamic: bool) -> tuple[list[Change], list[Skip]]:
    weights, skips = find_weights(model)
    planned: dict[nn.Module, list[tuple[str, Tensor, Tensor]]] = {}
    changes = []
    for weight in weights:
        reason = _obstacle(weight, dynamic)
        if reason:
            skips.append(Skip(weight.name, reason))
            continue
        values, scale = quantize(weight.tensor, output_dimension(weight.owners[0].module))
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
    reasons = [reason for reason in (int8_obstacle(module, dynamic) for module in modules) if reason]
    if not reasons and len(set(map(output_dimension, modules))) > 1:
        return "it is shared by layers with different dimensions of output channels"
    return reasons[0] if reasons else None
