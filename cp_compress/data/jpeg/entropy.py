"""The coefficients in coded JPEG images, by a Huffman decoder that reads many images at once; no pixels are decoded.

Every step reads one symbol of every image of the batch, so the number of steps is the number of symbols of the longest
image. ITU-T T.81, Annex F.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cp_compress.base.errors import CorruptStreamError
from cp_compress.data.jpeg.tables import zigzag_order

Integers = npt.NDArray[np.int64]
_WINDOW = 16  # the longest code, and more bits than any value has
_HUFFMAN = 0xC4
_PADDING = bytes(8)


class Component(NamedTuple):
    """A component of an image: its blocks in each unit of the scan, and those that there are of it."""

    unit_rows: int
    unit_columns: int
    rows: int
    columns: int


def read_tables(head: bytes) -> Integers:
    """Return for each Huffman table of a file's head and each 16 bits that may follow `length << 8 | symbol`, or 0.

    The tables are those of luma DC, luma AC, chroma DC and chroma AC; grey images have the first two.
    """
    tables = np.zeros((4, 1 << _WINDOW), np.int64)
    position = 2
    while position < len(head):
        marker, length = head[position + 1], int.from_bytes(head[position + 2 : position + 4], "big")
        segment = head[position + 4 : position + 2 + length]
        while marker == _HUFFMAN and segment:
            place = 2 * (segment[0] & 15) + (segment[0] >> 4)
            counts, symbols = segment[1:17], segment[17 : 17 + sum(segment[1:17])]
            tables[place] = _expand(counts, symbols)
            segment = segment[17 + len(symbols) :]
        position += 2 + length
    return tables


def _expand(counts: bytes, symbols: bytes) -> Integers:
    """Return the entry of every window of bits, of a table written as counts by length and symbols."""
    lengths = np.repeat(np.arange(1, 17), np.frombuffer(counts, np.uint8))
    entries = (lengths << 8) | np.frombuffer(symbols, np.uint8)
    # codes of one length follow one another, so each entry fills the windows after those of the one before
    filled = np.repeat(entries, 1 << (_WINDOW - lengths))
    return np.concatenate([filled, np.zeros((1 << _WINDOW) - len(filled), np.int64)])


def read_scans(scans: Sequence[memoryview], tables: Integers, components: Sequence[Component]) -> list[Tensor]:
    """Return the quantised coefficients of each component (n, rows, columns, 64), int32, in C order.

    All images have the size that `components` were laid out for. Raises CorruptStreamError, naming the image, for bits
    that are no coded image of that size.
    """
    sequence = _blocks_in_order(components)
    reader = _Reader(scans, tables, np.array(sequence.owners))
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
    units = (
        max(-(-part.rows // part.unit_rows) for part in components),
        max(-(-part.columns // part.unit_columns) for part in components),
    )
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


class _Reader:
    """One state machine an image, all of which take a step at a time."""

    def __init__(self, scans: Sequence[memoryview], tables: Integers, owners: Integers) -> None:
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
        entry = self.tables[2 * np.minimum(owner, 1) + (place > 0), self._window(images)]
        self._require(images, entry > 0, "its bits are not a valid code")
        self.position[images] += entry >> 8
        symbol = entry & 0xFF
        size = np.where(place > 0, symbol & 15, symbol)
        run = np.where(place > 0, symbol >> 4, 0)
        self._require(images, size < _WINDOW, "a value has too many bits")
        value = self._value(images, size)
        means = place == 0
        self.last_means[images[means], owner[means]] += value[means]
        value = np.where(means, self.last_means[images, owner], value)
        target = place + run
        written = means | (size > 0)
        self._require(images, ~written | (target < 64), "a block has more than 64 coefficients")
        self.values[images[written], block[written], self.zigzag[target[written]]] = value[written]
        ended = ~means & (size == 0) & (run < 15)
        following = np.where(ended, 64, target + 1)
        done = following >= 64
        self.block[images] += done
        self.place[images] = np.where(done, 0, following)
        self.active = images[self.block[images] < len(self.owners)]
        self._require(images, self.position[images] <= self.sizes[images], "it ends before its last block")
        return True

    def check_end(self) -> None:
        """Refuse images behind which more is stored than what fills up the last byte."""
        everything = np.arange(len(self.sizes))
        self._require(everything, self.sizes - self.position < 8, "more bytes follow its last block")

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
            index = int(images[~holds][0])
            raise CorruptStreamError(f"example #{index}: the coded JPEG image is damaged: {reason}", index)
