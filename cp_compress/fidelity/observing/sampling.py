"""The examples of a data set that a costly comparison uses, and the size of its batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, reject
from cp_compress.base.batching import BatchSize, rows_in_cache

# a CPU's caches hold the activations of some dozens of examples; a GPU wants more of them to be busy
_CPU_BATCH, _ACCELERATOR_BATCH = 32, 512


def choose_examples(
    owner: str, examples: int | Sequence[int] | Tensor | None, total: int, argument: str = "examples"
) -> Tensor:
    """Return the indices (k,), int64, of the examples that a comparison named `owner` looks at.

    `examples` is None for all `total`, a number (at most so many, spread evenly over the data set, first and last
    included), or indices, kept in their order; `argument` is the name under which they were given. Raises
    InvalidArgumentError for a number below 1 and for indices that are none, repeated or out of range.

    >>> choose_examples("compare", 3, 9).tolist()
    [0, 4, 8]
    """
    if examples is None:
        return torch.arange(total)
    if isinstance(examples, (bool, str, float)):
        reject(owner, argument, examples, "give a number of examples, their indices, or None for all")
    if not isinstance(examples, Iterable) or getattr(examples, "ndim", 1) == 0:
        number = check_integer(owner, argument, examples, "must be a whole number of 1 or more", at_least=1)
        return torch.linspace(0, total - 1, min(number, total), dtype=torch.float64).round().to(torch.int64)
    rule = f"indices must be whole numbers in 0..{total - 1}"
    indices = [check_integer(owner, argument, index, rule, at_least=0, at_most=total - 1) for index in examples]
    if not indices:
        reject(owner, argument, examples, "there is nothing to compare without examples")
    if len(set(indices)) < len(indices):
        reject(owner, argument, examples, "every index must be given once")
    return torch.tensor(indices)


def batch_size_for(
    device: torch.device, batch_size: int | None, largest: int | None = None, *, values: int = 1
) -> BatchSize:
    """Return the batch size asked for, or by default 32 on a CPU and 512 on an accelerator; at most `largest`.

    The default on a CPU is smaller for inputs of many `values`; observations have found theirs already.
    """
    if batch_size is None:
        batch_size = min(_CPU_BATCH, rows_in_cache(values)) if device.type == "cpu" else _ACCELERATOR_BATCH
    found = BatchSize(batch_size)
    if largest is not None:
        found.limit = min(found.limit, largest)
    return found
