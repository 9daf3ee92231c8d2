"""Models that take batches of certain sizes only: batches are padded and split to fit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from cp_compress.base.batching import slices
from cp_compress.base.errors import ObservationError
from cp_compress.inputs.trees import Inputs


@dataclass(frozen=True)
class BatchSizes:
    """The batch sizes that a model takes: `smallest` to `largest` (None: no limit), multiples of `multiple`."""

    smallest: int = 1
    largest: int | None = None
    multiple: int = 1

    @property
    def any(self) -> bool:
        """Whether every size of 1 or more is taken."""
        return self.smallest <= 1 and self.largest is None and self.multiple == 1

    def fitting(self, count: int) -> int:
        """Return the smallest size that is taken and holds `count` rows, of which there are at most `chunk`."""
        return -(-max(count, self.smallest) // self.multiple) * self.multiple

    def chunk(self, count: int) -> int:
        """Return how many of `count` rows go into one call at most."""
        if self.largest is None:
            return count
        return min(count, self.largest // self.multiple * self.multiple)


def run_in_sizes(function: Callable[[Any], Any], batch: Inputs, sizes: BatchSizes) -> Any:
    """Return what a function gives for a batch (n, ...), called with batches of the sizes that it takes.

    A batch may be a tree of tensors, and so may what the function gives. The last call is filled up with copies of its
    last row, whose results are cut off. Gradients pass through. Raises ObservationError for an output of another number
    of rows than its batch has.
    """
    count = len(batch)
    if count == 0 or sizes.any:
        return function(batch)
    results = []
    for part in slices(count, sizes.chunk(count)):
        rows = batch[part]
        size = sizes.fitting(len(rows))
        filled = _filled(rows, size) if isinstance(rows, Tensor) else rows.map(functools.partial(_filled, size=size))
        results.append(
            pytree.tree_map_only(Tensor, functools.partial(_cut, size=size, rows=len(rows)), function(filled))
        )
    if len(results) == 1:
        return results[0]
    leaves, form = zip(*map(pytree.tree_flatten, results), strict=True)
    tensors = [isinstance(each[0], Tensor) for each in zip(*leaves, strict=True)]
    if not all(tensors):
        raise ObservationError("of several batches only tensors can be joined, and the output holds others")
    return pytree.tree_unflatten([torch.cat(each) for each in zip(*leaves, strict=True)], form[0])


def _filled(rows: Tensor, size: int) -> Tensor:
    missing = size - len(rows)
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows


def _cut(output: Tensor, size: int, rows: int) -> Tensor:
    if output.ndim == 0 or len(output) != size:  # cutting more off would hide rows that are not examples'
        shape = tuple(output.shape)
        raise ObservationError(f"for a batch of {size} inputs the output has shape {shape}; expected (n, ...)")
    return output[:rows]
