"""The order in which ZFP writes the coefficients of a block: by total frequency, low ones first."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

# by the sum of the indices, then by the sum of their squares; the order among equals is zfp's own and part of its format
_ORDERS = {
    1: "00010203",
    2: "0001040502080609030c0a070d0b0e0f",
    3: (
        "0001041014110502082015061218092124030c3016192528220a07131c0d313429261a171d350b232c0e32382a1b272d1e36393c330f2b2e"
        "3a3d371f3e3b2f3f"
    ),
    4: (
        "00010410400550114441140208208054514515061242184809602124818490030c30c0555246164919582564619491850aa0228882280713"
        "431c4c0d703134c1c4d056596595a189298626a41a989268624a5347174d1d5c357471d4d1c50b23832c8c0eb03238c2c8e05aa566999669"
        "a8a28a2a575d75d51b4b632787936c2d8d9c1e4eb1b436727839c6d2d8c9e1e40ff033ccc33ca9a69a6a5b67976d9d5eb57679d6d9e5a38b"
        "2b8e2eac3ab8b2e8e2caf1cd3dc737f41fdcd37c734faaa79b6b9e6ead7ab9b6e9e6da5ff577ddd77df2ce3ecb3bf82fece3bcb38fabaeba"
        "eaf6de7edb7bf96fede7bdb79ffcf3cf3faffabbeeebbefdf7df7ffefbefbfff"
    ),
}


@cache
def sequency(dimensions: int) -> tuple[int, ...]:
    """Return the places within a block (the last dimension running fastest) in the order in which zfp writes them.

    >>> sequency(2)[:6]
    (0, 1, 4, 5, 2, 8)
    """
    return tuple(bytes.fromhex(_ORDERS[dimensions]))


def in_sequency(values: Tensor, dimensions: int) -> Tensor:
    """Return values (4^d, …) of places within blocks in sequency order."""
    return values[torch.tensor(sequency(dimensions), device=values.device)]


def from_sequency(values: Tensor, dimensions: int) -> Tensor:
    """Return values (4^d, …) in sequency order by their places within blocks: the inverse of `in_sequency`."""
    order = sequency(dimensions)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return values[torch.tensor(inverse, device=values.device)]
