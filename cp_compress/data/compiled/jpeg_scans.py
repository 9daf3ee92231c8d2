# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201 -- what numba compiles has types of its own
"""Coded JPEG images read into coefficients, one symbol after the other."""

from __future__ import annotations

import numpy as np

from cp_compress.data.compiled.compiler import Compiled

_ZERO, _ONE, _SIX, _LAST, _WORD = np.uint64(0), np.uint64(1), np.uint64(6), np.uint64(63), np.uint64(64)
_SHORT = 10  # bits of the short table
_SHORT_REST, _LONG_REST = np.uint64(64 - _SHORT), np.uint64(48)
NOT_A_CODE, TOO_MANY_BITS, TOO_MANY_COEFFICIENTS, TOO_SHORT, TOO_LONG = 1, 2, 3, 4, 5


@Compiled
def read_scans(words, starts, sizes, short, long, order, layout, grids, values, failures, first, stop):
    """Read the images `first` to `stop` into the coefficients of their components, which `values` holds in turn.

    Bits of an image begin at bit `starts` of the words, the first one highest, `sizes` (n,) of them, and zeros follow.
    `short` (4, 2^10) and `long` (4, 2^16) hold `length << 8 | symbol` of the codes that bits begin with, or 0.
    `layout` (blocks of a unit, 3) holds the component of a block, its row and its column in the unit; `grids` (3, 6) of
    each component the rows and columns of a unit and of the image, where in `values` it begins, and its table; its
    last row the rows and columns of units. Blocks beyond the image are written behind all others, where each image has
    a place for one. `failures` (n, 2) become the number of symbols read and the reason, 0 where there is none.
    """
    units, across = grids[3, 0] * grids[3, 1], grids[3, 1]
    spare = grids[3, 2]
    means = np.zeros(3, np.int64)
    for image in range(first, stop):
        start, size = np.uint64(starts[image]), np.uint64(sizes[image])
        position, symbols, reason = _ZERO, 0, 0
        means[0] = means[1] = means[2] = 0
        for unit in range(units):
            for part in range(layout.shape[0]):
                owner = layout[part, 0]
                row = unit // across * grids[owner, 0] + layout[part, 1]
                column = unit % across * grids[owner, 1] + layout[part, 2]
                rows, columns = grids[owner, 2], grids[owner, 3]
                if row < rows and column < columns:
                    base = np.uint64(grids[owner, 4] + ((image * rows + row) * columns + column) * 64)
                else:
                    base = np.uint64(spare + image * 64)
                for place in range(np.uint64(64)):
                    values[base + place] = 0
                table = np.uint64(grids[owner, 5])
                place = _ZERO
                while place < _WORD:
                    at = start + position
                    word, offset = at >> _SIX, at & _LAST
                    window = (words[word] << offset) | ((words[word + _ONE] >> _ONE) >> (_LAST - offset))
                    entry = np.uint64(short[table, window >> _SHORT_REST])
                    if entry == _ZERO:
                        entry = np.uint64(long[table, window >> _LONG_REST])
                        if entry == _ZERO:
                            reason = NOT_A_CODE
                            break
                    length, symbol = entry >> np.uint64(8), entry & np.uint64(0xFF)
                    bits, run = symbol, _ZERO
                    if place > _ZERO:
                        bits, run = symbol & np.uint64(15), symbol >> np.uint64(4)
                    if bits > np.uint64(15):
                        reason = TOO_MANY_BITS
                        break
                    position += length + bits
                    value = np.int64(((window << length) >> _ONE) >> (_LAST - bits))
                    if value < (1 << np.int64(bits)) >> 1:
                        value += 1 - (1 << np.int64(bits))
                    if place == _ZERO:
                        means[owner] += value
                        values[base] = np.int32(means[owner])
                        place, table = _ONE, table + _ONE
                    elif bits > _ZERO:
                        place += run
                        if place >= _WORD:
                            reason = TOO_MANY_COEFFICIENTS
                            break
                        values[base + np.uint64(order[place])] = np.int32(value)
                        place += _ONE
                    else:
                        place = place + np.uint64(16) if run == np.uint64(15) else _WORD
                    if position > size:
                        reason = TOO_SHORT
                        break
                    symbols += 1
                if reason:
                    break
            if reason:
                break
        if reason == 0 and size - position >= np.uint64(8):
            reason, symbols = TOO_LONG, 1 << 60
        failures[image, 0], failures[image, 1] = symbols, reason
