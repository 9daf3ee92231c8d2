"""Structural similarity of images, batched (Wang, Bovik, Sheikh and Simoncelli 2004)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cp_compress.base.arguments import check_real, reject

_WINDOW, _DEVIATION, _K1, _K2 = 11, 1.5, 0.01, 0.03
SMALLEST_SIDE = 3


def window_size(height: int, width: int) -> int:
    """Return the side of the window for images of a size: 11, or the largest odd number that fits."""
    side = min(height, width, _WINDOW)
    return side if side % 2 else side - 1


def structural_similarity(first: Tensor, second: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Return the mean structural similarity (n,) of images (n, channels, height, width), float64 in [−1, 1].

    As published: an 11×11 Gaussian window of deviation 1.5, K₁ = 0.01, K₂ = 0.03, population moments, the mean over
    every place where the whole window lies inside the image; channels are compared each by itself and averaged. In
    images with a side below 11 the window is the largest odd one that fits. `data_range` is the span of the data.

    Raises InvalidArgumentError for other shapes, different shapes, and images smaller than 3×3.

    >>> image = torch.rand(1, 3, 16, 16)
    >>> structural_similarity(image, image).tolist()
    [1.0]
    """
    owner = "structural_similarity"
    span = check_real(owner, "data_range", data_range, "must be positive", above=0)
    if first.ndim != 4 or first.shape != second.shape or min(first.shape[2:]) < SMALLEST_SIDE:
        rule = "both must be images (n, channels, height, width) of one shape, 3×3 or larger"
        reject(owner, "first", (tuple(first.shape), tuple(second.shape)), rule)
    size = window_size(*first.shape[2:])
    offsets = torch.arange(size, dtype=torch.float64, device=first.device) - size // 2
    weights = torch.exp(-(offsets**2) / (2 * _DEVIATION**2))
    weights = weights / weights.sum()
    x, y = (images.double().flatten(0, 1)[:, None] for images in (first, second))
    means = _blur(torch.cat([x, y, x * x, y * y, x * y]), weights).chunk(5)
    mean_x, mean_y = means[0], means[1]
    variance_x, variance_y = means[2] - mean_x**2, means[3] - mean_y**2
    covariance = means[4] - mean_x * mean_y
    c1, c2 = (_K1 * span) ** 2, (_K2 * span) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).view(len(first), -1).mean(dim=1)


def _blur(images: Tensor, weights: Tensor) -> Tensor:
    # the Gaussian window is a product of two rows of weights
    return F.conv2d(F.conv2d(images, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
