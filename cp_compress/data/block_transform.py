"""ZFP's block transform on tensors: float32 arrays to integer coefficients of 4^d values, and back, to the bit.

Lindstrom, "Fixed-rate compressed floating-point arrays", 2014, and the library zfp. Blocks are held as (4^d, blocks):
one row for each place within a block, so that every step is one operation on long rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

EMPTY = -127
"""The exponent of a block of zeros."""
_FRACTION_BITS = 30
_NEGABINARY = -0x55555556  # 0xaaaaaaaa as a signed number
_PADDED = {1: (0, 0, 0, 0), 2: (0, 1, 1, 0), 3: (0, 1, 2, 0), 4: (0, 1, 2, 3)}


def to_blocks(arrays: Tensor, dimensions: int) -> Tensor:
    """Cut arrays (n, *shape) of so many dimensions into rows (4^d, n · blocks), filled up at the ends as zfp does.

    Blocks follow the order of their arrays, then of the grid, the last dimension running fastest in both.
    """
    shape = arrays.shape[1:]
    for axis, extent in enumerate(shape, 1):
        if extent % 4:
            arrays = arrays.index_select(axis, _padding(extent, arrays.device))
    grid = [extent // 4 for extent in arrays.shape[1:]]
    cut = arrays.reshape(len(arrays), *(part for count in grid for part in (count, 4)))
    inner = [2 + 2 * axis for axis in range(dimensions)]
    outer = [1 + 2 * axis for axis in range(dimensions)]
    return cut.permute(*inner, 0, *outer).reshape(4**dimensions, -1)


def from_blocks(blocks: Tensor, shape: Sequence[int]) -> Tensor:
    """Join rows (4^d, n · blocks) to arrays (n, *shape): the inverse of `to_blocks`."""
    dimensions = len(shape)
    grid = block_grid(shape)
    cut = blocks.reshape(*([4] * dimensions), -1, *grid)
    order = [dimensions, *(axis for k in range(dimensions) for axis in (dimensions + 1 + k, k))]
    arrays = cut.permute(*order).reshape(-1, *(4 * count for count in grid))
    for axis, extent in enumerate(shape, 1):
        arrays = arrays.narrow(axis, 0, extent)
    return arrays.contiguous()


def block_grid(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the number of blocks along each dimension.

    >>> block_grid((3, 32, 33))
    (1, 8, 9)
    """
    return tuple(-(-extent // 4) for extent in shape)


def block_exponents(blocks: Tensor) -> Tensor:
    """Return the common exponent (blocks,) of float32 rows (4^d, blocks), int32; `EMPTY` for blocks of zeros.

    The largest magnitude of a block lies in [2^(e−1), 2^e).
    """
    largest = blocks.abs().amax(0)
    exponents = torch.frexp(largest).exponent.to(torch.int32).clamp_min_(EMPTY + 1)
    return exponents.masked_fill_(largest == 0, EMPTY)


def to_fixed_point(blocks: Tensor, exponents: Tensor) -> Tensor:
    """Return float32 rows as integers of 30 bits below the block's exponent, int32, cut off towards zero."""
    return (blocks * _power_of_two(_FRACTION_BITS - exponents)).to(torch.int32)


def from_fixed_point(values: Tensor, exponents: Tensor) -> Tensor:
    """Return integers as float32: each is rounded to 24 bits, then scaled exactly."""
    return values.to(torch.float32) * _power_of_two(exponents - _FRACTION_BITS)


def forward_transform(values: Tensor, dimensions: int) -> Tensor:
    """Decorrelate int32 rows (4^d, blocks) along each dimension, the last one first; a new tensor."""
    lines = values.reshape(*([4] * dimensions), -1).clone()
    for axis in reversed(range(dimensions)):
        _lift(*lines.unbind(axis))
    return lines.reshape(values.shape)


def inverse_transform(values: Tensor, dimensions: int) -> Tensor:
    """Undo `forward_transform` up to the bits that its shifts drop; a new tensor."""
    lines = values.reshape(*([4] * dimensions), -1).clone()
    for axis in range(dimensions):
        _unlift(*lines.unbind(axis))
    return lines.reshape(values.shape)


def to_negabinary(values: Tensor) -> Tensor:
    """Return int32 values in base −2, as the bits of an int32: magnitudes that are small have high bits zero."""
    return (values + _NEGABINARY) ^ _NEGABINARY


def from_negabinary(bits: Tensor) -> Tensor:
    """Undo `to_negabinary`."""
    return (bits ^ _NEGABINARY) - _NEGABINARY


def keep_planes(bits: Tensor, planes: Tensor | int) -> Tensor:
    """Keep the top bit planes (0…32, one number or one a block) of rows (4^d, blocks) and clear the others."""
    kept = torch.as_tensor(planes, dtype=torch.int32, device=bits.device)
    mask = torch.full_like(kept, -1) << (32 - kept).clamp_max(31)
    return bits & mask.masked_fill(kept == 0, 0)


def least_exponent(tolerance: float) -> int:
    """Return floor(log2(tolerance)), by which zfp knows a tolerance.

    >>> least_exponent(0.25), least_exponent(0.3)
    (-2, -2)
    """
    return math.frexp(tolerance)[1] - 1


def planes_of_tolerance(exponents: Tensor, tolerance: float, dimensions: int) -> Tensor:
    """Return how many bit planes (blocks,) of blocks with these exponents fixed accuracy keeps, in 0…32."""
    return (exponents - least_exponent(tolerance) + 2 * dimensions + 2).clamp(0, 32)


def _padding(extent: int, device: torch.device) -> Tensor:
    """Return which values fill an axis up to a multiple of four."""
    whole = extent // 4 * 4
    return torch.tensor([*range(whole), *(whole + place for place in _PADDED[extent - whole])], device=device)


def _power_of_two(exponents: Tensor) -> Tensor:
    """Return 2^e, float32, exactly; e in −126…127."""
    return ((exponents + 127) << 23).view(torch.float32)


def _lift(x: Tensor, y: Tensor, z: Tensor, w: Tensor) -> None:
    """Transform lines of four in place; up to rounding 1/16 · (4 4 4 4), (5 1 −1 −5), (−4 4 4 −4), (−2 6 −6 2)."""
    _average(x, w)
    _average(z, y)
    _average(x, z)
    _average(w, y)
    w.add_(y >> 1)
    y.sub_(w >> 1)


def _average(first: Tensor, second: Tensor) -> None:
    first.add_(second).bitwise_right_shift_(1)
    second.sub_(first)


def _unlift(x: Tensor, y: Tensor, z: Tensor, w: Tensor) -> None:
    y.add_(w >> 1)
    w.sub_(y >> 1)
    _separate(y, w)
    _separate(z, x)
    _separate(y, z)
    _separate(w, x)


def _separate(second: Tensor, first: Tensor) -> None:
    second.add_(first)
    first.bitwise_left_shift_(1).sub_(second)
