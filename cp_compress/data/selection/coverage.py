"""Examples that cover a space: k-centre, herding, and the facility location of CRAIG."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.data.selection.selection import (
    Selection,
    as_matrix,
    check_labels,
    even_weights,
    seeded,
    select_within_classes,
)

_TOGETHER = 64
_ENTRIES = 2**24  # distances in memory at a time


@explains_keywords
def k_center(embeddings: Tensor, count: int, *, labels: Tensor | None = None, seed: int = 0) -> Selection:
    """Choose examples so that the largest distance to a nearest chosen example is at most twice the smallest possible.

    The first example is random; each further one is the farthest from those chosen (Gonzalez 1985; Sener and Savarese
    2018). A weight is the number of examples whose nearest chosen example this is.

    Args:
        embeddings: One row per example, (n, d).
        count: The number of examples to choose, 1…n, and at least one per class if there are labels.
        labels: The class (n,) of each example, to choose within each class in proportion to its size; None for one
            choice among all.
        seed: The seed of the first example, 0…2³⁰.

    Returns:
        The selection, in the order in which examples were chosen.

    Raises:
        InvalidArgumentError: If an argument is not as described, or an embedding is NaN or Inf.

    >>> k_center(torch.tensor([[0.0], [0.1], [5.0], [9.0]]), 3).indices.sort().values[-2:].tolist()
    [2, 3]
    """
    rows = _scaled(as_matrix("k_center", "embeddings", embeddings))
    generator = seeded("k_center", seed)

    def choose(positions: Tensor, quota: int) -> tuple[Tensor, Tensor]:
        points = rows[positions]
        chosen = [int(torch.randint(len(points), (), generator=generator))]
        nearest = _distances(points, points[chosen])[:, 0]
        owner = torch.zeros(len(points), dtype=torch.int64)
        while len(chosen) < quota:
            open_ = nearest.clone()
            open_[chosen] = -1.0  # so that copies of one point are chosen after all others, and none twice
            chosen.append(int(open_.argmax()))
            distance = _distances(points, points[chosen[-1:]])[:, 0]
            nearer = distance < nearest
            nearest, owner = torch.where(nearer, distance, nearest), owner.masked_fill(nearer, len(chosen) - 1)
        owner[chosen] = torch.arange(len(chosen))
        return torch.tensor(chosen), torch.bincount(owner, minlength=len(chosen)).double()

    return select_within_classes("k_center", len(rows), count, labels, choose)


@explains_keywords
def herding(embeddings: Tensor, count: int, *, labels: Tensor | None = None) -> Selection:
    """Choose examples one by one so that their mean follows the mean of all.

    `embeddings` are (n, d). With μ their mean and w₀ = μ: x_t = argmax ⟨w_{t−1}, x⟩ among those not chosen yet, and w_t
    = w_{t−1} + μ − x_t (Welling 2009). All weights are equal. With `labels` (n,) examples are chosen within each class.

    >>> herding(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), 1).indices.tolist()
    [3]
    """
    rows = as_matrix("herding", "embeddings", embeddings)

    def choose(positions: Tensor, quota: int) -> tuple[Tensor, Tensor]:
        points = rows[positions].double()
        mean = points.mean(0)
        # products with w_t, kept up to date by products with what is added to it
        scores, drift = points @ mean, points @ mean
        chosen: list[int] = []
        while len(chosen) < quota:
            open_ = scores.clone()
            open_[chosen] = -math.inf
            chosen.append(int(open_.argmax()))
            scores = scores + drift - points @ points[chosen[-1]]
        return even_weights(torch.tensor(chosen), len(points))

    return select_within_classes("herding", len(rows), count, labels, choose)


@explains_keywords
def craig(
    gradients: Tensor, count: int, *, labels: Tensor | None = None, sample: int | None = None, seed: int = 0
) -> Selection:
    """Choose examples whose weighted gradients approximate those of all examples: facility location (CRAIG).

    The greedy maximum of Σ_i max_{j chosen} (D − ‖g_i − g_j‖), which is within 1 − 1/e of the best (Mirzasoleiman,
    Bilmes and Leskovec 2020, Algorithm 1); evaluated lazily, with the same result. A weight is the number of examples
    whose nearest chosen example this is.

    Args:
        gradients: One row per example, (n, d), that stands for the gradient of its loss: for a last linear layer,
            probabilities minus one-hot labels (`last_layer_gradients`).
        count: The number of examples to choose, 1…n, and at least one per class if there are labels.
        labels: The class (n,) of each example, to choose within each class in proportion to its size; None for one
            choice among all.
        sample: The number of random candidates that each step considers instead of all, for large data (Mirzasoleiman
            et al. 2015); None for all.
        seed: The seed of the random candidates, 0…2³⁰.

    Returns:
        The selection, in the order in which examples were chosen.

    Raises:
        InvalidArgumentError: If an argument is not as described, or a gradient is NaN or Inf.
    """
    rows = _scaled(as_matrix("craig", "gradients", gradients))
    if sample is not None:
        rule = "must be a whole number of candidates, 1 or more, or None for all"
        sample = check_integer("craig", "sample", sample, rule, at_least=1)
    generator = seeded("craig", seed)

    def choose(positions: Tensor, quota: int) -> tuple[Tensor, Tensor]:
        points = rows[positions]
        # nothing is farther from another point than twice the farthest from the mean
        far = 2 * float((points - points.mean(0)).norm(dim=1).max()) + 1e-6
        nearest = torch.full((len(points),), far, dtype=points.dtype)
        owner = torch.zeros(len(points), dtype=torch.int64)
        chosen: list[int] = []
        bounds = torch.full((len(points),), math.inf, dtype=torch.float64)
        while len(chosen) < quota:
            best, distance = (
                _best_lazily(points, nearest, bounds)
                if sample is None
                else _best_of(points, nearest, bounds, sample, generator)
            )
            nearer = distance < nearest
            nearest, owner = torch.where(nearer, distance, nearest), owner.masked_fill(nearer, len(chosen))
            chosen.append(best)
            bounds[best] = -math.inf
        owner[chosen] = torch.arange(len(chosen))
        return torch.tensor(chosen), torch.bincount(owner, minlength=len(chosen)).double()

    return select_within_classes("craig", len(rows), count, labels, choose)


@explains_keywords
def last_layer_gradients(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the gradients (n, classes) of the cross entropy at the logits: probabilities minus one-hot labels.

    >>> last_layer_gradients(torch.tensor([[0.75, 0.25]]), torch.tensor([0])).tolist()
    [[-0.25, 0.25]]
    """
    rows = as_matrix("last_layer_gradients", "probabilities", probabilities)
    classes = check_labels("last_layer_gradients", labels, len(rows)).long()
    if bool((classes < 0).any()) or bool((classes >= rows.shape[1]).any()):
        found = f"{int(classes.min())}…{int(classes.max())}"
        reject("last_layer_gradients", "labels", found, f"must be below {rows.shape[1]}, the number of classes")
    return rows - torch.nn.functional.one_hot(classes, rows.shape[1])


def _scaled(rows: Tensor) -> Tensor:
    """Return rows divided by their largest magnitude: which is nearer stays so, and no square leaves the range."""
    largest = rows.abs().max()
    return rows / largest if bool(largest > 0) else rows


def _best_lazily(points: Tensor, nearest: Tensor, bounds: Tensor) -> tuple[int, Tensor]:
    """Return the candidate with the largest gain and its distances; `bounds` are gains of earlier steps, kept current.

    Gains only shrink, so that a gain above all other bounds is the largest. Of equal gains the first example wins.
    """
    current = torch.zeros(len(points), dtype=torch.bool)
    while True:
        top = int(bounds.argmax())
        if current[top]:
            return top, _distances(points, points[top : top + 1])[:, 0]
        candidates = torch.topk(bounds.masked_fill(current, -math.inf), min(_together(points), len(points))).indices
        bounds[candidates] = torch.where(bounds[candidates] > -math.inf, _gains(points, nearest, candidates), -math.inf)
        current[candidates] = True


def _best_of(
    points: Tensor, nearest: Tensor, bounds: Tensor, sample: int, generator: torch.Generator
) -> tuple[int, Tensor]:
    open_ = (bounds > -math.inf).nonzero().flatten()
    candidates = open_[torch.randperm(len(open_), generator=generator)[:sample]]
    best = int(candidates[_gains(points, nearest, candidates).argmax()])
    return best, _distances(points, points[best : best + 1])[:, 0]


def _gains(points: Tensor, nearest: Tensor, candidates: Tensor) -> Tensor:
    """Return by how much each candidate would shorten the distances of all points, in sum, float64."""
    parts = [
        (nearest.unsqueeze(1) - _distances(points, points[part])).clamp_min_(0).double().sum(0)
        for part in torch.split(candidates, _together(points))
    ]
    return torch.cat(parts)


def _together(points: Tensor) -> int:
    return max(1, min(_TOGETHER, _ENTRIES // len(points)))


def _distances(points: Tensor, others: Tensor) -> Tensor:
    # not by the matrix product, which gives a point a distance from itself
    return torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")
