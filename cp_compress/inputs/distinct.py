"""Which examples of a data set are the same: a repeated example tells nothing new about the population."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cp_compress.base.digests import start_digest
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.trees import Inputs, TensorTree, row_digests

_Words = npt.NDArray[np.uint64]
# the finaliser and the increment of SplitMix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators")
_STEP, _FIRST, _SECOND = (np.uint64(word) for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_BLOCK_VALUES = 2**22


def identical_groups(dataset: Any, batch_size: int = 1024) -> Tensor:
    """Return the group (n,), int64, of each example: those with the same input, bit for bit, have one number.

    Groups are numbered in the order in which they first occur; labels have no part in them, and −0 is 0. Inputs are
    told apart by 64 bits of a hash each, so that two of a million different ones have one with a probability below
    10⁻⁷. Raises ObservationError if the data cannot be read.

    >>> inputs = torch.tensor([[0.5, 1.0], [0.0, 2.0], [0.5, 1.0], [-0.0, 2.0]])
    >>> identical_groups((inputs, torch.zeros(4, dtype=torch.int64))).tolist()
    [0, 1, 0, 1]
    """
    data = dataset if isinstance(dataset, LabeledData) else LabeledData(dataset)
    hashes = np.concatenate([_hashes(inputs) for inputs, _ in data.parts(batch_size)])
    _, first, places = np.unique(hashes, return_index=True, return_inverse=True)
    numbers = np.empty(len(first), dtype=np.int64)
    numbers[np.argsort(first, kind="stable")] = np.arange(len(first))
    return torch.from_numpy(numbers[places.reshape(-1)])


def effective_count(groups: Tensor) -> float:
    """Return how many independent examples groups (n,) of identical ones are worth: (Σ m)² / Σ m² of their sizes m.

    It is the number of groups where all are of one size, and less where some weigh more than others (Kish 1965,
    "Survey sampling").

    >>> effective_count(torch.tensor([0, 0, 1, 1, 2, 2])), effective_count(torch.tensor([0] * 9 + [1]))
    (3.0, 1.219...)
    """
    sizes = torch.bincount(groups).double()
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _hashes(inputs: Inputs) -> _Words:
    """Return a hash (n,) of the shape and the values of each row."""
    if isinstance(inputs, TensorTree):
        digests = b"".join(each[:8] for each in row_digests(inputs, values=True))
        return np.frombuffer(digests, dtype=np.uint64)
    values = inputs.detach().cpu()
    if values.is_floating_point() or values.is_complex():
        values = values + 0.0  # makes −0 and 0 one value
    shape = start_digest()
    shape.update(f"{values.dtype} {tuple(values.shape[1:])}".encode())
    start = np.uint64(int(shape.hexdigest()[:16], 16))
    flat = values.reshape(len(values), -1).contiguous()
    rows = flat.view(torch.uint8).numpy() if flat.numel() else np.zeros((len(values), 0), np.uint8)
    padded = -rows.shape[1] % 8
    if padded:
        rows = np.pad(rows, ((0, 0), (0, padded)))
    words: _Words = np.ascontiguousarray(rows).view(np.uint64)
    found = np.full(len(values), start)
    many = max(1, _BLOCK_VALUES // max(1, len(values)))
    for position in range(0, words.shape[1], many):
        block = words[:, position : position + many]
        places = np.arange(position + 1, position + 1 + block.shape[1], dtype=np.uint64)
        found += _mixed(block ^ _mixed(places * _STEP + start)).sum(axis=1, dtype=np.uint64)
    return _mixed(found)


def _mixed(words: _Words) -> _Words:
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    mixed: _Words = words ^ (words >> np.uint64(31))
    return mixed
