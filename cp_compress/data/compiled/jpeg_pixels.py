# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202 -- what numba compiles has types of its own
"""What libjpeg makes of pixels by encoding and decoding them, without any coding; the arithmetic is `jpeg.transform`'s.

Blocks are worked on in strips of a row of them. A strip lies in a buffer (8, 512), so that the same step of many lines
is one step of long rows: first with a column of all blocks in each row, then with a row of all blocks.
"""

from __future__ import annotations

import numpy as np
from numba.extending import intrinsic

from cp_compress.data.compiled.compiler import Compiled, inlined

_ZERO, _ONE, _TWO, _SEVEN, _EIGHT = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(7), np.uint64(8)
_STRIDE, _STRIP = np.uint64(512), np.uint64(64)  # lines and blocks in a strip
_I = np.int32


@intrinsic
def _right(typing_context, number, bits):
    """Return a number of 32 bits shifted to the right, in 32 bits."""

    def generate(context, builder, signature, arguments):
        return builder.ashr(arguments[0], builder.trunc(arguments[1], arguments[0].type))

    return number(number, bits), generate


@inlined
def _odd_part(tmp0, tmp1, tmp2, tmp3):
    z1, z2, z3, z4 = _I(-7373 * _I(tmp0 + tmp3)), _I(-20995 * _I(tmp1 + tmp2)), _I(tmp0 + tmp2), _I(tmp1 + tmp3)
    z5 = _I(9633 * _I(z3 + z4))
    z3, z4 = _I(-16069 * z3 + z5), _I(-3196 * z4 + z5)
    return (
        _I(2446 * tmp0 + z1 + z3),
        _I(16819 * tmp1 + z2 + z4),
        _I(25172 * tmp2 + z2 + z3),
        _I(12299 * tmp3 + z1 + z4),
    )


@inlined
def _forward_lines(lines, count, second):
    """Transform lines in place; those of the first pass are samples around 128."""
    bits, centre, factor, rest = (15, 0, 1, 2) if second else (11, 128, 4, 0)  # the half of 2^rest is rest, too
    half = 1 << (bits - 1)
    for lane in range(count):
        a0, a1 = _I(lines[lane] - centre), _I(lines[lane + _STRIDE] - centre)
        a2, a3 = _I(lines[lane + _STRIDE * 2] - centre), _I(lines[lane + _STRIDE * 3] - centre)
        a4, a5 = _I(lines[lane + _STRIDE * 4] - centre), _I(lines[lane + _STRIDE * 5] - centre)
        a6, a7 = _I(lines[lane + _STRIDE * 6] - centre), _I(lines[lane + _STRIDE * 7] - centre)
        s0, s1, s2, s3 = _I(a0 + a7), _I(a1 + a6), _I(a2 + a5), _I(a3 + a4)
        tmp10, tmp13, tmp11, tmp12 = _I(s0 + s3), _I(s0 - s3), _I(s1 + s2), _I(s1 - s2)
        shared = _I(4433 * _I(tmp12 + tmp13))
        o7, o5, o3, o1 = _odd_part(_I(a3 - a4), _I(a2 - a5), _I(a1 - a6), _I(a0 - a7))
        lines[lane] = _right(_I(factor * _I(tmp10 + tmp11) + rest), rest)
        lines[lane + _STRIDE * 4] = _right(_I(factor * _I(tmp10 - tmp11) + rest), rest)
        lines[lane + _STRIDE * 2] = _right(_I(shared + 6270 * tmp13 + half), bits)
        lines[lane + _STRIDE * 6] = _right(_I(shared - 15137 * tmp12 + half), bits)
        lines[lane + _STRIDE] = _right(_I(o1 + half), bits)
        lines[lane + _STRIDE * 3] = _right(_I(o3 + half), bits)
        lines[lane + _STRIDE * 5] = _right(_I(o5 + half), bits)
        lines[lane + _STRIDE * 7] = _right(_I(o7 + half), bits)


@inlined
def _inverse_lines(lines, count, second):
    bits = 18 if second else 11
    half = 1 << (bits - 1)
    for lane in range(count):
        a0, a1, a2, a3 = lines[lane], lines[lane + _STRIDE], lines[lane + _STRIDE * 2], lines[lane + _STRIDE * 3]
        a4, a5 = lines[lane + _STRIDE * 4], lines[lane + _STRIDE * 5]
        a6, a7 = lines[lane + _STRIDE * 6], lines[lane + _STRIDE * 7]
        shared = _I(4433 * _I(a2 + a6))
        tmp2, tmp3 = _I(shared - 15137 * a6), _I(shared + 6270 * a2)
        tmp0, tmp1 = _I(_I(a0 + a4) << 13), _I(_I(a0 - a4) << 13)
        e0, e1, e2, e3 = _I(tmp0 + tmp3), _I(tmp1 + tmp2), _I(tmp1 - tmp2), _I(tmp0 - tmp3)
        o3, o2, o1, o0 = _odd_part(a7, a5, a3, a1)
        lines[lane], lines[lane + _STRIDE * 7] = _right(_I(e0 + o0 + half), bits), _right(_I(e0 - o0 + half), bits)
        lines[lane + _STRIDE], lines[lane + _STRIDE * 6] = (
            _right(_I(e1 + o1 + half), bits),
            _right(_I(e1 - o1 + half), bits),
        )
        lines[lane + _STRIDE * 2], lines[lane + _STRIDE * 5] = (
            _right(_I(e2 + o2 + half), bits),
            _right(_I(e2 - o2 + half), bits),
        )
        lines[lane + _STRIDE * 3], lines[lane + _STRIDE * 4] = (
            _right(_I(e3 + o3 + half), bits),
            _right(_I(e3 - o3 + half), bits),
        )


@inlined
def _turn(lines, turned, blocks):
    """Write blocks whose lines are columns with lines that are rows, or the other way round."""
    for row in range(_EIGHT):
        for block in range(blocks):
            for column in range(_EIGHT):
                turned[row * _STRIDE + _EIGHT * block + column] = lines[column * _STRIDE + _EIGHT * block + row]


@inlined
def _requantise_plane(plane, begin, rows, columns, divisors, lines, turned):
    """Round the coefficients of a plane (rows, columns), of whole blocks, to multiples of a table of steps.

    `divisors` (8, 512) holds 8 times the step of each lane of a row of blocks. Sizes and divisors are below 2^16, so
    that their quotient in floating-point numbers, rounded down, is that in whole ones.
    """
    for top in range(_ZERO, rows, _EIGHT):
        for left in range(_ZERO, columns // _EIGHT, _STRIP):
            blocks = min(_STRIP, columns // _EIGHT - left)
            corner, count = begin + top * columns + left * _EIGHT, blocks * _EIGHT
            for row in range(_EIGHT):
                for block in range(blocks):
                    for column in range(_EIGHT):
                        sample = plane[corner + row * columns + block * _EIGHT + column]
                        lines[column * _STRIDE + block * _EIGHT + row] = sample
            for second in range(2):
                _forward_lines(lines, count, second)
                if not second:
                    _turn(lines, turned, blocks)
                    lines, turned = turned, lines
            for row in range(_EIGHT):
                base = row * _STRIDE
                for lane in range(count):
                    number, divisor = np.float32(lines[base + lane]), divisors[base + lane]
                    multiple = np.float32(_I((abs(number) + divisor * np.float32(0.5)) / divisor))
                    size = _I(multiple * divisor * np.float32(0.125))
                    lines[base + lane] = _I(-size) if number < 0 else size
            for second in range(2):
                _inverse_lines(lines, count, second)
                if not second:
                    _turn(lines, turned, blocks)
                    lines, turned = turned, lines
            for row in range(_EIGHT):
                for block in range(blocks):
                    for column in range(_EIGHT):
                        sample = lines[column * _STRIDE + block * _EIGHT + row] + 128
                        plane[corner + row * columns + block * _EIGHT + column] = min(max(sample, 0), 255)


@inlined
def _halve(full, height, width, plane, begin, rows, columns, down, across):
    """Write the means of neighbours of a plane, filled up to whole blocks, as libjpeg rounds them."""
    inner, shift = (height + down - _ONE) // down, np.int64(down * across) >> 1
    for row in range(rows):
        first = min(row, inner - _ONE) * down
        upper, lower = first * width, min(first + down - _ONE, height - _ONE) * width
        for column in range(columns):
            left, right = min(column * across, width - _ONE), min(column * across + across - _ONE, width - _ONE)
            total = np.int64(full[upper + left])
            if across > _ONE:
                total += full[upper + right] + np.int64(column & _ONE)
            if down > _ONE:
                total += 1 + full[lower + left] + full[lower + right]
            plane[begin + row * columns + column] = total >> shift


@inlined
def _double(plane, begin, columns, inner_rows, inner_columns, row, down, across, sums, line):
    """Write one row of a plane at the resolution of luma, by triangles as libjpeg does; narrow planes are repeated."""
    near = begin + (row // down) * columns
    if across == _ONE or inner_columns <= _TWO:
        for column in range(inner_columns * across):
            line[column] = plane[near + column // across]
        return
    if down == _ONE:
        for column in range(inner_columns):
            sums[column] = plane[near + column]
    else:
        far = row // down
        if row & _ONE:
            far = min(far + _ONE, inner_rows - _ONE)
        elif far:
            far -= _ONE
        other = begin + far * columns
        for column in range(inner_columns):
            sums[column] = 3 * plane[near + column] + plane[other + column]
    shift, before, after = (2, 1, 2) if down == _ONE else (4, 8, 7)
    last = inner_columns - _ONE
    line[0] = (4 * sums[0] + before) >> shift
    line[_TWO * last + _ONE] = (4 * sums[last] + after) >> shift
    for column in range(last):
        here, there = sums[column], sums[column + _ONE]
        line[_TWO * column + _ONE] = (3 * here + there + after) >> shift
        line[_TWO * column + _TWO] = (3 * there + here + before) >> shift


def make_scratch(steps, sizes, factors):
    """Return the memory that a call works in, and the divisors of its lanes; compiling code that takes it by itself
    would take longer.

    The planes of luma and chroma lie in whole blocks, one after the other; `full` holds chroma before it is halved.
    """
    _, height, width = map(int, sizes)
    down, across = map(int, factors)
    rows, columns = -(-height // 8) * 8, -(-width // 8) * 8
    chroma = -(-height // (8 * down)) * -(-width // (8 * across)) * 64
    divisors = np.stack([np.tile(table.reshape(8, 8), 64).reshape(-1) * 8 for table in steps]).astype(np.float32)
    return (
        *(np.zeros(rows * columns + 2 * chroma, np.uint8), np.zeros(2 * height * width, np.uint8)),
        *(np.zeros(8 * 512, np.int32), np.zeros(8 * 512, np.int32), divisors),
        *(np.zeros(columns, np.int32), np.zeros(2 * columns, np.int32), np.zeros(2 * columns, np.int32)),
    )


@Compiled
def requantise(pixels, result, sizes, factors, scratch, first, stop):
    """Write what libjpeg decodes of images `first` to `stop` after it has encoded them.

    Pixels (n, 1 or 3, height, width) are flat, uint8. `sizes` are channels, height and width, `factors` how much
    smaller chroma is in height and width.
    """
    channels, height, width = sizes
    down, across = factors
    rows, columns = (height + _SEVEN) // _EIGHT * _EIGHT, (width + _SEVEN) // _EIGHT * _EIGHT
    inner_rows, inner_columns = (height + down - _ONE) // down, (width + across - _ONE) // across
    chroma_rows, chroma_columns = (inner_rows + _SEVEN) // _EIGHT * _EIGHT, (inner_columns + _SEVEN) // _EIGHT * _EIGHT
    planes, full, lines, turned, divisors, sums, blues, reds = scratch
    area, blue_start = height * width, rows * columns
    red_start = blue_start + chroma_rows * chroma_columns
    for image in range(np.uint64(first), np.uint64(stop)):
        start = image * channels * area
        for row in range(height):
            source, target = start + row * width, row * columns
            if channels == _ONE:
                for column in range(width):
                    planes[target + column] = pixels[source + column]
            else:
                for column in range(width):
                    red, green = _I(pixels[source + column]), _I(pixels[source + area + column])
                    blue = _I(pixels[source + _TWO * area + column])
                    planes[target + column] = _I(19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
                    full[row * width + column] = _I(-11059 * red - 21709 * green + 32768 * blue + 8421375) >> 16
                    full[area + row * width + column] = _I(32768 * red - 27439 * green - 5329 * blue + 8421375) >> 16
            for column in range(width, columns):
                planes[target + column] = planes[target + width - _ONE]
        for place in range(height * columns, blue_start):
            planes[place] = planes[place - columns]
        for part in range(channels):
            begin, plane_rows, plane_columns = _ZERO, rows, columns
            if part > _ZERO:
                begin = blue_start if part == _ONE else red_start
                plane_rows, plane_columns = chroma_rows, chroma_columns
                plane = full[(part - _ONE) * area :]
                _halve(plane, height, width, planes, begin, chroma_rows, chroma_columns, down, across)
            table = min(part, _ONE)
            _requantise_plane(planes, begin, plane_rows, plane_columns, divisors[table], lines, turned)
        if channels == _ONE:
            for row in range(height):
                for column in range(width):
                    result[start + row * width + column] = planes[row * columns + column]
            continue
        for row in range(height):
            for begin, line in ((blue_start, blues), (red_start, reds)):
                _double(planes, begin, chroma_columns, inner_rows, inner_columns, row, down, across, sums, line)
            target = start + row * width
            for column in range(width):
                grey, blue, red = _I(planes[row * columns + column]), _I(blues[column] - 128), _I(reds[column] - 128)
                found = _I(grey + (_I(91881 * red + 32768) >> 16))
                result[target + column] = min(max(found, 0), 255)
                found = _I(grey + (_I(-22554 * blue - 46802 * red + 32768) >> 16))
                result[target + area + column] = min(max(found, 0), 255)
                found = _I(grey + (_I(116130 * blue + 32768) >> 16))
                result[target + _TWO * area + column] = min(max(found, 0), 255)
