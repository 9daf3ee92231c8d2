"""JPEG files split into the head, which all images of one codec and size share, and the coded image after it."""

from __future__ import annotations

import functools
import io
import re

import numpy as np
from PIL import Image

from cp_compress.base.errors import CompressionError

_START_OF_SCAN, _START_OF_FRAME = 0xDA, 0xC0
_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff(?!\x00)")  # within a coded image a zero follows every 255


@functools.lru_cache(maxsize=1024)
def file_head(quality: int, subsampling: str, channels: int, height: int, width: int) -> bytes:
    """Return the bytes of a file before its coded image: signature, tables, and the headers of frame and scan.

    They are what Pillow writes for a small image, with the size put in: so no table is written down twice.
    """
    pixels = np.zeros((8, 8) if channels == 1 else (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    head = bytearray(buffer.getvalue())
    position = 2
    while True:
        marker = head[position + 1]
        length = int.from_bytes(head[position + 2 : position + 4], "big")
        if marker == _START_OF_FRAME:
            head[position + 5 : position + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        position += 2 + length
        if marker == _START_OF_SCAN:
            return bytes(head[:position])


def cut_scan(file: bytes, head: bytes) -> bytes:
    """Return the coded image of a file that begins with a head, without the marker at its end."""
    if not file.startswith(head) or not file.endswith(_END):
        raise CompressionError("Pillow wrote headers that differ from those of an image of zeros; use tables='inline'")
    return file[len(head) : -len(_END)]


def holds_marker(scan: bytes | memoryview) -> bool:
    """Tell whether a decoder would find anything but one coded image in a scan."""
    return _MARKER.search(scan) is not None


def join_scan(head: bytes, scan: bytes | memoryview) -> bytes:
    """Return the file of a coded image."""
    return b"".join((head, scan, _END))
