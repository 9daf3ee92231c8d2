"""The coefficients that zfp streams hold, in machine code where it can be compiled, else by steps.

zfp's library returns decoded values only, but to omit some planes of a block its stored planes are needed. Blocks have
no marked beginning, so they are read one after the other. By steps, the same block of all streams is read together; at
a fixed rate, where the beginnings are known, all blocks are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cp_compress.base.batching import slices
from cp_compress.base.errors import CorruptStreamError
from cp_compress.data.compiled.compiler import find_compiled, in_threads
from cp_compress.data.zfp.limits import block_budget
from cp_compress.data.zfp.planes import Setting, cut_planes, kept_planes, tolerance_margin
from cp_compress.data.zfp.transform import NumberFormat, from_negabinary

_Array = npt.NDArray[Any]
_WORD = 64
_NO_END = 2**62
_IMPOSSIBLE = -4096  # stands for an exponent that is never stored
# of payloads read together; each bit is held as five bytes
_BYTES = 2**22
# coefficients, which are read in about a tenth of a millisecond
_WORTH_A_THREAD = 2**16


class StreamBlocks(NamedTuple):
    """What streams hold: coefficients (n, blocks, 4^d) in zfp's order, and exponents (n, blocks), int32."""

    coefficients: Tensor
    exponents: Tensor


class _Bits:
    """The bits of several payloads in one row, with zeros behind each for what is read past its end."""

    def __init__(self, payloads: Sequence[memoryview], margin: int) -> None:
        lengths = np.array([8 * len(payload) for payload in payloads], dtype=np.int64)
        self.starts = np.concatenate(([0], np.cumsum(lengths + 8 * margin)))[:-1]
        self.ends = self.starts + lengths
        row = b"".join(part for payload in payloads for part in (payload, bytes(margin)))
        self.bits = np.unpackbits(np.frombuffer(row, dtype=np.uint8), bitorder="little")
        end = len(self.bits)
        places = np.where(self.bits, np.arange(end, dtype=np.int32 if end < 2**31 else np.int64), end)
        self.next_one = np.minimum.accumulate(places[::-1])[::-1]

    def number(self, position: _Array, width: int) -> _Array:
        """Return the number of so many bits at each position, the first bit lowest."""
        return self.bits[position[:, None] + np.arange(width)] @ (1 << np.arange(width))


def read_blocks(
    payloads: Sequence[memoryview],
    blocks: int,
    dimensions: int,
    setting: Setting,
    numbers: NumberFormat,
    precision: int | None = None,
) -> StreamBlocks:
    """Return what the payloads of zfp arrays of so many blocks hold, of its planes the top `precision` or all.

    Raises CorruptStreamError, naming the example, where a payload does not end with its last block, or a block states
    an exponent that is never stored.
    """
    compiled = find_compiled("zfp_reading")
    if compiled is not None:
        return _read_compiled(compiled, payloads, blocks, dimensions, setting, numbers, precision or numbers.planes)
    return read_stepwise(payloads, blocks, dimensions, setting, numbers, precision)


def _read_compiled(
    compiled: Any,
    payloads: Sequence[memoryview],
    blocks: int,
    dimensions: int,
    setting: Setting,
    numbers: NumberFormat,
    wanted: int,
) -> StreamBlocks:
    count = len(payloads)
    words = np.frombuffer(b"".join((*payloads, bytes(2 * _WORD // 8))), dtype=np.uint64)
    ends = np.cumsum([8 * len(payload) for payload in payloads])
    found = StreamBlocks(
        torch.empty(count, blocks, 4**dimensions, dtype=numbers.integer),
        torch.empty(count, blocks, dtype=torch.int32),
    )
    values, exponents, damaged = found.coefficients.numpy(), found.exponents.numpy(), np.empty(count, dtype=np.bool_)
    budget = 0 if setting.rate is None else block_budget(dimensions, setting.rate)
    kept, margin = min(setting.precision or numbers.planes, numbers.planes), 0
    if setting.tolerance is not None:
        kept, margin = -1, tolerance_margin(dimensions, setting.tolerance)

    def work(first: int, stop: int) -> None:
        compiled.read_blocks(
            *(words, ends, values, exponents, damaged),
            *(numbers.header_bits, numbers.bias, numbers.least_exponent, budget, kept, margin, wanted),
            *(compiled.STEPS, compiled.SPREAD, compiled.make_scratch(), first, stop),
        )

    in_threads(work, count, _WORTH_A_THREAD // (blocks * 4**dimensions))
    if damaged.any():
        raise _damaged(int(damaged.argmax()))
    return found


def _damaged(index: int) -> CorruptStreamError:
    return CorruptStreamError(f"example #{index}: the ZFP payload does not hold the blocks of its shape", index)


def read_stepwise(
    payloads: Sequence[memoryview],
    blocks: int,
    dimensions: int,
    setting: Setting,
    numbers: NumberFormat,
    precision: int | None = None,
) -> StreamBlocks:
    """Return what `read_blocks` does, one step of all streams after the other."""
    together = max(1, _BYTES // max(map(len, payloads)))
    groups = [
        _read_group(payloads[part], part.start, blocks, dimensions, setting, numbers)
        for part in slices(len(payloads), together)
    ]
    patterns, exponents = map(torch.cat, zip(*groups, strict=True))
    if precision is not None:
        patterns = cut_planes(patterns, torch.full_like(exponents, numbers.planes - precision))
    return StreamBlocks(from_negabinary(patterns), exponents)


def _read_group(
    payloads: Sequence[memoryview], first: int, blocks: int, dimensions: int, setting: Setting, numbers: NumberFormat
) -> tuple[Tensor, Tensor]:
    # the most that one block takes, so that a damaged stream stays inside its zeros until it is found out
    source = _Bits(payloads, margin=(numbers.planes + 2) * 4**dimensions // 4 + 64)
    count = len(payloads)
    if setting.rate is not None:
        budget = block_budget(dimensions, setting.rate)
        starts = (source.starts[:, None] + np.arange(blocks) * budget).reshape(-1)
        patterns, exponents, _ = _read(source, starts, dimensions, setting, numbers)
        ends = source.starts + blocks * budget
        patterns, exponents = patterns.reshape(count, blocks, -1), exponents.reshape(count, blocks)
    else:
        found = []
        ends = source.starts
        for _ in range(blocks):
            *block, ends = _read(source, np.minimum(ends, source.ends), dimensions, setting, numbers)
            found.append(block)
        patterns, exponents = (np.stack(part, axis=1) for part in zip(*found, strict=True))
    wrong = (ends + _WORD - 1 - source.starts) // _WORD * _WORD != source.ends - source.starts
    wrong |= (exponents == _IMPOSSIBLE).any(axis=1)
    if wrong.any():
        raise _damaged(first + int(wrong.argmax()))
    signed = patterns.view(np.int32 if numbers.planes == 32 else np.int64)
    return torch.from_numpy(signed), torch.from_numpy(exponents)


def _read(
    source: _Bits, position: _Array, dimensions: int, setting: Setting, numbers: NumberFormat
) -> tuple[_Array, _Array, _Array]:
    """Return patterns (lanes, 4^d), exponents (lanes,) and the ends of the blocks at positions (lanes,)."""
    filled = source.bits[position] == 1
    stated = source.number(position + 1, numbers.header_bits - 1) - numbers.bias
    stated = np.where(stated < numbers.least_exponent, _IMPOSSIBLE, stated)
    exponents = np.where(filled, stated, -numbers.bias).astype(np.int32)
    planes = kept_planes(torch.from_numpy(exponents), dimensions, numbers.planes, setting).numpy()
    planes = np.where(filled, planes, 0)
    end = np.full_like(position, _NO_END)
    if setting.rate is not None:
        end = position + block_budget(dimensions, setting.rate)
    position = position + np.where(filled, numbers.header_bits, 1)
    kind = np.uint32 if numbers.planes == 32 else np.uint64
    patterns = np.zeros((len(position), 4**dimensions), dtype=kind)
    reached = np.zeros_like(position)
    for step in range(int(planes.max(initial=0))):
        lanes = np.flatnonzero((planes > step) & (position < end))
        plane = kind(numbers.planes - 1 - step)
        _read_plane(source, patterns, position, reached, end, lanes, plane)
    return patterns, exponents, position


def _read_plane(
    source: _Bits, patterns: _Array, position: _Array, reached: _Array, end: _Array, lanes: _Array, plane: Any
) -> None:
    """Read one plane of some lanes: as many bits as they have reached coefficients, then runs."""
    size, one = patterns.shape[1], patterns.dtype.type(1)
    width = int(reached[lanes].max(initial=0))
    verbatim = np.minimum(reached[lanes], end[lanes] - position[lanes])
    places = np.arange(width)
    bits = source.bits[position[lanes, None] + places] * (places < verbatim[:, None])
    patterns[lanes, :width] |= bits.astype(patterns.dtype) << plane
    position[lanes] += verbatim
    while True:
        lanes = lanes[(reached[lanes] < size) & (position[lanes] < end[lanes])]
        at = position[lanes]
        position[lanes] = at + 1
        going = source.bits[at] == 1
        lanes, at = lanes[going], at[going] + 1
        if not len(lanes):
            return
        zeros, left, room = source.next_one[at] - at, size - 1 - reached[lanes], end[lanes] - at
        skipped = np.minimum(np.minimum(zeros, left), room)
        found = reached[lanes] + skipped
        patterns[lanes, found] |= one << plane
        # neither the bit of the last coefficient nor one behind the budget is in the stream
        position[lanes] = at + skipped + ((zeros < left) & (zeros < room))
        reached[lanes] = found + 1
