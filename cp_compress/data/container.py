"""The envelope around one encoded example: its codec, dtype and shape, and a checksum.

Bytes: `cp` (2), kind of codec (1), dtype of the example (1), CRC-32 (4, little endian), number of dimensions (1), each
dimension as a base-128 varint, then the codec's own payload. For a 3×32×32 image that is 12 bytes before the payload,
for 3×1024×1024 it is 14.

The checksum covers everything but the first two bytes and itself, and also the settings that a decoder must share with
the encoder: they take no bytes, and a stream of another setting is refused like a damaged one. A decoder receives the
payload only after the checksum and the shape were checked.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import torch

from cp_compress.base.errors import CorruptStreamError

_MAGIC = b"cp"
_FIXED = struct.Struct("<2sBBI")
_MAX_DIMENSIONS = 8
_MAX_EXTENT = 2**48
_DTYPES = (torch.uint8, torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Kind(NamedTuple):
    """Whose envelopes these are: the codec's number, its name in errors, and the settings needed to decode."""

    number: int
    name: str
    settings: bytes = b""

    def start_checksum(self, dtype_code: int) -> int:
        """Return the checksum of what stands before the shape."""
        return zlib.crc32(self.settings, zlib.crc32(bytes([self.number, dtype_code])))


class Sealed(NamedTuple):
    """An opened envelope: the shape and dtype of the example, and the codec's payload."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    payload: memoryview


def seal(kind: Kind, shape: tuple[int, ...], dtype: torch.dtype, payload: bytes) -> bytes:
    """Return the payload of one example in its envelope."""
    code = _DTYPES.index(dtype)
    dimensions = write_shape(shape)
    checksum = zlib.crc32(payload, zlib.crc32(dimensions, kind.start_checksum(code)))
    return b"".join((_FIXED.pack(_MAGIC, kind.number, code, checksum), dimensions, payload))


def write_shape(shape: tuple[int, ...]) -> bytes:
    """Return how a shape is written: the number of dimensions, then each of them."""
    return bytes([len(shape)]) + b"".join(map(varint, shape))


def starts_as(stream: bytes | bytearray | memoryview, kind: Kind) -> bool:
    """Tell whether a stream begins as those of a kind do; nothing else of it is looked at."""
    return len(stream) > 2 and bytes(stream[:2]) == _MAGIC and stream[2] == kind.number


def unseal(stream: bytes, kind: Kind, index: int, like: tuple[bytes, tuple[int, ...]] = (b"", ())) -> Sealed:
    """Open an envelope; raises CorruptStreamError, naming the example, for anything but what `seal` made.

    `like` is a shape, as it is written and as it is, that many streams state.
    """
    if not isinstance(stream, (bytes, bytearray, memoryview)):
        raise CorruptStreamError(f"example #{index}: a stream is bytes, not {type(stream).__name__}", index)
    view = memoryview(stream).cast("B")
    if len(view) <= _FIXED.size:
        raise CorruptStreamError(f"example #{index}: {len(view)} bytes are too few for a {kind.name} stream", index)
    magic, number, code, checksum = _FIXED.unpack_from(view)
    if magic != _MAGIC or number != kind.number or code >= len(_DTYPES):
        raise CorruptStreamError(f"example #{index}: the stream does not begin like a {kind.name} stream", index)
    if zlib.crc32(view[_FIXED.size :], kind.start_checksum(code)) != checksum:
        settings = f", or was made with settings other than {kind.settings.decode()}" if kind.settings else ""
        rule = f"the {kind.name} stream is damaged{settings} (its checksum is wrong)"
        raise CorruptStreamError(f"example #{index}: {rule}", index)
    written, shape = like
    start = _FIXED.size + len(written)
    if not written or view[_FIXED.size : start] != written:
        shape, start = _read_shape(view, index)
    return Sealed(shape, _DTYPES[code], view[start:])


def stated_shape(stream: bytes) -> tuple[int, tuple[int, ...]] | None:
    """Return dtype code and shape that a stream states, unchecked; None for what cannot be read."""
    if len(stream) <= _FIXED.size:
        return None
    try:
        return stream[3], _read_shape(memoryview(stream), 0)[0]
    except CorruptStreamError:
        return None


def payload_size(stream: bytes) -> int:
    """Return the bytes of a stream that are the codec's own, without the envelope around them, where there is one."""
    if stream[: len(_MAGIC)] != _MAGIC or len(stream) <= _FIXED.size:
        return len(stream)
    try:
        return len(stream) - _read_shape(memoryview(stream), 0)[1]
    except CorruptStreamError:  # another codec's, which begins alike by chance
        return len(stream)


def _read_shape(stream: memoryview, index: int) -> tuple[tuple[int, ...], int]:
    """Return the shape that a stream states and the position of its payload."""
    position = _FIXED.size + 1
    dimensions, shape = stream[_FIXED.size], []
    if dimensions > _MAX_DIMENSIONS:
        raise CorruptStreamError(f"example #{index}: a shape of {dimensions} dimensions is not possible", index)
    for _ in range(dimensions):
        extent, position = read_varint(stream, position, index)
        if not 1 <= extent <= _MAX_EXTENT:
            raise CorruptStreamError(f"example #{index}: a dimension of {extent} is not possible", index)
        shape.append(extent)
    return tuple(shape), position


def varint(number: int) -> bytes:
    """Return a whole number of 0 or more in base 128, low digits first."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def read_varint(stream: memoryview, position: int, index: int) -> tuple[int, int]:
    """Return the number at a position of a stream, below 2^56, and the position after it."""
    number, shift = 0, 0
    while True:
        if position >= len(stream) or shift > 49:
            raise CorruptStreamError(f"example #{index}: a number in the stream is cut off", index)
        byte = stream[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position
