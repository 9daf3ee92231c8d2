"""Which objects two detectors have in common: matched by class and overlap, the surest first, as COCO does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cp_compress.fidelity.detections.detecting import Detections

SIZES = (("small", 0.0, 32.0**2), ("medium", 32.0**2, 96.0**2), ("large", 96.0**2, float("inf")))
"""The sizes of objects by the area of their box in pixels, as COCO names them."""


@dataclass(frozen=True, eq=False)
class Matched:
    """The objects of two models over all images; those of one image lie together.

    Attributes:
        images: The image of each of the reference's objects, and of each of the candidate's.
        labels: Their labels.
        areas: The areas of their boxes, in pixels.
        partner: The number of the candidate's object that each of the reference's has, −1 for none.
        iou: The intersection over union (reference's,) with the partner, NaN for none.
        scores: Their scores.
        relabelled: The candidate's label of an object of the reference that was lost, where a new object of another
            class lies there; −1 elsewhere.
        fainter: Whether the candidate found a lost object (reference's,) with a score below the threshold.
    """

    images: tuple[Tensor, Tensor]
    labels: tuple[Tensor, Tensor]
    areas: tuple[Tensor, Tensor]
    partner: Tensor
    iou: Tensor
    scores: tuple[Tensor, Tensor]
    relabelled: Tensor
    fainter: Tensor

    @property
    def kept(self) -> Tensor:
        """Whether each of the reference's objects was found again."""
        return self.partner >= 0

    @property
    def is_new(self) -> Tensor:
        """Whether each of the candidate's objects is none of the reference's."""
        new = torch.ones(len(self.labels[1]), dtype=torch.bool)
        new[self.partner[self.kept]] = False
        return new


def match_all(
    reference: Sequence[Detections], candidate: Sequence[Detections], score_threshold: float, iou_threshold: float
) -> Matched:
    """Return which objects, of a score of at least the threshold, two models have in common in each image."""
    before = [found.above(score_threshold) for found in reference]
    after = [found.above(score_threshold) for found in candidate]
    partners, ious, relabelled, fainter = [], [], [], []
    start = 0
    for old, new, all_new in zip(before, after, candidate, strict=True):
        overlap = box_iou(old.boxes, new.boxes)
        same = old.labels[:, None] == new.labels[None]
        partner = greedy(overlap.masked_fill(~same, 0.0), iou_threshold)
        lost = partner < 0
        free = torch.ones(len(new.labels), dtype=torch.bool)
        free[partner[~lost]] = False
        other = greedy((overlap * free).masked_fill(~lost[:, None], 0.0), iou_threshold)
        label = torch.full_like(partner, -1)
        label[other >= 0] = new.labels[other[other >= 0]]
        faint = all_new.scores < score_threshold
        there = box_iou(old.boxes, all_new.boxes[faint]) * (old.labels[:, None] == all_new.labels[faint][None])
        fainter.append(lost & (there >= iou_threshold).any(dim=1))
        ious.append(
            torch.where(lost, torch.nan, overlap.gather(1, partner.clamp_min(0)[:, None])[:, 0])
            if len(new.labels)
            else torch.full((len(old.labels),), torch.nan)
        )
        partners.append(torch.where(lost, partner, partner + start))
        relabelled.append(label)
        start += len(new.labels)
    sides = (before, after)
    return Matched(
        images=_pair(
            [
                torch.tensor([place for place, one in enumerate(side) for _ in one.labels], dtype=torch.int64)
                for side in sides
            ]
        ),
        labels=_pair([torch.cat([one.labels for one in side]) for side in sides]),
        areas=_pair([torch.cat([_areas(one.boxes) for one in side]) for side in sides]),
        partner=torch.cat(partners),
        iou=torch.cat(ious),
        scores=_pair([torch.cat([one.scores for one in side]) for side in sides]),
        relabelled=torch.cat(relabelled),
        fainter=torch.cat(fainter),
    )


def _pair(parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    return parts[0], parts[1]


def greedy(overlap: Tensor, threshold: float) -> Tensor:
    """Return the column (rows,) that each row of overlaps (rows, columns) is matched with, −1 for none.

    Columns, which are the candidate's objects with the surest first, choose in their order the free row of the largest
    overlap of at least the threshold, the first among equals.

    >>> greedy(torch.tensor([[0.9, 0.8], [0.6, 0.7]]), 0.5).tolist()
    [0, 1]
    """
    rows = torch.full((len(overlap),), -1)
    left = overlap.clone()
    for column in range(overlap.shape[1] if len(overlap) else 0):
        best = int(left[:, column].argmax())
        if left[best, column] >= threshold:
            rows[best] = column
            left[best] = -1.0
    return rows


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union (n, m) of boxes (n, 4) and (m, 4) given as x1, y1, x2, y2; 0 of empty ones."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    inside = (high - low).clamp_min(0).prod(dim=2)
    union = _areas(first)[:, None] + _areas(second)[None] - inside
    return torch.where(union > 0, inside / union.clamp_min(1e-12), torch.zeros_like(inside))


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
