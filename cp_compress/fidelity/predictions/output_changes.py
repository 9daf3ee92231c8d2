"""How far outputs changed even if the predicted class did not: calibration, top classes, logits."""

from __future__ import annotations

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer

_BINS = 15


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = _BINS) -> float:
    """Return Σ (nᵦ / n) · |accuracy − mean confidence| over `bins` equal ranges of the largest probability, in [0, 1].

    `logits` (n, classes), `labels` (n,). Guo et al. 2017, "On calibration of modern neural networks", equation 3.
    Raises InvalidArgumentError for `bins` below 1.

    >>> round(expected_calibration_error(torch.tensor([[10.0, -10.0], [10.0, -10.0]]), torch.tensor([0, 1])), 6)
    0.5
    """
    bins = check_integer("expected_calibration_error", "bins", bins, "must be a whole number of 1 or more", at_least=1)
    confidence, classes = torch.softmax(logits.double(), dim=1).max(dim=1)
    right = (classes == labels).double()
    # a range holds its upper end, as published
    places = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, places, right - confidence)
    return float(gaps.abs().sum() / len(labels))


def top_class_overlap(candidate: Tensor, reference: Tensor, count: int) -> Tensor:
    """Return for each example the share (n,) of the reference's `count` top classes that are among the candidate's.

    Both are logits (n, classes); the result is float64 in [0, 1].
    """
    mine, theirs = (logits.topk(count, dim=1).indices for logits in (candidate, reference))
    return (mine[:, :, None] == theirs[:, None, :]).any(dim=2).double().mean(dim=1)


def divergence_from(candidate: Tensor, reference: Tensor) -> Tensor:
    """Return the Kullback–Leibler divergence (n,), in nats, from the reference's probabilities to the candidate's."""
    mine, theirs = (torch.log_softmax(logits.double(), dim=1) for logits in (candidate, reference))
    divergence: Tensor = (theirs.exp() * (theirs - mine)).sum(dim=1)
    return divergence.clamp_min(0)


def logit_distance(candidate: Tensor, reference: Tensor) -> Tensor:
    """Return the L2 distance (n,) of logits (n, classes), each row less its mean, which no probability depends on."""
    mine, theirs = (logits.double() - logits.double().mean(dim=1, keepdim=True) for logits in (candidate, reference))
    lengths: Tensor = torch.linalg.vector_norm(mine - theirs, dim=1)
    return lengths
