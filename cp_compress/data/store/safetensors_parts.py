"""The readable parts of a truncated or extended safetensors file, which its own library refuses as a whole."""

from __future__ import annotations

import json

import torch
from torch import Tensor

_DTYPES = {"U8": torch.uint8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64}


def read_parts(content: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata of a file and its tensors, flat; one that the content ends in is as long as what is there.

    Raises ValueError for a header that is cut or is none.
    """
    size = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + size])
        metadata = header.pop("__metadata__", {})
        return metadata, {name: _part(content, 8 + size, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, IndexError) as error:
        raise ValueError(f"its header cannot be read: {type(error).__name__}: {error}") from error


def _part(content: bytes, start: int, entry: dict[str, list[int]]) -> Tensor:
    begin, end = entry["data_offsets"]
    dtype = _DTYPES[str(entry["dtype"])]
    if not 0 <= begin <= end:
        raise ValueError(f"a tensor lies at {begin} to {end}")
    piece = content[start + begin : start + end]
    piece = piece[: len(piece) // dtype.itemsize * dtype.itemsize]
    return torch.frombuffer(bytearray(piece), dtype=dtype) if piece else torch.empty(0, dtype=dtype)
