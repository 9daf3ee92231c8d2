"""The coefficients in coded JPEG images, by a Huffman decoder; no pixels are decoded. ITU-T T.81, Annex F.2.

In machine code, where it can be compiled, images are read one after the other. Else every step reads one symbol of
every image of the batch, so the number of steps is the number of symbols of the longest image.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cp_compress.base.errors import CorruptStreamError
from cp_compress.data.compiled.compiler import find_compiled, in_threads
from cp_compress.data.jpeg.tables import zigzag_order

Integers = npt.NDArray[np.int64]
_WINDOW = 16  # the longest code, and more bits than any value has
_HUFFMAN = 0xC4
_SHORT = 10  # more bits than most codes have
_PADDING = bytes(8)
# coefficients, which are read in about a tenth of a millisecond
_WORTH_A_THREAD = 2**16
# why bits are no coded image, in the order in which each symbol is checked
_REASONS = {
    1: "its bits are not a valid code",
    2: "a value has too many bits",
    3: "a block has more than 64 coefficients",
    4: "it ends before its last block",
    5: "more bytes follow its last block",
}


class Component(NamedTuple):
    """A component of an image: its blocks in each unit of the scan, and those that there are of it."""

    unit_rows: int
    unit_columns: int
    rows: int
    columns: int


class Tables(NamedTuple):
    """Of each Huffman table and each 16 bits that may follow, `length << 8 | symbol`, or 0; and of each 10 bits.

    The tables are those of luma DC, luma AC, chroma DC and chroma AC; grey images have the first two.
    """

    long: npt.NDArray[np.uint16]
    short: npt.NDArray[np.uint16]


def read_tables(head: bytes) -> Tables:
    """Return the Huffman tables of a file's head."""
    segments, position = [], 2
    while position < len(head):
        marker, length = head[position + 1], int.from_bytes(head[position + 2 : position + 4], "big")
        if marker == _HUFFMAN:
            segments.append(head[position + 4 : position + 2 + length])
        position += 2 + length
    return _expand_segments(b"".join(segments))


@functools.lru_cache(maxsize=8)
def _expand_segments(segment: bytes) -> Tables:
    long = np.zeros((4, 1 << _WINDOW), np.uint16)
    while segment:
        place = 2 * (segment[0] & 15) + (segment[0] >> 4)
        counts, symbols = segment[1:17], segment[17 : 17 + sum(segment[1:17])]
        long[place] = _expand(counts, symbols)
        segment = segment[17 + len(symbols) :]
    short = long[:, :: 1 << (_WINDOW - _SHORT)]
    return Tables(long, np.where(short >> 8 <= _SHORT, short, 0).astype(np.uint16))


def _expand(counts: bytes, symbols: bytes) -> Integers:
    """Return the entry of every window of bits, of a table written as counts by length and symbols."""
    lengths = np.repeat(np.arange(1, 17), np.frombuffer(counts, np.uint8))
    entries = (lengths << 8) | np.frombuffer(symbols, np.uint8)
    # codes of one length follow one another, so each entry fills the windows after those of the one before
    filled = np.repeat(entries, 1 << (_WINDOW - lengths))
    return np.concatenate([filled, np.zeros((1 << _WINDOW) - len(filled), np.int64)])


def read_scans(scans: Sequence[memoryview], tables: Tables, components: Sequence[Component]) -> list[Tensor]:
    """Return the quantised coefficients of each component (n, rows, columns, 64), int32, in C order.

    All images have the size that `components` were laid out for. Raises CorruptStreamError, naming the image, for bits
    that are no coded image of that size.
    """
    compiled = find_compiled("jpeg_scans")
    if compiled is None:
        return read_stepwise(scans, tables, components)
    return _read_compiled(compiled, scans, tables, components)


def _read_compiled(
    compiled: Any, scans: Sequence[memoryview], tables: Tables, components: Sequence[Component]
) -> list[Tensor]:
    count, (down, across) = len(scans), _units(components)
    plain = [bytes(scan).replace(b"\xff\x00", b"\xff") for scan in scans]
    lengths = np.array([len(scan) for scan in plain])
    starts = 8 * (np.cumsum(lengths + len(_PADDING)) - lengths - len(_PADDING))
    content = _PADDING.join([*plain, bytes(3 * len(_PADDING) - int(lengths.sum()) % 8)])
    words = np.frombuffer(content, ">u8", (len(content) - 8) // 8).astype(np.uint64)
    layout = [
        (owner, row, column)
        for owner, part in enumerate(components)
        for row in range(part.unit_rows)
        for column in range(part.unit_columns)
    ]
    grids, total = np.zeros((4, 6), np.int64), 0
    for owner, part in enumerate(components):
        grids[owner] = (*part, total, 2 * min(owner, 1))
        total += count * part.rows * part.columns * 64
    grids[3, :3] = down, across, total
    values, failures = torch.empty(total + 64 * count, dtype=torch.int32), np.zeros((count, 2), np.int64)
    arguments = words, starts, 8 * lengths, tables.short, tables.long, zigzag_order().numpy(), np.array(layout), grids

    def work(first: int, stop: int) -> None:
        compiled.read_scans(*arguments, values.numpy(), failures, first, stop)

    in_threads(work, count, _WORTH_A_THREAD // (total // count))
    if failures[:, 1].any():
        # the one that the steps find first
        wrong = np.flatnonzero(failures[:, 1])
        index = int(wrong[np.lexsort((failures[wrong, 1], failures[wrong, 0]))[0]])
        raise _damaged(index, _REASONS[int(failures[index, 1])])
    sizes = [count * part.rows * part.columns * 64 for part in components]
    found = torch.split(values[:total], sizes)
    return [part.view(count, shape.rows, shape.columns, 64) for part, shape in zip(found, components, strict=True)]


def read_stepwise(scans: Sequence[memoryview], tables: Tables, components: Sequence[Component]) -> list[Tensor]:
    """Return what `read_scans` does, one symbol of all images after the other."""
    sequence = _blocks_in_order(components)
    reader = _Reader(scans, tables.long, np.array(sequence.owners))
    while reader.step():
        pass
    reader.check_end()
    found = torch.from_numpy(reader.values).to(torch.int32)
    return [found[:, torch.from_numpy(places)] for places in sequence.places]


class _Sequence(NamedTuple):
    owners: list[int]
    places: list[Integers]


def _blocks_in_order(components: Sequence[Component]) -> _Sequence:
    """Return the component of each block in the order of the scan, and where the blocks of each component are."""
    units = _units(components)
    # the blocks of one component lie side by side in a unit; of a unit's blocks, those beyond the image are dropped
    size = sum(part.unit_rows * part.unit_columns for part in components)
    unit = np.arange(units[0])[:, None] * units[1] + np.arange(units[1])
    owners: list[int] = []
    places: list[Integers] = []
    for number, part in enumerate(components):
        within = len(owners) + np.arange(part.unit_rows * part.unit_columns).reshape(part.unit_rows, part.unit_columns)
        grid = unit[:, None, :, None] * size + within[None, :, None, :]
        shape = (units[0] * part.unit_rows, units[1] * part.unit_columns)
        places.append(grid.reshape(shape)[: part.rows, : part.columns])
        owners += [number] * within.size
    return _Sequence(owners * (units[0] * units[1]), places)


def _units(components: Sequence[Component]) -> tuple[int, int]:
    """Return the rows and columns of units of a scan."""
    return (
        max(-(-part.rows // part.unit_rows) for part in components),
        max(-(-part.columns // part.unit_columns) for part in components),
    )


def _damaged(index: int, reason: str) -> CorruptStreamError:
    return CorruptStreamError(f"example #{index}: the coded JPEG image is damaged: {reason}", index)


class _Reader:
    """One state machine an image, all of which take a step at a time."""

    def __init__(self, scans: Sequence[memoryview], tables: npt.NDArray[np.uint16], owners: Integers) -> None:
        plain = [bytes(scan).replace(b"\xff\x00", b"\xff") for scan in scans]
        self.sizes = np.array([8 * len(scan) for scan in plain])
        starts = np.cumsum([0, *(len(scan) + len(_PADDING) for scan in plain[:-1])])
        self.content = np.frombuffer(_PADDING.join([*plain, b""]), np.uint8).astype(np.int64)
        self.first = 8 * starts
        self.position = np.zeros(len(scans), np.int64)
        self.block, self.place = np.zeros(len(scans), np.int64), np.zeros(len(scans), np.int64)
        self.tables, self.owners = tables, owners
        self.last_means = np.zeros((len(scans), int(owners.max()) + 1), np.int64)
        self.values = np.zeros((len(scans), len(owners), 64), np.int32)
        self.zigzag = zigzag_order().numpy()
        self.active = np.arange(len(scans))

    def step(self) -> bool:
        """Read one symbol of every image that is not finished; return whether there is any."""
        images = self.active
        if not len(images):
            return False
        block, place = self.block[images], self.place[images]
        owner = self.owners[block]
        entry = self.tables[2 * np.minimum(owner, 1) + (place > 0), self._window(images)].astype(np.int64)
        self._require(images, entry > 0, _REASONS[1])
        self.position[images] += entry >> 8
        symbol = entry & 0xFF
        size = np.where(place > 0, symbol & 15, symbol)
        run = np.where(place > 0, symbol >> 4, 0)
        self._require(images, size < _WINDOW, _REASONS[2])
        value = self._value(images, size)
        means = place == 0
        self.last_means[images[means], owner[means]] += value[means]
        value = np.where(means, self.last_means[images, owner], value)
        target = place + run
        written = means | (size > 0)
        self._require(images, ~written | (target < 64), _REASONS[3])
        self.values[images[written], block[written], self.zigzag[target[written]]] = value[written]
        ended = ~means & (size == 0) & (run < 15)
        following = np.where(ended, 64, target + 1)
        done = following >= 64
        self.block[images] += done
        self.place[images] = np.where(done, 0, following)
        self.active = images[self.block[images] < len(self.owners)]
        self._require(images, self.position[images] <= self.sizes[images], _REASONS[4])
        return True

    def check_end(self) -> None:
        """Refuse images behind which more is stored than what fills up the last byte."""
        everything = np.arange(len(self.sizes))
        self._require(everything, self.sizes - self.position < 8, _REASONS[5])

    def _window(self, images: Integers) -> Integers:
        """Return the next 16 bits of each image."""
        start = self.first[images] + np.minimum(self.position[images], self.sizes[images])
        byte, offset = start >> 3, start & 7
        joined = (self.content[byte] << 16) | (self.content[byte + 1] << 8) | self.content[byte + 2]
        window: Integers = (joined >> (8 - offset)) & 0xFFFF
        return window

    def _value(self, images: Integers, size: Integers) -> Integers:
        """Read numbers of so many bits; those that begin with a zero are negative."""
        bits = self._window(images) >> (_WINDOW - size)
        self.position[images] += size
        negative = bits < (1 << size >> 1)
        return np.where(negative, bits - (1 << size) + 1, bits)

    def _require(self, images: Integers, holds: npt.NDArray[np.bool_], reason: str) -> None:
        if not holds.all():
            raise _damaged(int(images[~holds][0]), reason)
