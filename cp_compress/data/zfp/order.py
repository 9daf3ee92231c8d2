"""The order in which zfp stores the coefficients of a block: low frequencies first."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

# Each two digits are the place of a coefficient in its block, counted in C order. Coefficients are sorted by the sum
# of their frequencies, then by the sum of squares; the order of equal ones is part of the format and follows no rule.
_ORDERS = {
    1: "00010203",
    2: "0001040502080609030c0a070d0b0e0f",
    3: (
        "0001041014110502082015061218092124030c3016192528220a07131c0d3134"
        "29261a171d350b232c0e32382a1b272d1e36393c330f2b2e3a3d371f3e3b2f3f"
    ),
    4: (
        "00010410400550114441140208208054514515061242184809602124818490030c30c0555246164919582564619491850aa0228882"
        "280713431c4c0d703134c1c4d056596595a189298626a41a989268624a5347174d1d5c357471d4d1c50b23832c8c0eb03238c2c8e0"
        "5aa566999669a8a28a2a575d75d51b4b632787936c2d8d9c1e4eb1b436727839c6d2d8c9e1e40ff033ccc33ca9a69a6a5b67976d9d"
        "5eb57679d6d9e5a38b2b8e2eac3ab8b2e8e2caf1cd3dc737f41fdcd37c734faaa79b6b9e6ead7ab9b6e9e6da5ff577ddd77df2ce3e"
        "cb3bf82fece3bcb38fabaebaeaf6de7edb7bf96fede7bdb79ffcf3cf3faffabbeeebbefdf7df7ffefbefbfff"
    ),
}


@functools.cache
def sequency_order(dimensions: int) -> Tensor:
    """Return the places (4^d,), int64, that coefficients in zfp's order have in a block laid out in C order.

    The order is that of zfp's format (LLNL/zfp, `src/template/codec*.c`). `dimensions` is 1 to 4; the tensor lies on
    the CPU and is shared: it must not be changed.

    >>> sequency_order(2)[:6].tolist()
    [0, 1, 4, 5, 2, 8]
    """
    return torch.tensor(list(bytes.fromhex(_ORDERS[dimensions])))


@functools.cache
def natural_order(dimensions: int) -> Tensor:
    """Return the inverse of `sequency_order`: the place of each coefficient of a block in zfp's order."""
    return sequency_order(dimensions).argsort()
