# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202 -- what numba compiles has types of its own
"""zfp streams read into coefficients, block by block, several bits at a time.

A plane of a block is the bits of the coefficients reached so far, then runs: a test whether any bit is left, and if so
zeros up to the next one. A table says for any 8 bits what a reader of runs makes of them. The planes of a block are
gathered by eights: bit i of a byte is spread to byte i of a word, so that eight words make the bits of eight planes
the bytes of eight coefficients.
"""

from __future__ import annotations

import numpy as np

from cp_compress.data.compiled.compiler import Compiled, inlined

_ONE, _SIX, _EIGHT = np.uint64(1), np.uint64(6), np.uint64(8)
_WORD, _LAST = np.uint64(64), np.uint64(63)
_BYTE, _NIBBLE, _ALL = np.uint64(0xFF), np.uint64(0xF), np.uint64(2**64 - 1)
_NO_END = np.uint64(2**62)
# coefficients left, of which more make no difference to 8 bits
_LEFT = np.uint64(10)
_TAKEN, _MOVED, _ONES, _DONE, _RUNNING = 0, 4, 8, 20, 21
_MOVED_BITS, _ONES_BITS, _DONE_BIT = np.uint64(_MOVED), np.uint64(_ONES), np.uint64(1 << _DONE)
_ONES_MASK, _RUNNING_BITS, _NINE = np.uint64(0xFFF), np.uint64(_RUNNING), np.uint64(9)


def _step(left: int, running: int, window: int) -> int:
    """Return what 8 bits do where so many coefficients are left, within a run or before one.

    Packed are the bits taken, the coefficients passed, which of them have a one, whether the plane is done, and whether
    the bits end within a run. The one of the last coefficient is known from the test before it, and not in the stream.
    """
    taken = moved = ones = 0
    done = False
    while taken < 8 and not done:
        bit = window >> taken & 1
        taken += 1
        if running:
            ones |= bit << moved
            moved += 1
            running = 1 - bit
        else:
            done, running = not bit, bit
        if running and moved == left - 1:
            ones |= 1 << moved
            moved, running = moved + 1, 0
        done = done or moved == left
    return taken << _TAKEN | moved << _MOVED | ones << _ONES | done << _DONE | running << _RUNNING


STEPS = np.array(
    [_step(max(left, 1), running, window) for left in range(11) for running in (0, 1) for window in range(256)],
    np.uint32,
)
SPREAD = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").view(np.uint64).reshape(-1)


@inlined
def _peek(words, position, last):
    """Return the 64 bits from a position on; what lies behind the words must not matter, but is never touched."""
    index = min(position >> _SIX, last)
    offset = position & _LAST
    return (words[index] >> offset) | ((words[index + _ONE] << _ONE) << (_LAST - offset))


def make_scratch():
    """Return the memory that a call works in: a plane of bits, sums of its octets, and their bytes."""
    sums = np.zeros((9, 32), np.uint64)
    return np.zeros(5, np.uint64), sums, sums.view(np.uint8)


@Compiled
def read_blocks(
    words, ends, values, exponents, damaged, header, bias, least, budget, kept, margin, wanted, steps, spread,
    scratch, first, stop,
):  # fmt: skip
    """Read the examples `first` to `stop`: their coefficients into values (n, blocks, 4^d), and their exponents.

    `ends` (n,) are bits of `words`, where each example follows the one before it, and two more words the last. Of a
    block `kept` planes are stored, or where that is negative its exponent and `margin`, or what fills `budget` bits, if
    that is not 0; the top `wanted` planes are returned. `damaged` (n,) tells of which examples the bits are not those
    of so many blocks.
    """
    size = np.uint64(values.shape[2])
    last = np.uint64(len(words) - 2)
    planes = 32 if header == 9 else 64
    mask = values.dtype.type(-1431655766 if header == 9 else -6148914691236517206)
    words_of_plane = ((values.shape[2] + 63) >> 6) + 1
    octets = (values.shape[2] + 7) >> 3
    stated_mask = (_ONE << np.uint64(header - 1)) - _ONE
    plane, sums, lanes = scratch
    for example in range(first, stop):
        begin, finish = np.uint64(ends[example - 1]) if example else np.uint64(0), np.uint64(ends[example])
        position, wrong = begin, False
        for block in range(values.shape[1]):
            end = position + np.uint64(budget) if budget else _NO_END
            word = _peek(words, position, last)
            exponent, number = -bias, 0
            if word & _ONE:
                exponent = np.int64((word >> _ONE) & stated_mask) - bias
                number = kept if kept >= 0 else min(max(exponent + margin, 0), planes)
                position += np.uint64(header)
                wrong = exponent < least
            else:
                position += _ONE
            exponents[example, block] = exponent
            reached, used = np.uint64(0), min(number, wanted)
            for number_read in range(number):
                if position >= end:
                    used = min(used, number_read)
                    break
                for place in range(words_of_plane):
                    plane[place] = 0
                # the bits of the coefficients reached so far
                word, left, place = _peek(words, position, last), min(reached, end - position), 0
                while left > _WORD:
                    plane[place] = word
                    position, left, place = position + _WORD, left - _WORD, place + 1
                    word = _peek(words, position, last)
                available, bits, running = _WORD - left, np.uint64(0), np.uint64(0)
                if left:
                    bits = word & (_ALL >> available)
                    word = (word >> (left - _ONE)) >> _ONE
                    position += left
                if place != np.int64(reached >> _SIX):
                    plane[place] = bits
                    bits = np.uint64(0)
                # runs of the others
                while reached < size:
                    before = reached
                    if position + _EIGHT <= end:
                        if available < _EIGHT:
                            word, available = _peek(words, position, last), _WORD
                        index = (min(size - reached, _LEFT) << _NINE) | (running << _EIGHT) | (word & _BYTE)
                        step = np.uint64(steps[index])
                        ones, taken = (step >> _ONES_BITS) & _ONES_MASK, step & _NIBBLE
                        reached += (step >> _MOVED_BITS) & _NIBBLE
                        position, available, word = position + taken, available - taken, word >> taken
                        done, running = step & _DONE_BIT, step >> _RUNNING_BITS
                    else:
                        # where a budget ends within a run, the first unread bit counts as a one
                        going = np.uint64(position < end) & _peek(words, position, last) if not running else _ONE
                        position += _ONE - running
                        done = _ONE - (going & _ONE)
                        ones = running = np.uint64(0)
                        if not done:
                            zeros, rest = np.uint64(0), _peek(words, position, last)
                            limit = min(size - _ONE - reached, end - position)
                            while zeros < limit and not (rest >> zeros) & _ONE:
                                zeros += _ONE
                            position += zeros + np.uint64(zeros < limit)
                            ones, reached = _ONE << zeros, reached + zeros + _ONE
                    offset = before & _LAST
                    bits |= ones << offset
                    if before >> _SIX != reached >> _SIX:
                        plane[before >> _SIX] = bits
                        bits = (ones >> _ONE) >> (_LAST - offset)
                    if done:
                        break
                plane[reached >> _SIX] = bits
                if number_read < wanted:
                    for octet in range(octets):
                        byte = (plane[octet >> 3] >> np.uint64(8 * (octet & 7))) & _BYTE
                        sums[number_read >> 3, octet] = (sums[number_read >> 3, octet] << _ONE) | spread[byte]
            groups = (used + 7) >> 3
            for octet in range(octets):
                sums[used >> 3, octet] <<= np.uint64(8 - (used & 7))
            for place in range(values.shape[2]):
                values[example, block, place] = 0
            for group in range(groups):
                shift = planes - 8 - 8 * group
                for place in range(values.shape[2]):
                    values[example, block, place] |= values.dtype.type(lanes[group, place]) << shift
                for octet in range(octets):
                    sums[group, octet] = 0
            for place in range(values.shape[2]):
                values[example, block, place] = (values[example, block, place] ^ mask) - mask
            if budget:
                position = end
            wrong = wrong or position > finish
            if wrong:
                break
        words_read = (position - begin + _LAST) >> _SIX
        damaged[example] = wrong or words_read << _SIX != finish - begin
