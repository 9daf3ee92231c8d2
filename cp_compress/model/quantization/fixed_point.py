"""Fixed-point weights: two's complement with the binary point at one place for each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.errors import CompressionError
from cp_compress.model.layers import Weight, copy_model
from cp_compress.model.order import record_scheme
from cp_compress.model.quantization.rounding import choose_weights, to_integers
from cp_compress.model.representations.formats import IntegerFormat, fitting_fraction_bits, quantize_fixed
from cp_compress.model.scheme import Piped
from cp_compress.model.settings import MOST_FRACTION_BITS, FixedPointSettings

if TYPE_CHECKING:
    from torch import nn


@explains_keywords
@dataclass(frozen=True, repr=False)
class FixedPoint(Piped, FixedPointSettings):
    """Round weights to two's-complement numbers of `bits` bits, `fraction_bits` of them behind the binary point.

    In Qm.n, with n = `fraction_bits` and m = bits − 1 − n bits before the point, a weight w becomes round(w·2^n)/2^n,
    halves to even; values outside [−2^m, 2^m − 2^−n] are saturated, and the report counts them. Values take 2, 4, 8 or
    16 bits in memory and in a file. Biases, inputs and sums are not rounded.

    Args:
        bits: The whole width of a number with its sign, in 2…16.
        fraction_bits: The bits behind the binary point, in −126…126; if None, each layer gets the most with which its
            largest magnitude is not saturated.
        include: Patterns on the paths or types of layers, as in `Prune`.
        exclude: Patterns of the layers to leave unchanged.

    Raises:
        InvalidArgumentError: If an argument is not as described.

    >>> from torch import nn
    >>> layer = FixedPoint(bits=8, fraction_bits=4).compress(nn.Linear(2, 2))
    >>> bool((layer.weight * 16 == (layer.weight * 16).round()).all())
    True
    """

    leaves: ClassVar[tuple[str, ...]] = ("rounded_numbers",)
    undoes: ClassVar[tuple[str, ...]] = ()

    def compress(self, model: nn.Module) -> nn.Module:
        """Return a copy of the model with fixed-point weights.

        Raises CompressionError when nothing can be quantised, for layers that hold integers already, for a layer
        that would hold nothing but zeros, for a scale that the model's dtype cannot hold, and for NaN or Inf weights.
        """
        candidate = copy_model("FixedPoint", model)
        weights, skips = choose_weights(str(self), candidate, self.include, self.exclude)
        form = IntegerFormat(self.bits, fixed=True)
        changes, skips = to_integers(str(self), weights, skips, form, "weight", self._round)
        record_scheme(self, candidate, changes, skips)
        return candidate

    def _round(self, weight: Weight, groups: int | None) -> tuple[Tensor, Tensor, str]:
        form = IntegerFormat(self.bits, fixed=True)
        largest = float(weight.tensor.detach().abs().max())
        places = self.fraction_bits
        if places is None:
            places = min(MOST_FRACTION_BITS, fitting_fraction_bits(largest, form))
        limits = torch.finfo(weight.tensor.dtype)
        if not limits.tiny * limits.eps <= 2.0**-places <= limits.max / 2**self.bits:
            raise CompressionError(
                f"{self}: the scale 2^{-places} of {weight.name} does not fit its dtype {weight.tensor.dtype}: "
                "give fraction_bits, or exclude this layer"
            )
        values, scale, saturated = quantize_fixed(weight.tensor, form, places)
        if largest > 0 and not bool(values.any()):
            raise CompressionError(
                f"{self}: {weight.name} would hold nothing but zeros: its largest value is {largest:.4g}, "
                f"a step is {2.0**-places:.4g}"
            )
        words = f"{form.name} Q{self.bits - 1 - places}.{places}"
        return values, scale, f"{words}, {saturated} of {values.numel()} saturated" if saturated else words
