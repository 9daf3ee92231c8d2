"""Models that take batches of certain sizes only: batches are padded and split to fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cp_compress.base.batching import slices
from cp_compress.base.errors import ObservationError


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


def run_in_sizes(function: Callable[[Tensor], Tensor], batch: Tensor, sizes: BatchSizes) -> Tensor:
    """Return what a function gives for a batch (n, ...), called with batches of the sizes that it takes.

    The last call is filled up with copies of its last row, whose results are cut off. Gradients pass through.
    Raises ObservationError for an output of another number of rows than its batch has.
    """
    count = len(batch)
    if count == 0 or sizes.any:
        return function(batch)
    results = []
    for part in slices(count, sizes.chunk(count)):
        rows = batch[part]
        missing = sizes.fitting(len(rows)) - len(rows)
        padded = torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows
        output = function(padded)
        if output.ndim == 0 or len(output) != len(padded):  # cutting more off would hide rows that are not examples'
            shape = tuple(output.shape)
            raise ObservationError(
                f"for a batch of {len(padded)} inputs the output has shape {shape}; expected (n, ...)"
            )
        results.append(output[: len(rows)])
    return results[0] if len(results) == 1 else torch.cat(results)
