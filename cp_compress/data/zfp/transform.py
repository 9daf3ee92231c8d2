"""zfp's blocks as tensors: cut out, scaled to integers, transformed and coded in negabinary, and back.

Every step gives the integers that zfp's own code gives, on any device, for any batch shape. Values are float32 with
int32 coefficients, or float64 with int64. A tensor of blocks has shape (..., 4^d), but its memory has the blocks along
the last axis, so that every operation runs over long rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cp_compress.data.zfp.order import natural_order, sequency_order


@dataclass(frozen=True)
class NumberFormat:
    """How zfp represents values of one dtype: `integer` coefficients with the value's exponent and `planes` bits.

    `bias` is that of the exponent in the dtype, `fraction` the bits behind it. Blocks whose exponent is below
    `least_exponent` cannot be scaled; `zfp_limits` keeps them away.
    """

    floating: torch.dtype
    integer: torch.dtype
    planes: int
    bias: int
    fraction: int
    least_exponent: int

    @property
    def negabinary_mask(self) -> int:
        """The bits of odd weight, 0b…1010, as a signed number."""
        return -((1 << self.planes) // 3) - 1

    @property
    def header_bits(self) -> int:
        """The bits of a block before its coefficients: one for emptiness, then the exponent."""
        return self.planes - self.fraction


_FORMATS = (
    NumberFormat(torch.float32, torch.int32, 32, 127, 23, -95),
    NumberFormat(torch.float64, torch.int64, 64, 1023, 52, -959),
)
NUMBERS = {dtype: numbers for numbers in _FORMATS for dtype in (numbers.floating, numbers.integer)}
# a shift by a Python number would convert it to a tensor each time
_ONES = {numbers.integer: torch.ones((), dtype=numbers.integer) for numbers in _FORMATS}
# what zfp repeats behind 0 to 3 values that a block has left at the end of an array
_PADDING = {0: (), 1: (0, 0, 0), 2: (1, 0), 3: (0,)}


def block_grid(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the number of blocks along each dimension of an array."""
    return tuple(-(-extent // 4) for extent in shape)


def to_blocks(values: Tensor, dimensions: int) -> Tensor:
    """Cut the last `dimensions` (1 to 4) of values (..., shape) into blocks (..., grid, 4^d), each in C order.

    Incomplete blocks at the end of a dimension are filled up as zfp fills them.

    >>> to_blocks(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), 1)
    tensor([[1., 2., 3., 4.],
            [5., 6., 6., 5.]])
    """
    batch_dimensions = values.ndim - dimensions
    for axis in range(batch_dimensions, values.ndim):
        extent = values.shape[axis]
        repeated = _PADDING[extent % 4]
        if repeated:
            start = extent - extent % 4
            # an index would be a transfer for which a device is waited for
            values = torch.cat([values, *(values.narrow(axis, start + place, 1) for place in repeated)], dim=axis)
    batch, grid = values.shape[:batch_dimensions], block_grid(values.shape[batch_dimensions:])
    split = values.reshape(*batch, *(length for count in grid for length in (count, 4)))
    within = [batch_dimensions + 1 + 2 * axis for axis in range(dimensions)]
    rows = split.movedim(within, list(range(dimensions))).contiguous()
    return rows.reshape(4**dimensions, *batch, *grid).movedim(0, -1)


def from_blocks(blocks: Tensor, shape: Sequence[int], out: Tensor | None = None) -> Tensor:
    """Put blocks (..., grid, 4^d) together to values (..., shape): the inverse of `to_blocks`.

    `out`, a tensor of that shape in any layout, receives the values where it is given.
    """
    dimensions = len(shape)
    batch_dimensions = blocks.ndim - 1 - dimensions
    batch = blocks.shape[:batch_dimensions]
    result = blocks.new_empty(*batch, *shape) if out is None else out
    cube = blocks.view(*blocks.shape[:-1], *(4,) * dimensions)
    for axis, extent in enumerate(shape):
        if extent < 4:  # one block, of which a part is used
            cube = cube.narrow(batch_dimensions + dimensions + axis, 0, extent)
    order = [axis for pair in range(dimensions) for axis in (pair, dimensions + pair)]
    split = cube.permute(*range(batch_dimensions), *(batch_dimensions + axis for axis in order))
    if all(extent % 4 == 0 or extent < 4 for extent in shape):
        result.view(split.shape).copy_(split)
        return result
    values = split.reshape(
        *batch, *(count * min(extent, 4) for count, extent in zip(block_grid(shape), shape, strict=True))
    )
    for axis, extent in enumerate(shape):
        values = values.narrow(batch_dimensions + axis, 0, extent)
    return result.copy_(values)


def block_exponents(blocks: Tensor) -> Tensor:
    """Return for each block (..., 4^d) the least exponent e, int32, with all magnitudes below 2^e.

    It is −127 (float64: −1023) for a block of zeros, as in zfp.
    """
    numbers = NUMBERS[blocks.dtype]
    rows = blocks.abs().movedim(-1, 0)
    while len(rows) > 1:  # by halves: faster than a reduction over the first dimension
        rows = torch.maximum(rows[: len(rows) // 2], rows[len(rows) // 2 :])
    largest = rows[0]
    exponents = (largest.view(numbers.integer) >> numbers.fraction) - (numbers.bias - 1)
    return exponents.masked_fill_(largest == 0, -numbers.bias).to(torch.int32)


def to_fixed_point(blocks: Tensor, exponents: Tensor) -> Tensor:
    """Scale blocks (..., 4^d) by their exponents (...) to integers of less than 2^30 (float64: 2^62), towards 0."""
    numbers = NUMBERS[blocks.dtype]
    scale = _power_of_two(numbers.planes - 2 - exponents.clamp(min=numbers.least_exponent), numbers)
    return (blocks * scale.unsqueeze(-1)).to(numbers.integer)


def from_fixed_point(integers: Tensor, exponents: Tensor) -> Tensor:
    """Scale integers (..., 4^d) back to values, rounded to the dtype as zfp rounds."""
    numbers = NUMBERS[integers.dtype]
    scale = _power_of_two(exponents.clamp(min=numbers.least_exponent) - (numbers.planes - 2), numbers)
    return integers.to(numbers.floating).mul_(scale.unsqueeze(-1))


def _power_of_two(exponents: Tensor, numbers: NumberFormat) -> Tensor:
    # by its bits: a power computed by a device's own function need not be exact
    return ((exponents.to(numbers.integer) + numbers.bias) << numbers.fraction).view(numbers.floating)


def forward_transform(integers: Tensor) -> Tensor:
    """Return the decorrelating transform of integer blocks (..., 4^d), coefficients in the places of their values.

    In each dimension it is 1/16 · [[4, 4, 4, 4], [5, 1, −1, −5], [−4, 4, 4, −4], [−2, 6, −6, 2]] with zfp's rounding,
    by lifting steps (Lindstrom, "Fixed-Rate Compressed Floating-Point Arrays", 2014); the first is the mean.
    """
    return _forward_in_place(integers.clone())


def inverse_transform(coefficients: Tensor) -> Tensor:
    """Return integer blocks (..., 4^d) from their coefficients; sums wrap around as zfp's do.

    `forward_transform` undoes it exactly where nothing wraps; it does not undo `forward_transform`, which rounds.
    """
    return _inverse_in_place(coefficients.clone())


def _cube(blocks: Tensor, dimensions: int) -> Tensor:
    return blocks.movedim(-1, 0).view((4,) * dimensions + blocks.shape[:-1])


def _forward_in_place(blocks: Tensor) -> Tensor:
    dimensions = block_dimensions(blocks)
    cube, one = _cube(blocks, dimensions), _ONES[blocks.dtype]
    for axis in reversed(range(dimensions)):
        x, y, z, w = cube.unbind(axis)
        for first, second in ((x, w), (z, y), (x, z), (w, y)):
            first.add_(second).bitwise_right_shift_(one)
            second.sub_(first)
        w.add_(torch.bitwise_right_shift(y, one))
        y.sub_(torch.bitwise_right_shift(w, one))
    return blocks


def _inverse_in_place(blocks: Tensor) -> Tensor:
    dimensions = block_dimensions(blocks)
    cube, one = _cube(blocks, dimensions), _ONES[blocks.dtype]
    for axis in range(dimensions):
        x, y, z, w = cube.unbind(axis)
        y.add_(torch.bitwise_right_shift(w, one))
        w.sub_(torch.bitwise_right_shift(y, one))
        for first, second in ((y, w), (z, x), (y, z), (w, x)):
            first.add_(second)
            torch.sub(second, first.sub(second), out=second)
    return blocks


def block_dimensions(blocks: Tensor) -> int:
    """Return d of blocks (..., 4^d)."""
    return round(math.log(blocks.shape[-1], 4))


def to_negabinary(coefficients: Tensor) -> Tensor:
    """Return coefficients as bit patterns in base −2, in which bit k stands for (−2)^k.

    The patterns are unsigned numbers, held in the signed dtype of the same size.
    """
    mask = NUMBERS[coefficients.dtype].negabinary_mask
    return (coefficients + mask).bitwise_xor_(_scalar(mask, coefficients))


def from_negabinary(patterns: Tensor) -> Tensor:
    """Return the numbers that bit patterns in base −2 stand for: the inverse of `to_negabinary`."""
    mask = NUMBERS[patterns.dtype].negabinary_mask
    return torch.bitwise_xor(patterns, _scalar(mask, patterns)).sub_(mask)


def _scalar(number: int, like: Tensor) -> Tensor:
    return torch.tensor(number, dtype=like.dtype)


def to_sequency(blocks: Tensor) -> Tensor:
    """Return blocks (..., 4^d) in C order with their coefficients in zfp's order, low frequencies first."""
    return _reorder(blocks, sequency_order(block_dimensions(blocks)))


def from_sequency(blocks: Tensor) -> Tensor:
    """Return blocks (..., 4^d) in zfp's order with their coefficients in the places of the values."""
    return _reorder(blocks, natural_order(block_dimensions(blocks)))


def _reorder(blocks: Tensor, order: Tensor) -> Tensor:
    return blocks.movedim(-1, 0).index_select(0, order.to(blocks.device, non_blocking=True)).movedim(0, -1)


def encode_blocks(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return what zfp codes of blocks of values (..., 4^d), all planes of it, and their exponents (...), int32.

    The patterns (..., 4^d), int32 (float64: int64), are coefficients in zfp's order, in negabinary.
    """
    exponents = block_exponents(blocks)
    return to_negabinary(to_sequency(_forward_in_place(to_fixed_point(blocks, exponents)))), exponents


def decode_blocks(patterns: Tensor, exponents: Tensor) -> Tensor:
    """Return the values (..., 4^d) that zfp decodes of blocks from patterns (..., 4^d) and exponents (...)."""
    return from_fixed_point(_inverse_in_place(from_sequency(from_negabinary(patterns))), exponents)
