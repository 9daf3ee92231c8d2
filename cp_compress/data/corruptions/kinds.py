"""Fifteen corruptions of images after Hendrycks and Dietterich 2019, batched, each a function of (images, level, draw).

The settings are those of the authors' CIFAR-10-C for the five severities. "frost", which pastes photographs, is
replaced by their extra type "speckle_noise"; "snow" and "fog" draw patterns of the same kind; "motion_blur" averages
along a line where the authors call ImageMagick. Pixels stay real numbers where the authors round to 8 bits, also within
"pixelate" and "glass_blur"; each side of an image that is not square is zoomed separately.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as transforms
from torch import Tensor

from cp_compress.data.jpeg.codec import JPEG

Draw = Callable[[str, tuple[int, ...]], Tensor]
"""Random numbers of a kind ("normal", "uniform") and a shape, the same for the same example whatever its batch."""


def gaussian_noise(images: Tensor, level: int, draw: Draw) -> Tensor:
    scale = (0.04, 0.06, 0.08, 0.09, 0.10)[level]
    return images + scale * draw("normal", tuple(images.shape[1:]))


def speckle_noise(images: Tensor, level: int, draw: Draw) -> Tensor:
    scale = (0.06, 0.1, 0.12, 0.16, 0.2)[level]
    return images + images * scale * draw("normal", tuple(images.shape[1:]))


def shot_noise(images: Tensor, level: int, draw: Draw) -> Tensor:
    photons = (500, 250, 100, 75, 50)[level]
    # inverted, so that images that differ a little, such as decoded ones, differ a little in their noise too
    counts = _poisson_quantiles(draw("uniform", tuple(images.shape[1:])), images * photons)
    return (counts / photons).to(images.dtype)


def impulse_noise(images: Tensor, level: int, draw: Draw) -> Tensor:
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[level]
    uniform = draw("uniform", tuple(images.shape[1:]))
    salted = torch.where(uniform < share / 2, 1.0, images)
    return torch.where(uniform > 1 - share / 2, 0.0, salted)


def defocus_blur(images: Tensor, level: int, draw: Draw) -> Tensor:
    radius, alias = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[level]
    reach = 8
    place = torch.arange(-reach, reach + 1, dtype=torch.float64)
    disk = (place[:, None].square() + place[None].square() <= radius**2).double()
    kernel = transforms.gaussian_blur((disk / disk.sum())[None], kernel_size=[3, 3], sigma=[alias])[0]
    return _convolve(images, kernel)


def glass_blur(images: Tensor, level: int, draw: Draw) -> Tensor:
    sigma, rounds = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[level]
    blurred = _gaussian_blur(images, sigma)
    _, _, height, width = images.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    inside = (rows > 1) & (columns > 1)
    for _ in range(rounds):
        # the authors' exchange of array views is a copy, from the last pixel to the first, of one at most one place
        # above and to the left: no pixel that was written is read
        moves = -((draw("uniform", (2, height, width)) < 0.5).long().cpu() * inside)
        place = ((rows + moves[:, 0]) * width + columns + moves[:, 1]).flatten(1)[:, None]
        blurred = blurred.flatten(2).gather(2, place.expand(-1, images.shape[1], -1).to(images.device)).view_as(images)
    return _gaussian_blur(blurred, sigma)


def motion_blur(images: Tensor, level: int, draw: Draw) -> Tensor:
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[level]
    angles = (draw("uniform", (1,)) - 0.5).flatten() * math.pi / 2
    return _smear(images, angles, radius, sigma)


def zoom_blur(images: Tensor, level: int, draw: Draw) -> Tensor:
    factors = np.arange(
        1, (1.06, 1.11, 1.16, 1.21, 1.26)[level], 0.01
    ).tolist()  # whether the end is in is up to rounding
    total = images.clone()
    for factor in factors:
        total = total + _resample(images, *(_zoom_weights(size, factor) for size in images.shape[2:]))
    return total / (len(factors) + 1)


def snow(images: Tensor, level: int, draw: Draw) -> Tensor:
    mean, deviation, zoom, threshold, radius, sigma, keep = (
        (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
    )[level]
    height, width = images.shape[2:]
    small = [max(1, math.ceil(height / zoom)), max(1, math.ceil(width / zoom))]
    layer = mean + deviation * draw("normal", (1, *small))
    layer = F.interpolate(layer, size=[height, width], mode="bilinear", align_corners=False)
    layer = torch.where(layer < threshold, 0.0, layer).clamp(0, 1)
    angles = -math.pi / 4 - draw("uniform", (1,)).flatten() * math.pi / 2
    layer = _smear(layer.to(images), angles, radius, sigma)
    gray = images.mean(dim=1, keepdim=True) * 1.5 + 0.5
    whitened = keep * images + (1 - keep) * torch.maximum(images, gray)
    return whitened + layer + layer.flip((2, 3))


def fog(images: Tensor, level: int, draw: Draw) -> Tensor:
    amount, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[level]
    height, width = images.shape[2:]
    pattern = _plasma(draw, max(height, width), decay)[:, :, :height, :width].to(images)
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    return (images + amount * pattern) * brightest / (brightest + amount).clamp_min(1e-12)


def brightness(images: Tensor, level: int, draw: Draw) -> Tensor:
    amount = (0.05, 0.1, 0.15, 0.2, 0.3)[level]
    if images.shape[1] != 3:
        return images + amount
    value = images.amax(dim=1, keepdim=True)
    raised = (value + amount).clamp(0, 1)
    # value alone is raised in HSV: hue and saturation, the ratios of the channels, stay
    return torch.where(value > 0, images * raised / value.clamp_min(1e-12), raised.expand_as(images))


def contrast(images: Tensor, level: int, draw: Draw) -> Tensor:
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[level]
    mean = images.mean(dim=(2, 3), keepdim=True)
    return (images - mean) * factor + mean


def elastic_transform(images: Tensor, level: int, draw: Draw) -> Tensor:
    alpha, sigma, affine = (
        (0.0, 0.0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[level]
    count, _, height, width = images.shape
    # the corners of a triangle move by up to `affine` of the side; the map that moves them is affine
    moves = (2 * draw("uniform", (3, 2)) - 1) * 2 * affine
    corners = torch.tensor([[0.5, 0.5], [0.5, -0.5], [-0.5, -0.5]], dtype=moves.dtype)
    lifted = torch.cat([corners, torch.ones(3, 1, dtype=moves.dtype)], dim=1)
    theta = torch.linalg.solve(lifted.expand(count, 3, 3), corners + moves).transpose(1, 2)
    grid = F.affine_grid(theta.to(images), [count, 1, height, width], align_corners=False)
    if alpha > 0:
        waves = 2 * draw("uniform", (2, height, width)) - 1
        smooth = _gaussian_blur(waves.to(images), sigma * max(height, width))
        grid = grid + (2 * alpha * smooth).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def pixelate(images: Tensor, level: int, draw: Draw) -> Tensor:
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[level]
    weights = []
    for size in images.shape[2:]:
        small = max(1, int(size * share))
        weights.append(_box_weights(small, size) @ _box_weights(size, small))
    return _resample(images, *weights)


def jpeg_compression(images: Tensor, level: int, draw: Draw) -> Tensor:
    return JPEG(quality=(80, 65, 58, 50, 40)[level]).requantise(images.contiguous())


CORRUPTIONS: dict[str, Callable[[Tensor, int, Draw], Tensor]] = {
    function.__name__: function
    for function in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        speckle_noise,
        defocus_blur,
        glass_blur,
        motion_blur,
        zoom_blur,
        snow,
        fog,
        brightness,
        contrast,
        elastic_transform,
        pixelate,
        jpeg_compression,
    )
}


def _poisson_quantiles(uniform: Tensor, rates: Tensor) -> Tensor:
    """Return the smallest counts at which the Poisson distributions of `rates` reach the shares `uniform`, float64."""
    level, rate = uniform.double().flatten(), rates.double().flatten()
    level = level.clamp_min(2.0**-25)  # zero stands for all shares that float32 draws round to it
    normal = torch.special.ndtri(level)
    # the Cornish-Fisher expansion is seldom off, and then by little, so that the loop ends soon
    counts: Tensor = (rate + rate.sqrt() * normal + (normal.square() + 2) / 6).floor().clamp_min(0)
    doubtful = torch.arange(len(counts), device=counts.device)
    while len(doubtful):
        count, mean, share = (values[doubtful] for values in (counts, rate, level))
        low = share > torch.special.gammaincc(count + 1, mean)  # the probability of so many or fewer
        high = (count > 0) & (share <= torch.special.gammaincc(count.clamp_min(1), mean))
        counts[doubtful] += low.double() - high.double()
        doubtful = doubtful[low | high]
    return counts.view_as(uniform)


def _convolve(images: Tensor, kernel: Tensor) -> Tensor:
    """Convolve every channel with one kernel, the border mirrored as often as it takes."""
    rows, columns = kernel.shape[0] // 2, kernel.shape[1] // 2
    height, width = images.shape[2:]
    padded = images[:, :, _mirror(height, rows)][:, :, :, _mirror(width, columns)]
    flat = padded.flatten(0, 1)[:, None]
    return F.conv2d(flat, kernel.to(images)[None, None]).view(images.shape)


def _mirror(size: int, pad: int) -> Tensor:
    place = torch.arange(-pad, size + pad) % (2 * size)
    return torch.where(place < size, place, 2 * size - 1 - place)


def _gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    reach = max(1, int(4 * sigma + 0.5))
    place = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-place.square() / (2 * max(sigma, 1e-6) ** 2))
    weights = weights / weights.sum()
    return _convolve(_convolve(images, weights[:, None]), weights[None])


def _resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Make images of other pixels: `rows` and `columns` (new, old) weigh the old ones."""
    return rows.to(images) @ images @ columns.to(images).T


def _box_weights(old: int, new: int) -> Tensor:
    """Return the weights (new, old) of Pillow's BOX: the mean of the pixels whose centres lie in the new one."""
    scale = old / new
    width = max(scale, 1.0)
    centres = (torch.arange(new, dtype=torch.float64)[:, None] + 0.5) * scale
    # in Pillow's order, because centres on an edge go where rounding puts them
    place = torch.arange(old, dtype=torch.float64)
    away = (place - centres + 0.5) * (1 / width)
    first, end = ((centres + reach + 0.5).floor() for reach in (-width / 2, width / 2))
    inside = ((away > -0.5) & (away <= 0.5) & (place >= first) & (place < end)).double()
    return inside / inside.sum(dim=1, keepdim=True)


def _zoom_weights(size: int, factor: float) -> Tensor:
    """Return the weights (size, size) that enlarge the middle linearly, its outer pixels onto the outer ones."""
    cut = math.ceil(size / factor)
    large = round(cut * factor)
    first = torch.arange(size, dtype=torch.float64) + (large - size) // 2
    place = first * ((cut - 1) / max(large - 1, 1)) + (size - cut) // 2
    return (1 - (place[:, None] - torch.arange(size)).abs()).clamp_min(0)


def _smear(images: Tensor, angles: Tensor, radius: int, sigma: float) -> Tensor:
    """Average each image along its own direction, with weights that fall off by a Gaussian on one side."""
    weights = torch.exp(-torch.arange(2 * radius + 1, dtype=torch.float64).square() / (2 * sigma**2))
    weights = weights / weights.sum()
    count, _, height, width = images.shape
    still = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]], dtype=images.dtype, device=images.device)
    grid = F.affine_grid(still.expand(count, 2, 3), [count, 1, height, width], align_corners=False)
    pixel = torch.tensor([2 / width, 2 / height], dtype=images.dtype, device=images.device)
    way = torch.stack([angles.cos(), angles.sin()], dim=1).to(images) * pixel
    total = torch.zeros_like(images)
    for step, weight in enumerate(weights.tolist()):
        moved = grid + step * way[:, None, None]
        total = total + weight * F.grid_sample(images, moved, padding_mode="border", align_corners=False)
    return total


def _plasma(draw: Draw, side: int, decay: float) -> Tensor:
    """Return clouds (n, 1, s, s) in [0, 1], s a power of two of `side` or more: noise at every scale, each smaller."""
    size = 2 ** max(1, math.ceil(math.log2(side)))
    total: Tensor | None = None
    amplitude, cells = 1.0, 2
    while cells <= size:
        layer = F.interpolate(
            2 * draw("uniform", (1, cells, cells)) - 1, size=[size, size], mode="bilinear", align_corners=False
        )
        total = amplitude * layer if total is None else total + amplitude * layer
        amplitude, cells = amplitude / decay, cells * 2
    assert total is not None
    low, high = (limit(total.flatten(1), dim=1).view(-1, 1, 1, 1) for limit in (torch.amin, torch.amax))
    clouds: Tensor = (total - low) / (high - low).clamp_min(1e-12)
    return clouds
