"""Where two rows of tokens part, and how many changes lead from one to the other."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def common_length(first: Tensor, second: Tensor) -> int:
    """Return how many tokens two rows (m,) and (n,) have in common from their beginning.

    >>> import torch
    >>> common_length(torch.tensor([4, 5, 6]), torch.tensor([4, 5, 7, 8]))
    2
    """
    shorter = min(len(first), len(second))
    apart = (first[:shorter] != second[:shorter]).nonzero().flatten()
    return int(apart[0]) if len(apart) else shorter


def edit_distance(first: Tensor, second: Tensor) -> int:
    """Return the smallest number of insertions, deletions and replacements that make one row of the other.

    Levenshtein 1966, "Binary codes capable of correcting deletions, insertions and reversals".

    >>> import torch
    >>> edit_distance(torch.tensor([1, 2, 3]), torch.tensor([2, 3, 4]))
    2
    """
    start = common_length(first, second)
    left, right = first[start:].numpy(), second[start:].numpy()
    places = np.arange(len(right) + 1)
    row = places.copy()
    for number, token in enumerate(left, start=1):
        replaced = row[:-1] + (right != token)
        best = np.concatenate([[number], np.minimum(replaced, row[1:] + 1)])
        # an insertion costs one more than the best value at some place before
        row = np.minimum.accumulate(best - places) + places
    return int(row[-1])
