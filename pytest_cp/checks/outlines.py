"""The outlines of masks as small SVG pictures, to lie over an image and over maps of it."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGEST_SIDE, _SMALLEST_SIDE = 64, 8
_LONGEST_PATH = 6_000
# a line in two colours stands out from any image, and from the colours of maps
_LINES = {"must_not_look": ("#000", "#fff", ' stroke-dasharray="3 2"'), "must_look": ("#fff", "#000", "")}
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))  # clockwise around places: right, down, left, up


def draw_outlines(masks: Mapping[str, Tensor]) -> list[str]:
    """Return a picture for each example of the outlines of its masks (n, h, w), an SVG file in base64.

    `must_look` is a black line with a white edge, `must_not_look` a dashed white one with a black edge. Masks of many
    places are drawn coarser.
    """
    count = len(next(iter(masks.values())))
    return [_svg({name: held[row] for name, held in masks.items()}) for row in range(count)]


def trace(mask: Tensor) -> list[list[tuple[int, int]]]:
    """Return the closed lines around a mask (h, w), each as its corners (row, column), without those on a straight."""
    padded = F.pad(mask.bool(), (1, 1, 1, 1))
    inside = padded[1:-1, 1:-1]
    outside = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])  # above, right, below, left
    starts = ((0, 0), (0, 1), (1, 1), (1, 0))
    edges: dict[tuple[int, int], list[int]] = {}
    for side, (other, (down, right)) in enumerate(zip(outside, starts, strict=True)):
        for row, column in (inside & ~other).nonzero().tolist():
            edges.setdefault((row + down, column + right), []).append(side)
    lines = []
    while edges:
        lines.append(_walk(edges, next(iter(edges))))
    return lines


def _walk(edges: dict[tuple[int, int], list[int]], start: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the corners of a closed line from a point, and take its edges away."""
    here, corners, before = start, [], -1
    while True:
        sides = edges[here]
        # where two places meet at a corner, the turn to the right stays at the first
        side = min(sides, key=lambda one: (before + 1 - one) % 4) if before >= 0 else sides[0]
        sides.remove(side)
        if not sides:
            del edges[here]
        if side != before:
            corners.append(here)
        before, here = side, (here[0] + _STEPS[side][0], here[1] + _STEPS[side][1])
        if here == start:
            return corners


def _svg(masks: Mapping[str, Tensor]) -> str:
    side = _LARGEST_SIDE
    while True:
        coarse = {name: _coarser(masks[name], side) for name in _LINES if name in masks}
        paths = {name: _path(mask) for name, mask in coarse.items()}
        if sum(map(len, paths.values())) <= _LONGEST_PATH or side <= _SMALLEST_SIDE:
            break
        side //= 2
    height, width = next(iter(coarse.values())).shape
    thin = width / 100
    drawn = "".join(
        f'<path d="{path}" stroke="{colour}" stroke-width="{thick * thin:.3g}"{dashes if thick < 2 else ""}/>'
        for name, path in paths.items()
        for edge, line, dashes in [_LINES[name]]
        for colour, thick in ((edge, 2.6), (line, 1.2))
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" preserveAspectRatio="none">'
    text = f'{head}<g fill="none" stroke-linejoin="round">{drawn}</g></svg>'
    return base64.b64encode(text.encode()).decode("ascii")


def _coarser(mask: Tensor, side: int) -> Tensor:
    """Return a mask of at most so many places a side: those of which half is within, or the most where none is."""
    height, width = mask.shape
    factor = max(height, width) / side
    if factor <= 1:
        return mask
    size = max(1, round(height / factor)), max(1, round(width / factor))
    share = F.interpolate(mask[None, None].float(), size, mode="area")[0, 0]
    return share >= torch.minimum(share.max(), torch.tensor(0.5))


def _path(mask: Tensor) -> str:
    return "".join(
        f"M{corners[0][1]} {corners[0][0]}"
        + "".join(
            f"h{after[1] - before[1]}" if after[0] == before[0] else f"v{after[0] - before[0]}"
            for before, after in itertools.pairwise(corners)
        )
        + "z"
        for corners in trace(mask)
    )
