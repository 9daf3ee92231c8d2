"""Tensors as a few arrays of bytes, each tensor in the smallest of three forms, to the bit.

A value is "zero" when all its bits are: −0.0 is kept. Forms: every value; a bitmask of the non-zero places and the
values there; the non-zero places as numbers and the values there. The arrays are shared by all tensors of a model, so
that a small tensor costs no header of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cp_compress.base.errors import CorruptStreamError

_WORDS: dict[int, np.dtype[Any]] = {size: np.dtype(f"<u{size}") for size in (1, 2, 4, 8)}
_MASKS = "masks"
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
Words = NDArray[Any]


class Packer:
    """Collects tensors; `arrays` gives what was collected, one array for each kind of content."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Words]] = {}

    def add(self, tensor: Tensor) -> list[Any]:
        """Store a tensor and return its entry for the table: dtype, shape, form, number of non-zero values.

        A fifth part are the strides of a tensor that is not laid out row by row, such as a transposed one.
        """
        words = _to_words(tensor)
        places = np.flatnonzero(words)
        index = _index_type(len(words))
        sizes = {
            "dense": words.nbytes,
            "mask": -(-len(words) // 8) + len(places) * words.itemsize,
            "index": len(places) * (words.itemsize + index.itemsize),
        }
        form = min(sizes, key=lambda name: sizes[name])
        if form == "mask":
            self._append(_MASKS, np.packbits(words != 0))
        elif form == "index":
            self._append(_index_name(index), places.astype(index))
        self._append(_values_name(words.dtype), words if form == "dense" else words[places])
        entry = [_dtype_name(tensor.dtype), list(tensor.shape), form, len(places)]
        return entry if (strides := told_strides(tensor)) is None else [*entry, list(strides)]

    def _append(self, name: str, part: Words) -> None:
        self._parts.setdefault(name, []).append(part)

    def arrays(self) -> dict[str, Words]:
        """Return the arrays by name; none is empty."""
        joined = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        return {name: array for name, array in joined.items() if len(array)}


class Unpacker:
    """Reads tensors back in the order in which they were added; what does not fit raises CorruptStreamError."""

    def __init__(self, arrays: Mapping[str, Words]) -> None:
        self._arrays = dict(arrays)
        self._positions = dict.fromkeys(arrays, 0)

    def read(self, entry: Any) -> Tensor:
        """Return the next tensor. Its shape must have been checked: it decides how much memory is taken."""
        dtype, shape, form, count = check_entry(entry)
        strides = _check_strides(shape, entry[4]) if len(entry) > 4 else None
        total = math.prod(shape)
        kind = _WORDS[min(8, dtype.itemsize)]
        total *= dtype.itemsize // kind.itemsize
        if count > total:
            raise CorruptStreamError(f"a tensor of {total} values cannot have {count} that are not zero")
        if form == "dense":
            words = self._take(_values_name(kind), total)
        else:
            places = self._places(form, total, count)
            words = np.zeros(total, kind)
            words[places] = self._take(_values_name(kind), count)
        tensor = _from_words(np.array(words), dtype, shape)
        return tensor if strides is None else _lay_out(tensor, strides)

    def finish(self) -> None:
        """Raise CorruptStreamError when something is left."""
        left = [name for name, position in self._positions.items() if position != len(self._arrays[name])]
        if left:
            raise CorruptStreamError(f"the arrays {', '.join(left)} are longer than the table says")

    def _places(self, form: str, total: int, count: int) -> Words:
        if form == "mask":
            bits = np.unpackbits(self._take(_MASKS, -(-total // 8)))
            places = np.flatnonzero(bits)
            if len(places) != count or (count and places[-1] >= total):
                raise CorruptStreamError(f"a bitmask marks {len(places)} values, its table entry says {count}")
            return places
        places = self._take(_index_name(_index_type(total)), count)
        if count and (int(places[-1]) >= total or bool((places[1:] <= places[:-1]).any())):
            raise CorruptStreamError("the indices of non-zero values do not increase or leave the tensor")
        return places

    def _take(self, name: str, count: int) -> Words:
        if count == 0:
            return np.zeros(0, _WORDS[1])
        array, start = self._arrays.get(name), self._positions.get(name, 0)
        if array is None or start + count > len(array):
            raise CorruptStreamError(f"the array {name} is shorter than the table says")
        self._positions[name] = start + count
        return array[start : start + count]


def check_entry(entry: Any) -> tuple[torch.dtype, tuple[int, ...], str, int]:
    """Return dtype, shape, form and count of a table entry; raise CorruptStreamError for anything else."""
    try:
        name, shape, form, count, *strides = entry
        numbers = [*shape, count]
        good = all(type(number) is int and 0 <= number < 2**48 for number in numbers)
        if good and len(strides) <= 1 and form in ("dense", "mask", "index") and name in _DTYPES:
            return _DTYPES[name], tuple(shape), form, count
    except (TypeError, ValueError):
        pass
    raise CorruptStreamError(f"{str(entry)[:200]} is not a table entry of a tensor")


def told_strides(tensor: Tensor) -> tuple[int, ...] | None:
    """Return the strides of a tensor that is not laid out row by row, or None.

    None as well where its places coincide or its storage is mostly gaps: only its values are kept then.

    >>> told_strides(torch.zeros(2, 3)), told_strides(torch.zeros(2, 3).T)
    (None, (1, 3))
    """
    shape, strides = tuple(tensor.shape), tensor.stride()
    usual = not tensor.numel() or strides == _row_major(shape)
    return None if usual or _overlaps(shape, strides) or _extent(shape, strides) > _largest_extent(shape) else strides


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(max(1, size) for size in shape[place + 1 :]) for place in range(len(shape)))


def _extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return how many values a storage needs for a tensor of a shape and strides."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def _overlaps(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Tell whether places of a tensor coincide otherwise than by expanding, as those of a sliding window do."""
    taken = 1
    for stride, size in sorted((stride, size) for size, stride in zip(shape, strides, strict=True) if size > 1):
        if 0 < stride < taken:
            return True
        taken += (size - 1) * stride
    return False


def _largest_extent(shape: tuple[int, ...]) -> int:
    return 16 * math.prod(shape) + 1024


def _check_strides(shape: tuple[int, ...], given: Any) -> tuple[int, ...]:
    """Return the strides of a table entry; raise CorruptStreamError for those that no tensor of a model has."""
    good = isinstance(given, list) and len(given) == len(shape) and 0 not in shape
    if not good or not all(type(stride) is int and 0 <= stride < 2**48 for stride in given):
        raise CorruptStreamError(f"{str(given)[:200]} are not the strides of a tensor of shape {shape}")
    if _overlaps(shape, tuple(given)) or _extent(shape, tuple(given)) > _largest_extent(shape):
        raise CorruptStreamError(f"strides {given} of a tensor of shape {shape} overlap, or leave mostly gaps")
    return tuple(given)


def _lay_out(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Return the same values in a storage with other strides; where places coincide, so do the values."""
    shape = tuple(tensor.shape)
    storage = torch.zeros(_extent(shape, strides), dtype=tensor.dtype)
    # torch does not write to places that coincide: of an expanded dimension the first is written
    tensor = tensor[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)]
    storage.as_strided(tuple(tensor.shape), strides).copy_(tensor)
    return storage.as_strided(shape, strides)


def _to_words(tensor: Tensor) -> Words:
    whole = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    flat = whole.as_strided((whole.numel(),), (1,))  # a dimension of one place may have any stride
    width = min(8, flat.element_size())
    data: Words = flat.view(torch.uint8).numpy() if flat.numel() else np.zeros(0, np.uint8)
    words: Words = data.view(_WORDS[width])
    return words


def _from_words(words: Words, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not len(words):
        return torch.empty(shape, dtype=dtype)
    return torch.from_numpy(words.view(np.uint8)).view(dtype).view(shape)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _index_type(total: int) -> np.dtype[Any]:
    return _WORDS[2] if total <= 2**16 else _WORDS[4] if total <= 2**32 else _WORDS[8]


def _index_name(kind: np.dtype[Any]) -> str:
    return f"index{8 * kind.itemsize}"


def _values_name(kind: np.dtype[Any]) -> str:
    return f"values{8 * kind.itemsize}"
