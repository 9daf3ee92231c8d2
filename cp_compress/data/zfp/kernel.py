# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
# ruff: noqa: ANN001, ANN202 -- what Triton compiles has types of its own
"""One Triton kernel that requantises in precision and tolerance mode, reading and writing each value once.

For float32 arrays of up to three dimensions on CUDA, if Triton is installed; `zfp.requantise` uses it only after it has
given the same bits as the step-by-step computation.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from cp_compress.data.zfp.planes import Setting
from cp_compress.data.zfp.transform import block_grid

_VALUES = 4096  # of one program


@triton.jit
def _split(blocks, axis: tl.constexpr, dimensions: tl.constexpr):
    """Return the four slices of blocks (count, 4^axis', 4, rest) along the middle dimension."""
    count: tl.constexpr = blocks.shape[0]
    before: tl.constexpr = 4**axis
    after: tl.constexpr = 4 ** (dimensions - 1 - axis)
    rows = tl.reshape(blocks, (count, before, 2, 2, after))
    rows = tl.permute(rows, (0, 1, 4, 2, 3))
    even, odd = tl.split(rows)
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def _join(first, second, third, fourth, axis: tl.constexpr, dimensions: tl.constexpr):
    count: tl.constexpr = first.shape[0]
    rows = tl.join(tl.join(first, third), tl.join(second, fourth))
    return tl.reshape(tl.permute(rows, (0, 1, 3, 4, 2)), (count, 4**dimensions))


@triton.jit
def _source(place, grid_place, extent):
    """Return where a place of a block reads along one dimension, as zfp fills up incomplete blocks."""
    left = extent - 4 * grid_place
    filled = tl.where((left == 2) & (place == 2), 1, 0)
    return 4 * grid_place + tl.where(place < left, place, filled)


@triton.jit
def _requantise(
    source,
    target,
    blocks_in_all,
    grid_y,
    grid_x,
    grid_z,
    extent_z,
    extent_y,
    extent_x,
    number,
    by_tolerance: tl.constexpr,
    dimensions: tl.constexpr,
    count: tl.constexpr,
):
    size: tl.constexpr = 4**dimensions
    block = tl.program_id(0) * count + tl.arange(0, count)[:, None]
    inside = tl.arange(0, size)[None, :]
    place_x, place_y, place_z = inside % 4, inside // 4 % 4, inside // 16
    x, rest = block % grid_x, block // grid_x
    y, rest = rest % grid_y, rest // grid_y
    z, example = rest % grid_z, (rest // grid_z).to(tl.int64)
    start = example * extent_z * extent_y * extent_x
    from_z, from_y, from_x = _source(place_z, z, extent_z), _source(place_y, y, extent_y), _source(place_x, x, extent_x)
    reads = (from_z * extent_y + from_y) * extent_x + from_x
    known = block < blocks_in_all
    values = tl.load(source + start + reads, mask=known, other=0.0)

    largest = tl.max(tl.abs(values), axis=1, keep_dims=True)
    exponent = (largest.to(tl.int32, bitcast=True) >> 23) - 126
    exponent = tl.where(largest == 0, -127, exponent)
    if by_tolerance:
        kept = tl.minimum(tl.maximum(exponent + 2 * dimensions + 2 - number, 0), 32)
    else:
        kept = tl.zeros_like(exponent) + number
    shift = tl.maximum(exponent, -95)
    up = ((30 - shift + 127) << 23).to(tl.float32, bitcast=True)
    down = ((shift - 30 + 127) << 23).to(tl.float32, bitcast=True)
    integers = (values * up).to(tl.int32)

    for step in tl.static_range(dimensions):
        p, q, r, s = _split(integers, dimensions - 1 - step, dimensions)
        p = (p + s) >> 1
        s -= p
        r = (r + q) >> 1
        q -= r
        p = (p + r) >> 1
        r -= p
        s = (s + q) >> 1
        q -= s
        s += q >> 1
        q -= s >> 1
        integers = _join(p, q, r, s, dimensions - 1 - step, dimensions)

    odd_bits: tl.constexpr = -1431655766  # 0b…1010
    lowest = 32 - kept
    mask = tl.where(lowest < 32, -1 << tl.minimum(lowest, 31), 0)
    integers = ((((integers + odd_bits) ^ odd_bits) & mask) ^ odd_bits) - odd_bits

    for axis in tl.static_range(dimensions):
        p, q, r, s = _split(integers, axis, dimensions)
        q += s >> 1
        s -= q >> 1
        q += s
        s = 2 * s - q
        r += p
        p = 2 * p - r
        q += r
        r = 2 * r - q
        s += p
        p = 2 * p - s
        integers = _join(p, q, r, s, axis, dimensions)

    at_z, at_y, at_x = 4 * z + place_z, 4 * y + place_y, 4 * x + place_x
    writes = start + (at_z * extent_y + at_y) * extent_x + at_x
    known = known & (at_z < extent_z) & (at_y < extent_y) & (at_x < extent_x)
    tl.store(target + writes, integers.to(tl.float32) * down, mask=known)


def requantise_fused(values: Tensor, setting: Setting) -> Tensor:
    """Return what zfp decodes of arrays (n, shape), float32 and contiguous, in precision or tolerance mode.

    `shape` has one to three dimensions. The device is one that Triton compiles for, or any under TRITON_INTERPRET=1.
    """
    shape = tuple(values.shape[1:])
    dimensions = len(shape)
    extents = (*(1,) * (3 - dimensions), *shape)
    grid_z, grid_y, grid_x = block_grid(extents)
    blocks, count = len(values) * grid_z * grid_y * grid_x, _VALUES // 4**dimensions
    number = min(setting.precision or 32, 32)
    if setting.tolerance is not None:
        number = math.frexp(setting.tolerance)[1] - 1
    result = torch.empty_like(values)
    _requantise[(triton.cdiv(blocks, count),)](
        values,
        result,
        blocks,
        grid_y,
        grid_x,
        grid_z,
        *extents,
        number,
        by_tolerance=setting.tolerance is not None,
        dimensions=dimensions,
        count=count,
    )
    return result
