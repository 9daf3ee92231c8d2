"""The constants of baseline JPEG (ITU-T T.81, Annex K): quantisation tables by quality, the order of coefficients."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

_LUMA = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    *(17, 18, 24, 47, 99, 99, 99, 99),
    *(18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)


@functools.cache
def quantization_tables(quality: int) -> tuple[Tensor, Tensor]:
    """Return the steps (64,), int32, of luma and chroma coefficients at a quality in 1…100, in C order.

    The scaling is that of the Independent JPEG Group's library. The tensors are shared: they must not be changed.

    >>> quantization_tables(50)[0][:4].tolist(), quantization_tables(100)[1].unique().tolist()
    ([16, 11, 10, 16], [1])
    """
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    luma, chroma = (
        torch.tensor([min(255, max(1, (step * scale + 50) // 100)) for step in table], dtype=torch.int32)
        for table in (_LUMA, _CHROMA)
    )
    return luma, chroma


@functools.cache
def zigzag_order() -> Tensor:
    """Return the places (64,), int64, of coefficients in the order in which JPEG writes them: low frequencies first.

    >>> zigzag_order()[:6].tolist()
    [0, 1, 8, 16, 9, 2]
    """
    places = [(row, column) for row in range(8) for column in range(8)]
    # along each diagonal of equal row + column, up on even ones and down on odd ones
    places.sort(key=lambda place: (sum(place), place[0] if sum(place) % 2 else place[1]))
    return torch.tensor([8 * row + column for row, column in places])
