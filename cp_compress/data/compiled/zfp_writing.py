# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202 -- what numba compiles has types of its own
"""zfp streams written, block by block.

Planes are taken by eights: of eight coefficients a byte each makes a word, which is turned into a byte for each plane.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from cp_compress.data.compiled.compiler import Compiled, inlined
from cp_compress.data.compiled.zfp_blocks import FOUR, analyse, gather, lowest_planes, make_scratch, to_negabinary

_ZERO, _ONE, _THREE, _SIX, _EIGHT = np.uint64(0), np.uint64(1), np.uint64(3), np.uint64(6), np.uint64(8)
_SEVEN, _LAST, _WORD, _BYTE = np.uint64(7), np.uint64(63), np.uint64(64), np.uint64(0xFF)
_ALL = np.uint64(2**64 - 1)


@intrinsic
def _lowest_bit(typing_context, number):
    """Return the place of the lowest bit that is set in a word that is not 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return number(number), generate


@inlined
def _turn(word):
    """Return 8 bytes with bit i of byte j at bit j of byte i (Warren, "Hacker's Delight", 7-3)."""
    swap = (word ^ (word >> np.uint64(7))) & np.uint64(0x00AA00AA00AA00AA)
    word = word ^ swap ^ (swap << np.uint64(7))
    swap = (word ^ (word >> np.uint64(14))) & np.uint64(0x0000CCCC0000CCCC)
    word = word ^ swap ^ (swap << np.uint64(14))
    swap = (word ^ (word >> np.uint64(28))) & np.uint64(0x00000000F0F0F0F0)
    return word ^ swap ^ (swap << np.uint64(28))


@inlined
def _put(words, position, bits):
    """Write 64 bits, or fewer where the last ones are 0, into words that are 0 from a position on."""
    index, offset = position >> _SIX, position & _LAST
    words[index] |= bits << offset
    words[index + _ONE] |= (bits >> _ONE) >> (_LAST - offset)


__all__ = ["make_planes", "make_scratch", "write_blocks"]


def make_planes(size):
    """Return the memory that a call works in beside its scratch: the bytes of a block, their words, eight planes."""
    octets = np.zeros(-(-size // 8), np.uint64)
    return octets.view(np.uint8), octets, np.zeros((8, 4), np.uint64)


@Compiled
def write_blocks(values, words, lengths, order, geometry, form, blocks, each, scratch, own, first, stop):
    """Write the arrays `first` to `stop` of so many blocks into words, which are 0 and of which there are `each`.

    `lengths` become the words that each array takes. The other arguments are those of `zfp_results.requantise`, `own`
    is of `make_planes`.
    """
    n0, n1, n2, n3, d0, d1, d2 = geometry
    bias, fraction, least, planes, odd, kept, margin, budget, together = form
    size, most, every = d0 * d1 * d2 * FOUR, np.uint64(together), np.uint64(blocks)
    buffer, bits, numbers, scales, scale_bits, exponents, _, runs, lowest, _, _, _, _, _ = scratch
    octet_bytes, octets, plane = own
    header, room = np.uint64(planes - fraction), np.uint64(budget)
    words_of_plane = (size + _LAST) >> _SIX
    for example in range(np.uint64(first), np.uint64(stop)):
        start = example * np.uint64(each) << _SIX
        position, done = start, _ZERO
        while done < every:
            lanes = min(most, every - done)
            gather(values, n0, n1, n2, n3, d0, d1, d2, example * every + done, lanes, buffer, runs)
            analyse(buffer, bits, numbers, size, lanes, exponents, scales, scale_bits, bias, fraction, least, planes)
            to_negabinary(numbers, size * lanes, odd)
            lowest_planes(exponents, lowest, lanes, planes, kept, margin)
            for lane in range(lanes):
                begin, number = position, planes - np.int64(lowest[lane])
                if exponents[lane] == -bias or number == 0:
                    position += max(room, _ONE)
                    continue
                _put(words, position, _ONE | np.uint64(exponents[lane] + bias) << _ONE)
                position += header
                end = begin + room if room else _ALL
                reached = written = _ZERO
                while written < np.uint64(number) and position < end:
                    turned_eight = written & _SEVEN
                    if turned_eight == _ZERO:  # the next eight planes
                        shift = planes - 8 - np.int64(written)
                        for rank in range(size):
                            octet_bytes[rank] = (numbers[order[rank] * lanes + lane] >> shift) & 0xFF
                        for bit in range(_EIGHT):
                            for word in range(words_of_plane):
                                plane[bit, word] = _ZERO
                        for octet in range(np.uint64(len(octets))):
                            turned, place = _turn(octets[octet]), _EIGHT * (octet & _SEVEN)
                            for bit in range(_EIGHT):
                                found = (turned >> (_EIGHT * (_SEVEN - bit))) & _BYTE
                                plane[bit, octet >> _THREE] |= found << place
                    # the bits of the coefficients reached so far
                    index = _ZERO
                    while index < reached >> _SIX:
                        _put(words, position, plane[turned_eight, index])
                        position, index = position + _WORD, index + _ONE
                    rest, offset = _ZERO, reached & _LAST
                    if index < words_of_plane:
                        rest = plane[turned_eight, index]
                    if offset:
                        _put(words, position, rest & (_ALL >> (_WORD - offset)))
                        position += offset
                        rest &= _ALL << offset
                    # runs of the others
                    while reached < size:
                        while rest == _ZERO and index + _ONE < words_of_plane:
                            index += _ONE
                            rest = plane[turned_eight, index]
                        if rest == _ZERO:
                            position += _ONE
                            break
                        found = (index << _SIX) + _lowest_bit(rest)
                        rest &= rest - _ONE
                        words[position >> _SIX] |= _ONE << (position & _LAST)
                        position += found - reached + _ONE
                        if found < size - _ONE:  # the one of the last coefficient follows from the test
                            words[position >> _SIX] |= _ONE << (position & _LAST)
                            position += _ONE
                        reached = found + _ONE
                    written += _ONE
                if room:
                    if position > end:  # what was written beyond the budget goes
                        index = end >> _SIX
                        words[index] &= ~(_ALL << (end & _LAST))
                        while index < position >> _SIX:
                            index += _ONE
                            words[index] = _ZERO
                    position = end
            done += lanes
        lengths[example] = (position - start + _LAST) >> _SIX
