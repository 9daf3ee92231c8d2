# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202 -- what numba compiles has types of its own
"""What libjpeg makes of pixels by encoding and decoding them, without any coding; the arithmetic is `jpeg.transform`'s.

Blocks are worked on in strips of a row of them. A strip lies in a buffer (8, 512), so that the same step of many lines
is one step of long rows: first with a column of all blocks in each row, then with a row of all blocks.
"""

from __future__ import annotations

import numpy as np

from cp_compress.data.compiled.compiler import Compiled, inlined

_ZERO, _ONE, _TWO, _EIGHT = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(8)
_STRIDE, _STRIP = np.uint64(512), np.uint64(64)  # lines and blocks in a strip
_I = np.int32


@inlined
def _descale(value, bits):
    return _I(_I(value + (1 << (bits - 1))) >> bits)


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
def _forward_lines(lines, count, bits, centre):
    """Transform lines in place; those of the first pass, of 11 bits, are samples around a centre."""
    for lane in range(count):
        a0, a1 = _I(lines[lane] - centre), _I(lines[lane + _STRIDE] - centre)
        a2, a3 = _I(lines[lane + _STRIDE * 2] - centre), _I(lines[lane + _STRIDE * 3] - centre)
        a4, a5 = _I(lines[lane + _STRIDE * 4] - centre), _I(lines[lane + _STRIDE * 5] - centre)
        a6, a7 = _I(lines[lane + _STRIDE * 6] - centre), _I(lines[lane + _STRIDE * 7] - centre)
        s0, s1, s2, s3 = _I(a0 + a7), _I(a1 + a6), _I(a2 + a5), _I(a3 + a4)
        tmp10, tmp13, tmp11, tmp12 = _I(s0 + s3), _I(s0 - s3), _I(s1 + s2), _I(s1 - s2)
        shared = _I(4433 * _I(tmp12 + tmp13))
        o7, o5, o3, o1 = _odd_part(_I(a3 - a4), _I(a2 - a5), _I(a1 - a6), _I(a0 - a7))
        if bits == 11:
            lines[lane] = _I(tmp10 + tmp11) << 2
            lines[lane + _STRIDE * 4] = _I(tmp10 - tmp11) << 2
        else:
            lines[lane] = _descale(tmp10 + tmp11, 2)
            lines[lane + _STRIDE * 4] = _descale(tmp10 - tmp11, 2)
        lines[lane + _STRIDE * 2] = _descale(shared + 6270 * tmp13, bits)
        lines[lane + _STRIDE * 6] = _descale(shared - 15137 * tmp12, bits)
        lines[lane + _STRIDE] = _descale(o1, bits)
        lines[lane + _STRIDE * 3] = _descale(o3, bits)
        lines[lane + _STRIDE * 5] = _descale(o5, bits)
        lines[lane + _STRIDE * 7] = _descale(o7, bits)


@inlined
def _inverse_lines(lines, count, bits):
    for lane in range(count):
        a0, a1, a2, a3 = lines[lane], lines[lane + _STRIDE], lines[lane + _STRIDE * 2], lines[lane + _STRIDE * 3]
        a4, a5 = lines[lane + _STRIDE * 4], lines[lane + _STRIDE * 5]
        a6, a7 = lines[lane + _STRIDE * 6], lines[lane + _STRIDE * 7]
        shared = _I(4433 * _I(a2 + a6))
        tmp2, tmp3 = _I(shared - 15137 * a6), _I(shared + 6270 * a2)
        tmp0, tmp1 = _I(_I(a0 + a4) << 13), _I(_I(a0 - a4) << 13)
        e0, e1, e2, e3 = _I(tmp0 + tmp3), _I(tmp1 + tmp2), _I(tmp1 - tmp2), _I(tmp0 - tmp3)
        o3, o2, o1, o0 = _odd_part(a7, a5, a3, a1)
        lines[lane], lines[lane + _STRIDE * 7] = _descale(e0 + o0, bits), _descale(e0 - o0, bits)
        lines[lane + _STRIDE], lines[lane + _STRIDE * 6] = _descale(e1 + o1, bits), _descale(e1 - o1, bits)
        lines[lane + _STRIDE * 2], lines[lane + _STRIDE * 5] = _descale(e2 + o2, bits), _descale(e2 - o2, bits)
        lines[lane + _STRIDE * 3], lines[lane + _STRIDE * 4] = _descale(e3 + o3, bits), _descale(e3 - o3, bits)


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
            _forward_lines(lines, count, 11, 128)
            _turn(lines, turned, blocks)
            _forward_lines(turned, count, 15, 0)
            for row in range(_EIGHT):
                base = row * _STRIDE
                for lane in range(count):
                    number, divisor = np.float32(turned[base + lane]), divisors[base + lane]
                    multiple = np.float32(_I((abs(number) + divisor * np.float32(0.5)) / divisor))
                    size = _I(multiple * divisor * np.float32(0.125))
                    turned[base + lane] = _I(-size) if number < 0 else size
            _inverse_lines(turned, count, 11)
            _turn(turned, lines, blocks)
            _inverse_lines(lines, count, 18)
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


@Compiled
def requantise(pixels, result, steps, sizes, factors, first, stop):
    """Write what libjpeg decodes of images `first` to `stop` after it has encoded them.

    Pixels (n, 1 or 3, height, width) are flat, uint8. `steps` (2, 64), int32, are those of luma and chroma; `sizes` are
    channels, height and width, `factors` how much smaller chroma is in height and width.
    """
    channels, height, width = sizes
    down, across = factors
    rows, columns = (height + np.uint64(7)) // _EIGHT * _EIGHT, (width + np.uint64(7)) // _EIGHT * _EIGHT
    inner_rows, inner_columns = (height + down - _ONE) // down, (width + across - _ONE) // across
    chroma_rows = (inner_rows + np.uint64(7)) // _EIGHT * _EIGHT
    chroma_columns = (inner_columns + np.uint64(7)) // _EIGHT * _EIGHT
    luma = np.zeros(rows * columns, np.uint8)
    chroma, full = np.zeros(2 * chroma_rows * chroma_columns, np.uint8), np.zeros(2 * height * width, np.uint8)
    lines, turned = np.zeros(8 * _STRIDE, np.int32), np.zeros(8 * _STRIDE, np.int32)
    divisors = np.zeros((2, 8 * _STRIDE), np.float32)
    for table in range(2):
        for row in range(_EIGHT):
            for lane in range(_STRIDE):
                divisors[table, row * _STRIDE + lane] = 8 * steps[table, row * _EIGHT + lane % _EIGHT]
    sums, blues, reds = np.zeros(columns, np.int32), np.zeros(2 * columns, np.int32), np.zeros(2 * columns, np.int32)
    area, chroma_area = height * width, chroma_rows * chroma_columns
    for image in range(np.uint64(first), np.uint64(stop)):
        start = image * channels * area
        for row in range(height):
            source, target = start + row * width, row * columns
            if channels == _ONE:
                for column in range(width):
                    luma[target + column] = pixels[source + column]
            else:
                for column in range(width):
                    red, green = _I(pixels[source + column]), _I(pixels[source + area + column])
                    blue = _I(pixels[source + _TWO * area + column])
                    luma[target + column] = _I(19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
                    full[row * width + column] = _I(-11059 * red - 21709 * green + 32768 * blue + 8421375) >> 16
                    full[area + row * width + column] = _I(32768 * red - 27439 * green - 5329 * blue + 8421375) >> 16
            for column in range(width, columns):
                luma[target + column] = luma[target + width - _ONE]
        for place in range(height * columns, rows * columns):
            luma[place] = luma[place - columns]
        _requantise_plane(luma, _ZERO, rows, columns, divisors[0], lines, turned)
        if channels == _ONE:
            for row in range(height):
                for column in range(width):
                    result[start + row * width + column] = luma[row * columns + column]
            continue
        for part in range(_TWO):
            begin = part * chroma_area
            _halve(full[part * area :], height, width, chroma, begin, chroma_rows, chroma_columns, down, across)
            _requantise_plane(chroma, begin, chroma_rows, chroma_columns, divisors[1], lines, turned)
        for row in range(height):
            _double(chroma, _ZERO, chroma_columns, inner_rows, inner_columns, row, down, across, sums, blues)
            _double(chroma, chroma_area, chroma_columns, inner_rows, inner_columns, row, down, across, sums, reds)
            target = start + row * width
            for column in range(width):
                grey, blue, red = _I(luma[row * columns + column]), _I(blues[column] - 128), _I(reds[column] - 128)
                found = _I(grey + (_I(91881 * red + 32768) >> 16))
                result[target + column] = min(max(found, 0), 255)
                found = _I(grey + (_I(-22554 * blue - 46802 * red + 32768) >> 16))
                result[target + area + column] = min(max(found, 0), 255)
                found = _I(grey + (_I(116130 * blue + 32768) >> 16))
                result[target + _TWO * area + column] = min(max(found, 0), 255)
