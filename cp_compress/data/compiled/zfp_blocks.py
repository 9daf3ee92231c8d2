# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202 -- what numba compiles has types of its own
"""What zfp does to blocks of values, sixteen at a time, so that one instruction works on several of them.

Blocks lie in buffers (4^d, 16), flat: the first place of all sixteen, then the next one. Indices are unsigned, since
with others numba asks whether they count from the end.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from cp_compress.data.compiled.compiler import inlined

_ONE, _TWO, _THREE, FOUR = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)


@intrinsic
def _top_bit(typing_context, number):
    """Return the place of the topmost bit that is set in an integer, −1 for 0."""

    def generate(context, builder, signature, arguments):
        (pattern,) = arguments
        kind = pattern.type
        if kind.width == 64:
            zeros = builder.ctlz(pattern, ir.Constant(ir.IntType(1), 0))
            return builder.sub(ir.Constant(kind, 63), zeros)
        # the exponent of a float, which instructions work out for several numbers at once; without the bit below the
        # top one, rounding cannot carry
        rounded = builder.and_(pattern, builder.not_(builder.lshr(pattern, ir.Constant(kind, 1))))
        exponent = builder.ashr(builder.bitcast(builder.sitofp(rounded, ir.FloatType()), kind), ir.Constant(kind, 23))
        found = builder.sub(exponent, ir.Constant(kind, 127))
        found = builder.select(builder.icmp_signed("<", pattern, ir.Constant(kind, 1)), ir.Constant(kind, -1), found)
        return builder.select(builder.icmp_signed("<", pattern, ir.Constant(kind, 0)), ir.Constant(kind, 31), found)

    return number(number), generate


def make_scratch(integer, size, lanes):
    """Return the memory that a call works in; code that takes it by itself is compiled more slowly.

    For so many blocks of `size` coefficients, of a dtype of integers: `buffer` and its bits, `numbers`, `scales` and
    their bits, `exponents`, `masks` and `runs`; four arrays for planes and counts; `tops` and `leads`.
    """
    floating = np.dtype(f"f{integer.itemsize}")
    buffer, scales = np.zeros(size * lanes, floating), np.zeros((2, lanes), floating)
    return (
        *(buffer, buffer.view(integer), np.zeros(size * lanes, integer), scales, scales.view(integer)),
        *(np.zeros(lanes, integer), np.zeros(lanes, integer), np.zeros((lanes, 6), np.uint64)),
        *(np.zeros(lanes, np.int8), np.zeros(lanes, np.int8), np.zeros(lanes, np.int8), np.zeros(lanes, np.int16)),
        *(np.zeros(size * lanes, np.int8), np.zeros(size * lanes, np.int8)),
    )


@inlined
def _fill(place, left):
    """Return the place of a line that zfp repeats at a place beyond the `left` ones that there are."""
    if place < left:
        return place
    return _ONE if left == _TWO and place == _TWO else np.uint64(0)


@inlined
def gather(values, n0, n1, n2, n3, d0, d1, d2, first, count, buffer, runs):
    """Copy blocks from number `first` on into a buffer, incomplete ones filled up.

    Return the number of runs of blocks side by side; `runs` says of each how many blocks there are, where the first one
    lies, and how much of it there is along each dimension.
    """
    g0, g1, g2 = (n0 + d0 - _ONE) // d0, (n1 + d1 - _ONE) // d1, (n2 + d2 - _ONE) // d2
    g3 = (n3 + _THREE) // FOUR
    b3, rest = first % g3, first // g3
    b2, rest = rest % g2, rest // g2
    b1, rest = rest % g1, rest // g1
    b0, example = rest % g0, rest // g0
    lane = number = np.uint64(0)
    while lane < count:
        start = (((example * n0 + d0 * b0) * n1 + d1 * b1) * n2 + d2 * b2) * n3 + FOUR * b3
        l0, l1, l2, l3 = (
            min(n0 - d0 * b0, d0),
            min(n1 - d1 * b1, d1),
            min(n2 - d2 * b2, d2),
            min(n3 - FOUR * b3, FOUR),
        )
        length = min(count - lane, n3 // FOUR - b3) if l3 == FOUR else _ONE
        runs[number, 0], runs[number, 1] = length, start
        runs[number, 2], runs[number, 3], runs[number, 4], runs[number, 5] = l0, l1, l2, l3
        place = lane
        for i0 in range(d0):
            for i1 in range(d1):
                for i2 in range(d2):
                    row = start + ((_fill(i0, l0) * n1 + _fill(i1, l1)) * n2 + _fill(i2, l2)) * n3
                    if l3 == FOUR:
                        # in two halves, of which a compiler can see that they do not overlap
                        for block in range(length):
                            buffer[place + block] = values[row + FOUR * block]
                            buffer[place + count + block] = values[row + FOUR * block + _ONE]
                        place += _TWO * count
                        for block in range(length):
                            buffer[place + block] = values[row + FOUR * block + _TWO]
                            buffer[place + count + block] = values[row + FOUR * block + _THREE]
                        place += _TWO * count
                    else:
                        for i3 in range(FOUR):
                            buffer[place] = values[row + _fill(i3, l3)]
                            place += count
        lane, number, b3 = lane + length, number + _ONE, b3 + length
        if b3 == g3:
            b3, b2 = np.uint64(0), b2 + _ONE
            if b2 == g2:
                b2, b1 = np.uint64(0), b1 + _ONE
                if b1 == g1:
                    b1, b0 = np.uint64(0), b0 + _ONE
                    if b0 == g0:
                        b0, example = np.uint64(0), example + _ONE
    return number


@inlined
def scatter(buffer, n1, n2, n3, d1, d2, count, runs, number, values):
    """Copy blocks back to where `gather` found them."""
    lane = np.uint64(0)
    for run in range(number):
        length, start = runs[run, 0], runs[run, 1]
        l0, l1, l2, l3 = runs[run, 2], runs[run, 3], runs[run, 4], runs[run, 5]
        for i0 in range(l0):
            for i1 in range(l1):
                for i2 in range(l2):
                    row = start + ((i0 * n1 + i1) * n2 + i2) * n3
                    place = ((i0 * d1 + i1) * d2 + i2) * FOUR * count + lane
                    if l3 == FOUR:
                        for block in range(length):
                            to, source = row + FOUR * block, place + block
                            values[to], values[to + _ONE] = buffer[source], buffer[source + count]
                            source += _TWO * count
                            values[to + _TWO], values[to + _THREE] = buffer[source], buffer[source + count]
                    else:
                        for i3 in range(l3):
                            values[row + i3] = buffer[place + i3 * count]
        lane += length


@inlined
def _forward_line(numbers, base, apart, lanes):
    kind = numbers.dtype.type
    for lane in range(base, base + lanes):
        x, y = numbers[lane], numbers[lane + apart]
        z, w = numbers[lane + apart * _TWO], numbers[lane + apart * _THREE]
        x = kind(kind(x + w) >> 1)
        w = kind(w - x)
        z = kind(kind(z + y) >> 1)
        y = kind(y - z)
        x = kind(kind(x + z) >> 1)
        z = kind(z - x)
        w = kind(kind(w + y) >> 1)
        y = kind(y - w)
        w = kind(w + (y >> 1))
        y = kind(y - (w >> 1))
        numbers[lane], numbers[lane + apart] = x, y
        numbers[lane + apart * _TWO], numbers[lane + apart * _THREE] = z, w


@inlined
def _inverse_line(numbers, base, apart, lanes):
    kind = numbers.dtype.type
    for lane in range(base, base + lanes):
        x, y = numbers[lane], numbers[lane + apart]
        z, w = numbers[lane + apart * _TWO], numbers[lane + apart * _THREE]
        y = kind(y + (w >> 1))
        w = kind(w - (y >> 1))
        y = kind(y + w)
        w = kind(w + kind(w - y))
        z = kind(z + x)
        x = kind(x + kind(x - z))
        y = kind(y + z)
        z = kind(z + kind(z - y))
        w = kind(w + x)
        x = kind(x + kind(x - w))
        numbers[lane], numbers[lane + apart] = x, y
        numbers[lane + apart * _TWO], numbers[lane + apart * _THREE] = z, w


@inlined
def _transform(numbers, size, lanes, inverse):
    """Transform blocks in place along each dimension, the last one first, or undo that."""
    dimensions = 1 if size == 4 else 2 if size == 16 else 3 if size == 64 else 4
    for axis in range(dimensions):
        apart = _ONE << np.uint64(2 * (dimensions - 1 - axis if inverse else axis))
        for outer in range(np.uint64(0), size, FOUR * apart):
            for inner in range(outer, outer + apart):
                if inverse:
                    _inverse_line(numbers, inner * lanes, apart * lanes, lanes)
                else:
                    _forward_line(numbers, inner * lanes, apart * lanes, lanes)


@inlined
def analyse(buffer, bits, numbers, size, lanes, exponents, scales, scale_bits, bias, fraction, least, planes):
    """Turn values into coefficients, in the places of the values; those too small for zfp count as 0.

    `bits` are those of the buffer. `scales` (2, n) become the factors to integers and back, `scale_bits` are theirs.
    """
    kind = numbers.dtype.type
    magnitude, smallest = kind(~(1 << (planes - 1))), kind((bias + least - 1) << fraction)
    for lane in range(lanes):
        exponents[lane] = 0
    for place in range(size):
        base = place * lanes
        for lane in range(lanes):
            number = bits[base + lane]
            found = kind(number & magnitude)
            bits[base + lane] = number if found > smallest else kind(0)
            exponents[lane] = max(exponents[lane], found if found > smallest else kind(0))
    for lane in range(lanes):
        exponent = kind(-bias) if exponents[lane] == 0 else kind((exponents[lane] >> fraction) - (bias - 1))
        exponents[lane] = exponent
        shift = planes - 2 - max(exponent, kind(least))
        scale_bits[0, lane], scale_bits[1, lane] = kind(bias + shift) << fraction, kind(bias - shift) << fraction
    for place in range(size):
        base = place * lanes
        for lane in range(lanes):
            numbers[base + lane] = kind(buffer[base + lane] * scales[0, lane])
    _transform(numbers, size, lanes, 0)


@inlined
def to_negabinary(numbers, length, odd):
    """Turn coefficients into patterns in base −2."""
    kind = numbers.dtype.type
    odd = kind(odd)
    for place in range(length):
        numbers[place] = kind(kind(numbers[place] + odd) ^ odd)


@inlined
def from_negabinary(numbers, length, odd):
    """Turn patterns in base −2 into coefficients."""
    kind = numbers.dtype.type
    odd = kind(odd)
    for place in range(length):
        numbers[place] = kind(kind(numbers[place] ^ odd) - odd)


@inlined
def synthesise(numbers, buffer, size, lanes, scales, low, high):
    """Turn coefficients into the values that zfp decodes, none below `low` or above `high`."""
    floating = buffer.dtype.type
    low, high = floating(low), floating(high)
    _transform(numbers, size, lanes, 1)
    for place in range(size):
        base = place * lanes
        for lane in range(lanes):
            value = floating(numbers[base + lane]) * scales[1, lane]
            value = low if value < low else value
            buffer[base + lane] = high if value > high else value


@inlined
def lowest_planes(exponents, lowest, lanes, planes, kept, margin):
    """Say which is the lowest plane kept of each block: one for all, or by its exponent if `kept` is negative."""
    for lane in range(lanes):
        number = kept if kept >= 0 else min(max(exponents[lane] + margin, 0), planes)
        lowest[lane] = np.int8(planes - number)


@inlined
def cut(numbers, lowest, masks, size, lanes, planes, odd):
    """Set all planes of coefficients below the lowest ones to 0."""
    kind = numbers.dtype.type
    odd = kind(odd)
    for lane in range(lanes):
        masks[lane] = kind(-1) << kind(min(kind(lowest[lane]), planes - 1)) if lowest[lane] < planes else kind(0)
    for place in range(size):
        base = place * lanes
        for lane in range(lanes):
            pattern = kind(kind(numbers[base + lane] + odd) ^ odd) & masks[lane]
            numbers[base + lane] = kind((pattern ^ odd) - odd)


@inlined
def top_bits(numbers, order, size, lanes, tops, leads, highest):
    """Find of each coefficient, in zfp's order, the top bit set in it and those after it; `leads` has it or −1."""
    for rank in range(size):
        base, source = rank * lanes, order[rank] * lanes
        for lane in range(lanes):
            leads[base + lane] = np.int8(_top_bit(numbers[source + lane]))
    for lane in range(lanes):
        highest[lane] = -1
    for rank in range(size):
        base = (size - _ONE - rank) * lanes
        # in loops that write one array each, which LLVM turns into vector instructions
        for lane in range(lanes):
            own, top = leads[base + lane], highest[lane]
            highest[lane] = max(own, top)
        for lane in range(lanes):
            tops[base + lane] = highest[lane]
        for lane in range(lanes):
            own = leads[base + lane]
            leads[base + lane] = np.int8(own | -np.int8(own < highest[lane]))


@inlined
def count(tops, leads, lowest, size, lanes, planes, bits):
    """Count the bits that the planes from the lowest ones up take, as `planes.count_bits` says."""
    for lane in range(lanes):
        last, limit = tops[(size - _ONE) * lanes + lane], lowest[lane]
        bits[lane] = np.int16(min(planes - limit, planes - 1 - last) - (last >= limit))
    for rank in range(np.uint64(0), size, _TWO):
        base = rank * lanes
        other = base + lanes
        for lane in range(lanes):
            limit, top, next_top = lowest[lane], tops[base + lane], tops[other + lane]
            # at most 2 · 65, so that two are added before they are widened
            above = np.uint8(max(np.int8(top - limit + 1), np.int8(0)))
            above += np.uint8(max(np.int8(next_top - limit + 1), np.int8(0)))
            above += np.uint8(leads[base + lane] >= limit)
            above += np.uint8(leads[other + lane] >= limit)
            bits[lane] += np.int16(np.uint8(above))


@inlined
def fill_up(numbers, order, tops, lowest, counts, masks, budget, size, lanes, planes):
    """Keep the planes from the lowest ones up, which take `counts` bits, and of the next one what a budget is left for.

    Where the budget ends inside a run, the decoder takes the first unread bit for a one.
    """
    kind = numbers.dtype.type
    for lane in range(lanes):
        masks[lane] = kind(-1) << kind(min(kind(lowest[lane]), planes - 1)) if lowest[lane] < planes else kind(0)
        counts[lane] = np.int16(budget - counts[lane])  # the bits that are left, and from here on less what was read
        lowest[lane] -= np.int8(1)
    for rank in range(size):
        base, target = rank * lanes, order[rank] * lanes
        for lane in range(lanes):
            plane, top, pattern = kind(lowest[lane]), kind(tops[base + lane]), numbers[target + lane]
            bit, fresh = kind(kind(pattern >> max(plane, kind(0))) & 1), kind(top <= plane)
            left = kind(kind(counts[lane]) - fresh)
            read = kind((left > 0) & (bit > 0) | (left == 0) & (fresh > 0) & (top == plane)) & kind(plane >= 0)
            counts[lane] = np.int16(left - 1 - (bit & fresh) + fresh)
            numbers[target + lane] = (pattern & masks[lane]) | kind(read << max(plane, kind(0)))
