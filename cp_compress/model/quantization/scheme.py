"""Fewer bits for each weight: float16, bfloat16, or integers of 8 or 4 bits with scales for channels or groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.errors import CompressionError
from cp_compress.inputs.seen import mark_as_used
from cp_compress.model.layers import Weight, copy_model
from cp_compress.model.order import record_scheme
from cp_compress.model.quantization.calibration import CalibrationData, find_input_ranges, read_calibration
from cp_compress.model.quantization.rounding import choose_weights, obstacle, to_integers
from cp_compress.model.record import Change, Skip
from cp_compress.model.representations.arithmetic import has_own_forward
from cp_compress.model.representations.formats import IntegerFormat, quantize
from cp_compress.model.representations.half_computed import cast_model
from cp_compress.model.representations.half_stored import find_half, hold_model
from cp_compress.model.representations.integer_layers import require_float_weights
from cp_compress.model.representations.products import probe_obstacle
from cp_compress.model.scheme import Piped
from cp_compress.model.settings import INTEGERS, QuantizeSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

_FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@explains_keywords
@dataclass(frozen=True, repr=False)
class Quantize(Piped, QuantizeSettings):
    """Hold a model's numbers in a smaller dtype; inputs and outputs keep theirs.

    "int8" and "int4" store the weights of linear layers, convolutions, attention projections and recurrent layers as
    symmetric integers, two of four bits in a byte, with one scale for each output channel or group. Patterns allow
    several formats in one model: `quantize(int8, include="layer1.*") | quantize(int4, exclude="layer1.*")`. Models held
    in 16 bits are exported by `torch.export`, but not with strict=True.

    Args:
        dtype: "float16" or "bfloat16" for all parameters, "int8" or "int4" for weights.
        mode: How the model computes. "weight" computes in its own dtype with the rounded weights. "dynamic" casts a
            model in 16 bits as `model.half()` does, with casts around it (slow on a CPU without float16 arithmetic);
            with integers it also rounds the input of each linear layer and convolution to 8 bits, with a scale for each
            example, and sums exactly. "static" does the latter with one range for each layer, found on `calibration`.
        group_size: How many consecutive weights of a channel share a scale (the last group may be shorter), 1 or more;
            None for one scale per channel. For integers with `mode="weight"` only.
        calibration: The data for `mode="static"`: the name of a factory that returns a data set, as
            "package.module:factory", or `CalibrationData`.
        include: Patterns on the paths or types of layers, as in `Prune`; for integers only. Tables of embeddings are
            quantised, by rows, only where a pattern names them, or where a layer shares them.
        exclude: Patterns of the layers to leave unchanged; for integers only.

    Raises:
        InvalidArgumentError: If an argument is not as described, or does not go with `dtype` and `mode`.

    >>> from torch import nn
    >>> layer = Quantize("int8").compress(nn.Linear(4, 2))
    >>> layer.weight_int8.dtype, isinstance(layer, nn.Linear)
    (torch.int8, True)
    """

    calibration: str | CalibrationData | None = None

    leaves: ClassVar[tuple[str, ...]] = ("rounded_numbers",)
    undoes: ClassVar[tuple[str, ...]] = ()

    def content(self) -> str:
        """Return the scheme's text with the digest of its calibration data: what its result depends on."""
        if self.calibration is None:
            return str(self)
        return f"{self} {read_calibration('Quantize', self.calibration).digest}"

    def compress(self, model: nn.Module) -> nn.Module:
        """Return a quantised copy of the model.

        Raises CompressionError when nothing can be quantised, when a chosen layer is already, for a value that the
        dtype cannot hold, and for NaN or Inf weights; and what the model raises on the calibration data.
        """
        candidate = copy_model("Quantize", model)
        if self.dtype in INTEGERS:
            changes, skips = self._to_integers(candidate)
        else:
            changes, skips = self._to_float(candidate), []
        record_scheme(self, candidate, changes, skips)
        return candidate

    def _to_float(self, model: nn.Module) -> list[Change]:
        narrow = find_half(model)
        if narrow is not None:
            raise CompressionError(f"{self}: the model is in {narrow[0]} already; quantise it once")
        if self.mode == "dynamic":
            require_float_weights(str(self), model)  # a cast would round their scales
            return cast_model(model, _FLOATS[self.dtype])
        return hold_model(model, _FLOATS[self.dtype])

    def _to_integers(self, model: nn.Module) -> tuple[list[Change], list[Skip]]:
        form = IntegerFormat(INTEGERS[self.dtype], self.group_size)
        weights, skips = choose_weights(str(self), model, self.include, self.exclude)
        ranges, refused = None, {}
        if self.mode == "dynamic":
            refused = self._probed(weights)
        if self.calibration is not None:
            data = read_calibration("Quantize", self.calibration)
            chosen = [weight for weight in weights if obstacle(weight, self.mode) is None]
            ranges, refused = find_input_ranges(
                model, {place.module for weight in chosen for place in weight.owners}, data
            )
            mark_as_used(model, "calibration", data.inputs)

        def rounded(weight: Weight, groups: int | None) -> tuple[Tensor, Tensor, str]:
            values, scale = quantize(weight.tensor, groups, form)
            inputs = {"weight": "", "dynamic": ", inputs rounded for each example", "static": ", inputs rounded"}
            return values, scale, f"{form} with {scale.numel()} scales{inputs[self.mode]}"

        return to_integers(str(self), weights, skips, form, self.mode, rounded, ranges, refused)

    def _probed(self, weights: list[Weight]) -> dict[nn.Module, str]:
        """Return the layers with a forward of their own whose inputs cannot be rounded, and why."""
        chosen = [weight for weight in weights if obstacle(weight, self.mode) is None]
        modules = dict.fromkeys(place.module for weight in chosen for place in weight.owners)
        told = {module: probe_obstacle(module) for module in modules if has_own_forward(type(module))}
        return {module: reason for module, reason in told.items() if reason is not None}
