"""How much of a block zfp stores: bit planes counted, cut off, or filled into a budget of bits.

zfp codes the bit planes of a block from the top. For each plane it writes the bits of the first n coefficients
unchanged, where n is the number of leading coefficients up to the last with a bit set so far; for the rest it writes
runs: a test whether any bit is left, and if so the bits up to and including the next one that is set. With s_i the top
bit set among coefficients i and later, coefficient i belongs to the first n of a plane exactly when s_i is above it, so
that sizes follow from s alone and nothing has to be coded.

Patterns are those of `encode_blocks`: (..., 4^d), int32 (float64 data: int64), in zfp's order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cp_compress.data.zfp.transform import NUMBERS


class Setting(NamedTuple):
    """One of zfp's modes: bits a value, bit planes, or the largest error; all None keeps every plane."""

    rate: float | None = None
    precision: int | None = None
    tolerance: float | None = None


class TopBits(NamedTuple):
    """What the size of blocks follows from.

    `suffix` (..., 4^d), int8, is the top bit set among a coefficient and those after it, −1 for none; `leads` tells
    of which coefficients that bit is their own.
    """

    suffix: Tensor
    leads: Tensor


def top_bits(patterns: Tensor) -> TopBits:
    """Find the top bits of patterns (..., 4^d)."""
    numbers = NUMBERS[patterns.dtype]
    # without the bit below the top one, rounding to a float cannot carry into the next power of two
    rounded = (patterns & ~(patterns >> 1)).to(numbers.floating)
    exponents = (rounded.view(numbers.integer) >> numbers.fraction) - numbers.bias
    # a pattern whose topmost bit is set counts as negative
    topmost = ((patterns >> (numbers.planes - 1)).to(torch.int8) & numbers.planes) - 1
    own = torch.maximum(exponents.clamp_(min=-1).to(torch.int8), topmost)
    suffix = _scan(own, torch.maximum, backwards=True)
    return TopBits(suffix, suffix == own)


def count_bits(top: TopBits, lowest: Tensor, planes: int) -> Tensor:
    """Return the bits (...), int32, that planes `lowest` (...), int32, and above take, without the block's header.

    Summed over the planes from k up, with m = 4^d coefficients: each i costs s_i − k + 1 bits where that is
    positive, each bit that leads a run one for its test, each plane that does not reach the last coefficient one
    for the test that fails; the first bit of the last coefficient is known from its test, and costs nothing.
    """
    limit = lowest.to(torch.int8).unsqueeze(-1)
    each = (top.suffix - (limit - 1)).clamp_(min=0)
    each += top.leads & (top.suffix >= limit)
    bits = each.sum(dim=-1, dtype=torch.int16).to(torch.int32)
    last = top.suffix[..., -1].to(torch.int32)
    return bits + torch.minimum(planes - lowest, planes - 1 - last) - (last >= lowest).to(torch.int32)


def kept_planes(exponents: Tensor, dimensions: int, planes: int, setting: Setting) -> Tensor:
    """Return how many (...), int32, of `planes` zfp keeps of blocks with exponents (...), but for a budget."""
    if setting.tolerance is None:
        kept = planes if setting.precision is None else min(setting.precision, planes)
        return torch.full_like(exponents, kept)
    return (exponents + tolerance_margin(dimensions, setting.tolerance)).clamp_(0, planes)


def tolerance_margin(dimensions: int, tolerance: float) -> int:
    """Return how many planes zfp keeps of a block with exponent 0; of one with exponent e there are e more.

    A tolerance in [2^m, 2^(m+1)) keeps e − m + 2d + 2, which leaves room for the growth of errors in the inverse
    transform (LLNL/zfp, `src/template/codecf.c`).
    """
    return 2 * dimensions + 2 - (math.frexp(tolerance)[1] - 1)


def cut_planes(patterns: Tensor, lowest: Tensor) -> Tensor:
    """Return patterns (..., 4^d) without the planes below `lowest` (...), int32, 0..planes."""
    return patterns & _mask_from(lowest, patterns).unsqueeze(-1)


def fill_budget(patterns: Tensor, budget: int) -> Tensor:
    """Return what a decoder reads of patterns (..., 4^d) from their first `budget` bits, the header not counted.

    The last whole plane is found by bisection. In the plane after it, the place in the stream of each coefficient's
    bit tells which are read; where the budget ends inside a run, the decoder takes the first unread bit for a one.
    """
    numbers = NUMBERS[patterns.dtype]
    top = top_bits(patterns)
    lowest = _lowest_within(top, budget, numbers.planes)
    rest = budget - count_bits(top, lowest, numbers.planes)
    plane = lowest - 1
    bits = patterns >> plane.clamp(min=0).to(patterns.dtype).unsqueeze(-1)
    rest, plane = rest.to(torch.int16).unsqueeze(-1), plane.to(torch.int8).unsqueeze(-1)
    fresh = top.suffix <= plane
    bits = (bits & 1).to(torch.bool)
    ones = (bits & fresh).to(torch.int16)
    place = _scan(ones, torch.add).sub_(ones).add_(fresh)  # in place: rows stay as they lie in memory
    place += torch.arange(patterns.shape[-1], dtype=torch.int16, device=patterns.device)
    side = place.sub_(rest).clamp_(-1, 1).to(torch.int8)  # of the end of the budget
    forced = (side == 0) & fresh & (top.suffix == plane)
    read = (bits & (side < 0) | forced) & (plane >= 0)
    partial = read.to(patterns.dtype) << plane.clamp(min=0).to(patterns.dtype)
    return cut_planes(patterns, lowest) | partial


def _lowest_within(top: TopBits, budget: int, planes: int) -> Tensor:
    low = torch.zeros(top.suffix.shape[:-1], dtype=torch.int32, device=top.suffix.device)
    high = torch.full_like(low, planes)
    for _ in range(planes.bit_length()):  # log2 of the planes + 1 answers
        middle = (low + high) >> 1
        fits = count_bits(top, middle, planes) <= budget
        low, high = torch.where(fits, low, middle + 1), torch.where(fits, middle, high)
    return high


def _mask_from(lowest: Tensor, patterns: Tensor) -> Tensor:
    # in two steps, since a shift by all bits of a number is undefined
    half = lowest.to(patterns.dtype) >> 1
    return (torch.full_like(half, -1) << half) << (lowest - half)


def _scan(values: Tensor, combine: Callable[..., Tensor], *, backwards: bool = False) -> Tensor:
    """Return the running combination along the last dimension, from the front or the back, by doubling its reach."""
    rows = values.movedim(-1, 0)
    step = 1
    while step < len(rows):
        near, far = rows[:-step], rows[step:]
        reached = torch.empty_like(rows)
        combine(near, far, out=reached[:-step] if backwards else reached[step:])
        kept = slice(-step, None) if backwards else slice(step)
        reached[kept] = rows[kept]
        rows, step = reached, 2 * step
    return rows.movedim(0, -1)
