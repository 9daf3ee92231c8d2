"""How the numbers of a weight become small integers: rows, groups, scales, and several values in a byte.

A weight is seen as rows, one for each output channel, of the weights that this channel multiplies its inputs with.
Its value is q·s with an integer q and a scale s, one for each row, for each group of consecutive weights of a row, or
(fixed point) a single power of two for the whole weight. Zero is always the integer 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvTransposeNd

from cp_compress.base.errors import CompressionError
from cp_compress.model.layers import is_transposed_linear

_CONTAINERS = {2: torch.uint8, 4: torch.uint8, 8: torch.int8, 16: torch.int16}


@dataclass(frozen=True)
class IntegerFormat:
    """What is stored for each value of a weight, and how many values share a scale.

    `bits` lies in 2..16; values of up to 2 and 4 bits are stored four and two a byte, the others in 8 or 16 bits.
    `group_size` None means the whole row; the last group of a row is shorter where the row is no multiple of it.
    `fixed` is two's-complement fixed point: all codes are used, and the only scale is a power of two.
    """

    bits: int
    group_size: int | None = None
    fixed: bool = False

    @property
    def name(self) -> str:
        """The format in a word, as reports show it."""
        return f"fixed{self.bits}" if self.fixed else f"int{self.bits}"

    @property
    def stored_bits(self) -> int:
        """How many bits a stored value takes."""
        return next(width for width in _CONTAINERS if width >= self.bits)

    @property
    def largest(self) -> int:
        """The largest integer; the smallest is its negative, and one less in fixed point."""
        return int(2 ** (self.bits - 1)) - 1

    def __str__(self) -> str:
        return self.name if self.group_size is None else f"{self.name} in groups of {self.group_size}"

    def to_json(self) -> list[Any]:
        """Return the format as plain Python types."""
        return [self.bits, self.group_size, self.fixed]

    @staticmethod
    def from_json(content: Any) -> IntegerFormat:
        """Read what `to_json` wrote; raises TypeError or ValueError for anything else."""
        bits, group_size, fixed = content
        good_group = group_size is None or (type(group_size) is int and group_size >= 1 and not fixed)
        if type(bits) is not int or not 2 <= bits <= 16 or type(fixed) is not bool or not good_group:
            raise ValueError(f"{content} is no format of integers")
        return IntegerFormat(bits, group_size, fixed)


def row_groups(module: nn.Module) -> int | None:
    """Return what `to_rows` must know of a layer: its number of groups if its weight has its inputs first.

    That is so in transposed convolutions, and in `Conv1D` of transformers, which has one group.
    """
    if is_transposed_linear(module):
        return 1
    return module.groups if isinstance(module, _ConvTransposeNd) else None


def to_rows(weight: Tensor, groups: int | None) -> Tensor:
    """Return a weight as (output channels, weights of each); `groups` is that of a transposed convolution.

    >>> to_rows(torch.arange(8).view(4, 2), 2).tolist()
    [[0, 2], [1, 3], [4, 6], [5, 7]]
    """
    if groups is None:
        return weight.flatten(1)
    split = weight.reshape(groups, -1, *weight.shape[1:])
    return split.transpose(1, 2).flatten(0, 1).flatten(1)


def from_rows(rows: Tensor, shape: tuple[int, ...], groups: int | None) -> Tensor:
    """Return the weight of which `to_rows` made these rows."""
    if groups is None:
        return rows.reshape(shape)
    inputs, outputs, *space = shape
    return rows.reshape(groups, outputs, inputs // groups, *space).transpose(1, 2).reshape(shape)


def scale_shape(shape: tuple[int, ...], groups: int | None, form: IntegerFormat) -> tuple[int, int]:
    """Return the shape (rows or 1, groups of a row) of the scales of a weight."""
    if form.fixed:
        return 1, 1
    rows = shape[0] if groups is None else groups * shape[1]
    columns = math.prod(shape) // rows
    return rows, 1 if form.group_size is None else -(-columns // form.group_size)


def quantize(weight: Tensor, groups: int | None, form: IntegerFormat) -> tuple[Tensor, Tensor]:
    """Return integers (int16, as `weight`) and scales (rows, groups of a row) with s = max|w|/largest, to nearest.

    >>> values, scale = quantize(torch.tensor([[1.0, -2.54]]), None, IntegerFormat(8))
    >>> values.tolist(), scale.shape
    ([[50, -127]], torch.Size([1, 1]))
    """
    weight = weight.detach()
    rows = to_rows(weight, groups)
    size = rows.shape[1] if form.group_size is None else form.group_size
    padded = F.pad(rows.abs(), (0, -rows.shape[1] % size)).view(len(rows), -1, size)
    scale = _scale_of(padded.amax(2), form.largest)
    # in float64 the quotient is rounded once, whatever the dtype of the weight
    quotients = rows.double() / spread(scale.double(), rows.shape[1], form)
    values = quotients.round_().clamp_(-form.largest, form.largest).to(torch.int16)
    return from_rows(values, tuple(weight.shape), groups), scale


def quantize_fixed(weight: Tensor, form: IntegerFormat, fraction_bits: int) -> tuple[Tensor, Tensor, int]:
    """Return integers (int16), the scale 2^-fraction_bits (1, 1), and how many values were saturated.

    >>> quantize_fixed(torch.tensor([[0.3, 1.0, -1.0]]), IntegerFormat(4, fixed=True), 3)[0].tolist()
    [[2, 7, -8]]
    """
    weight = weight.detach()
    rounded = torch.ldexp(weight.double(), torch.tensor(fraction_bits, device=weight.device)).round_()
    values = rounded.clamp(-form.largest - 1, form.largest)
    saturated = int((values != rounded).sum())
    scale = torch.full((1, 1), 2.0**-fraction_bits, dtype=weight.dtype, device=weight.device)
    return values.to(torch.int16), scale, saturated


def fitting_fraction_bits(largest: float, form: IntegerFormat) -> int:
    """Return the most fraction bits with which a magnitude, or zero, is held without saturation.

    >>> [fitting_fraction_bits(value, IntegerFormat(8, fixed=True)) for value in (0.0, 0.99, 1.0, 127.0)]
    [7, 7, 6, 0]
    """
    if largest == 0:
        return form.bits - 1
    # frexp: largest = m·2^e with m in [1/2, 1), so that m·2^(bits-1) is below 2^(bits-1), and at most one bit too many
    mantissa, exponent = math.frexp(largest)
    spare = 0 if mantissa * 2.0 ** (form.bits - 1) <= form.largest else 1
    return form.bits - 1 - exponent - spare


def spread(scale: Tensor, columns: int, form: IntegerFormat) -> Tensor:
    """Return scales (rows, groups) so that they multiply rows of a number of columns."""
    if form.group_size is None:
        return scale
    return scale.repeat_interleave(form.group_size, 1)[:, :columns]


def dequantize(values: Tensor, scale: Tensor, groups: int | None, form: IntegerFormat) -> Tensor:
    """Return q·s, rounded once to the dtype of the scales, in the shape of the integers."""
    wide = torch.promote_types(scale.dtype, torch.float32)
    rows = to_rows(values, groups).to(wide)
    product = rows * spread(scale, rows.shape[1], form)
    return from_rows(product.to(scale.dtype), tuple(values.shape), groups)


def _scale_of(largest: Tensor, steps: int) -> Tensor:
    """Return largest/steps in the dtype of a weight, rounded up, so that no value is beyond the last step.

    Raises CompressionError where the dtype holds such small numbers too coarsely.
    """
    if largest.dtype != torch.float16:
        return safe_scale(largest, steps)
    exact = safe_scale(largest.float(), steps)
    scale = exact.half()
    # one bit pattern further is the next larger number
    following = (scale.view(torch.int16) + 1).view(torch.float16)
    scale = torch.where(scale.float() < exact, following, scale)
    if bool((scale.float() > 1.01 * exact).any()):
        raise CompressionError(
            f"weights of at most {float(largest[largest > 0].min()):.3g} have no float16 scale that is precise to 1 %: "
            "quantise the model in float32"
        )
    return scale


def safe_scale(largest: Tensor, steps: int) -> Tensor:
    """Return largest/steps, but 1 for zero, and never a number so small that dividing by it overflows."""
    scale = (largest / steps).clamp_min(torch.finfo(largest.dtype).tiny)
    return torch.where(largest == 0, torch.ones_like(scale), scale)


def empty_store(shape: tuple[int, ...], form: IntegerFormat, device: torch.device) -> Tensor:
    """Return zeros of the dtype and shape in which integers of a weight of this shape are stored."""
    width = form.stored_bits
    stored = shape if width >= 8 else (-(-math.prod(shape) * width // 8),)
    return torch.zeros(stored, dtype=_CONTAINERS[width], device=device)


def store(values: Tensor, form: IntegerFormat) -> Tensor:
    """Return integers as they are stored: in the weight's shape, or several a byte (first value in the lowest bits).

    >>> store(torch.tensor([[1, -1, 2]]), IntegerFormat(4)).tolist()
    [241, 2]
    """
    width = form.stored_bits
    if width >= 8:
        return values.to(_CONTAINERS[width]).contiguous()
    each = 8 // width
    flat = values.reshape(-1).to(torch.int16)
    parts = F.pad(flat, (0, -len(flat) % each)).view(-1, each) & (2**width - 1)
    places = torch.arange(each, device=values.device) * width
    stored: Tensor = (parts << places).sum(1).to(torch.uint8)
    return stored


def unstore(stored: Tensor, shape: tuple[int, ...], form: IntegerFormat) -> Tensor:
    """Return the integers of a weight of a shape from what `store` made of them.

    >>> unstore(torch.tensor([241, 2], dtype=torch.uint8), (1, 3), IntegerFormat(4)).tolist()
    [[1, -1, 2]]
    """
    width = form.stored_bits
    if width >= 8:
        return stored
    half = 2 ** (width - 1)
    parts = [(stored >> width * place) & (2**width - 1) for place in range(8 // width)]
    codes = torch.stack(parts, -1).flatten()[: math.prod(shape)].view(shape)
    # two's complement: flipping the sign bit and taking half off again extends it
    signed: Tensor = (codes ^ half).to(torch.int8) - half
    return signed
