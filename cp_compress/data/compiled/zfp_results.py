# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201 -- what numba compiles has types of its own
"""What zfp makes of whole arrays, block by block: the values that it decodes, and the bits that it writes."""

from __future__ import annotations

import numpy as np

from cp_compress.data.compiled.compiler import Compiled
from cp_compress.data.compiled.zfp_blocks import (
    FOUR,
    analyse,
    count,
    cut,
    fill_up,
    from_negabinary,
    gather,
    lowest_planes,
    make_scratch,
    scatter,
    synthesise,
    to_negabinary,
    top_bits,
)

__all__ = ["count_bits", "make_scratch", "requantise", "requantise_at_rate"]


@Compiled
def requantise(values, result, order, geometry, form, clip, scratch, first, stop):
    """Write what zfp decodes of the blocks `first` to `stop` of arrays (n, n0, n1, n2, n3), flat, into the result.

    `geometry` holds n0 to n3, and the 1 or 4 places that blocks have along the first three of these dimensions. `form`
    holds the bias of exponents, the bits behind them, the least exponent, the planes and the mask of base −2 of the
    dtypes of `values` and of integers; then how many planes are kept, or −1 if it is the exponent and the next number;
    the budget of bits; and how many blocks are worked on together, which `scratch` is made for.
    `order` is zfp's.
    """
    n0, n1, n2, n3, d0, d1, d2 = geometry
    bias, fraction, least, planes, odd, kept, margin, _, together = form
    low, high = clip
    size, most = d0 * d1 * d2 * FOUR, np.uint64(together)
    buffer, bits, numbers, scales, scale_bits, exponents, masks, runs, lowest, _, _, _, _, _ = scratch
    block, end = np.uint64(first), np.uint64(stop)
    while block < end:
        lanes = min(most, end - block)
        number = gather(values, n0, n1, n2, n3, d0, d1, d2, block, lanes, buffer, runs)
        analyse(buffer, bits, numbers, size, lanes, exponents, scales, scale_bits, bias, fraction, least, planes)
        lowest_planes(exponents, lowest, lanes, planes, kept, margin)
        cut(numbers, lowest, masks, size, lanes, planes, odd)
        synthesise(numbers, buffer, size, lanes, scales, low, high)
        scatter(buffer, n1, n2, n3, d1, d2, lanes, runs, number, result)
        block += lanes


@Compiled
def requantise_at_rate(values, result, order, geometry, form, clip, scratch, first, stop):
    """Do what `requantise` does where blocks are filled up to a budget; the last whole plane is found by bisection."""
    n0, n1, n2, n3, d0, d1, d2 = geometry
    bias, fraction, least, planes, odd, _, _, budget, together = form
    budget -= planes - fraction  # of the header
    size, most = d0 * d1 * d2 * FOUR, np.uint64(together)
    lower, upper = clip
    buffer, bits, numbers, scales, scale_bits, exponents, masks, runs, middle, low, high, counts, tops, leads = scratch
    block, end = np.uint64(first), np.uint64(stop)
    while block < end:
        lanes = min(most, end - block)
        number = gather(values, n0, n1, n2, n3, d0, d1, d2, block, lanes, buffer, runs)
        analyse(buffer, bits, numbers, size, lanes, exponents, scales, scale_bits, bias, fraction, least, planes)
        to_negabinary(numbers, size * lanes, odd)
        top_bits(numbers, order, size, lanes, tops, leads, middle)
        for lane in range(lanes):
            low[lane], high[lane] = 0, planes
        steps = planes
        while steps > 0:  # one of the planes + 1 answers
            for lane in range(lanes):
                middle[lane] = np.int8((low[lane] + high[lane]) >> 1)
            count(tops, leads, middle, size, lanes, planes, counts)
            for lane in range(lanes):
                fits = counts[lane] <= budget
                low[lane] = low[lane] if fits else np.int8(middle[lane] + 1)
                high[lane] = middle[lane] if fits else high[lane]
            steps >>= 1
        count(tops, leads, high, size, lanes, planes, counts)
        fill_up(numbers, order, tops, high, counts, masks, budget, size, lanes, planes)
        from_negabinary(numbers, size * lanes, odd)
        synthesise(numbers, buffer, size, lanes, scales, lower, upper)
        scatter(buffer, n1, n2, n3, d1, d2, lanes, runs, number, result)
        block += lanes


@Compiled
def count_bits(values, result, order, geometry, form, clip, scratch, first, stop):
    """Write the bits that the blocks `first` to `stop` take without a budget into the result (n · blocks,), int32."""
    n0, n1, n2, n3, d0, d1, d2 = geometry
    bias, fraction, least, planes, odd, kept, margin, _, together = form
    size, most = d0 * d1 * d2 * FOUR, np.uint64(together)
    buffer, bits, numbers, scales, scale_bits, exponents, _, runs, lowest, highest, _, counts, tops, leads = scratch
    block, end = np.uint64(first), np.uint64(stop)
    while block < end:
        lanes = min(most, end - block)
        gather(values, n0, n1, n2, n3, d0, d1, d2, block, lanes, buffer, runs)
        analyse(buffer, bits, numbers, size, lanes, exponents, scales, scale_bits, bias, fraction, least, planes)
        lowest_planes(exponents, lowest, lanes, planes, kept, margin)
        to_negabinary(numbers, size * lanes, odd)
        top_bits(numbers, order, size, lanes, tops, leads, highest)
        count(tops, leads, lowest, size, lanes, planes, counts)
        for lane in range(lanes):
            empty = exponents[lane] == -bias or lowest[lane] == planes
            result[block + lane] = 1 if empty else counts[lane] + planes - fraction
        block += lanes
