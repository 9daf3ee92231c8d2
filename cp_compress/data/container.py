"""The envelope around one encoded example: what it holds, its shape, and a checksum.

Bytes: `cp` (2), kind of codec (1), dtype of the example (1), CRC-32 of all that follows and of the two bytes before
(4, little endian), number of dimensions (1), each dimension as a base-128 varint, then the codec's own payload. For
a 3×32×32 image that is 12 bytes before the payload. Nothing of the payload reaches a decoder before the checksum
and the shape were checked.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import torch

from cp_compress.base.errors import CorruptStreamError

_MAGIC = b"cp"
_FIXED = struct.Struct("<2sBBI")
_MAX_DIMENSIONS = 8
_MAX_EXTENT = 2**48
_DTYPES = (torch.uint8, torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Sealed:
    """An opened envelope: the shape and dtype of the example, and the codec's payload."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    payload: bytes


def seal(kind: int, shape: tuple[int, ...], dtype: torch.dtype, payload: bytes) -> bytes:
    """Return the payload of one example in its envelope."""
    body = bytes([len(shape)]) + b"".join(map(_varint, shape)) + payload
    code = _DTYPES.index(dtype)
    return _FIXED.pack(_MAGIC, kind, code, zlib.crc32(body, zlib.crc32(bytes([kind, code])))) + body


def unseal(stream: bytes, kind: int, name: str, index: int) -> Sealed:
    """Open an envelope; raises CorruptStreamError, naming the example, for anything but what `seal` made."""
    if not isinstance(stream, (bytes, bytearray, memoryview)):
        raise CorruptStreamError(f"example #{index}: a stream is bytes, not {type(stream).__name__}", index)
    stream = bytes(stream)
    if len(stream) <= _FIXED.size:
        raise CorruptStreamError(f"example #{index}: {len(stream)} bytes are no {name} stream", index)
    magic, found, code, checksum = _FIXED.unpack_from(stream)
    if magic != _MAGIC or found != kind or code >= len(_DTYPES):
        raise CorruptStreamError(f"example #{index}: the stream does not begin as a {name} stream does", index)
    body = stream[_FIXED.size :]
    if zlib.crc32(body, zlib.crc32(bytes([found, code]))) != checksum:
        raise CorruptStreamError(f"example #{index}: the {name} stream is damaged (its checksum is wrong)", index)
    shape, start = _read_shape(body, index)
    return Sealed(shape, _DTYPES[code], body[start:])


def payload_size(stream: bytes) -> int:
    """Return the bytes of a stream that are the codec's own, without the envelope around them."""
    _, start = _read_shape(stream[_FIXED.size :], 0)
    return len(stream) - _FIXED.size - start


def _read_shape(body: bytes, index: int) -> tuple[tuple[int, ...], int]:
    dimensions, position, shape = body[0], 1, []
    if dimensions > _MAX_DIMENSIONS:
        raise CorruptStreamError(f"example #{index}: a shape of {dimensions} dimensions is not possible", index)
    for _ in range(dimensions):
        extent, shift = 0, 0
        while True:
            if position >= len(body) or shift > 49:
                raise CorruptStreamError(f"example #{index}: the shape in the stream is cut off", index)
            byte = body[position]
            extent |= (byte & 0x7F) << shift
            position, shift = position + 1, shift + 7
            if byte < 0x80:
                break
        if not 1 <= extent <= _MAX_EXTENT:
            raise CorruptStreamError(f"example #{index}: a dimension of {extent} is not possible", index)
        shape.append(extent)
    return tuple(shape), position


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
