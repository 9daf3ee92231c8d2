"""What is independent among the rows that two models run on: rows, but for those that are equal or belong together."""

from __future__ import annotations

import torch
from torch import Tensor

from cp_compress.fidelity.judging.units import Units
from cp_compress.inputs.clusters import joined_clusters


def independent_units(known: Tensor | None, repeated: Tensor) -> Units:
    """Return the units of rows of which clusters (n,) are known, or not, and equal ones have one number (n,).

    >>> independent_units(None, torch.tensor([0, 1, 2])).clusters is None
    True
    """
    if known is None and len(torch.unique(repeated)) == len(repeated):
        return Units()
    return Units(repeated if known is None else joined_clusters(known, repeated))
