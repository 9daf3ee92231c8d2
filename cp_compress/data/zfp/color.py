"""Luma and chroma for ZFP: the colour transform of JPEG, and chroma at half the resolution.

Products and sums are computed in a fixed order, so that every device gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_ycbcr(rgb: Tensor) -> Tensor:
    """Return luma and chroma (n, 3, height, width) of RGB values: ITU-T T.871, with chroma around 0.

    >>> to_ycbcr(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)).flatten()
    tensor([ 0.2990, -0.1687,  0.5000])
    """
    red, green, blue = rgb.unbind(1)
    luma = red * 0.299 + green * 0.587 + blue * 0.114
    return torch.stack((luma, (blue - luma) * (1 / 1.772), (red - luma) * (1 / 1.402)), dim=1)


def to_rgb(ycbcr: Tensor) -> Tensor:
    """Return RGB values (n, 3, height, width) of luma and chroma: the inverse of `to_ycbcr` but for rounding."""
    luma, blueness, redness = ycbcr.unbind(1)
    green = luma - blueness * (0.114 * 1.772 / 0.587) - redness * (0.299 * 1.402 / 0.587)
    return torch.stack((luma + redness * 1.402, green, luma + blueness * 1.772), dim=1)


def halve(planes: Tensor, axes: Sequence[int]) -> Tensor:
    """Return the means of neighbours along axes; the last value of an odd dimension is its own neighbour."""
    for axis in axes:
        if planes.shape[axis] % 2:
            planes = torch.cat((planes, planes.narrow(axis, planes.shape[axis] - 1, 1)), dim=axis)
        even, odd = torch.unflatten(planes, axis, (-1, 2)).unbind(axis)
        planes = (even + odd) * 0.5
    return planes


def double(planes: Tensor, axes: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return planes at twice the resolution along axes, cut to the last dimensions of a shape.

    Each value lies a quarter of a step from its source and three quarters from the next one, and is weighted so.
    """
    for axis in axes:
        length = planes.shape[axis]
        before = torch.cat((planes.narrow(axis, 0, 1), planes.narrow(axis, 0, length - 1)), dim=axis)
        after = torch.cat((planes.narrow(axis, 1, length - 1), planes.narrow(axis, length - 1, 1)), dim=axis)
        near = planes * 0.75
        both = torch.stack((near + before * 0.25, near + after * 0.25), dim=planes.ndim + axis + 1)
        planes = both.flatten(planes.ndim + axis, planes.ndim + axis + 1).narrow(axis, 0, shape[axis])
    return planes
