"""How far outputs changed even if the predicted class did not: calibration, top classes, logits.

All of it is computed for a block of rows at a time: copies in float64 of many classes would not fit into memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, explains_keywords
from cp_compress.base.batching import slices
from cp_compress.base.errors import ObservationError

_BINS = 15
_BLOCK_VALUES = 2**22
_SUM_TOLERANCE = 0.01  # probabilities that were rounded to half precision
_LEAST = torch.finfo(torch.float32).tiny

PROBABILITIES_NOTE = (
    "both models give probabilities (rows that sum to one): mean_kl, mean_logit_distance and ece_change are those of "
    "their logarithms"
)
"""What the reader of a comparison of such models is told."""

Outputs = Literal["logits", "probabilities", "either"]


def by_blocks(measure: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Return what `measure` gives for rows of tensors (n, ...), block by block."""
    rows = max(1, _BLOCK_VALUES // max(1, *(tensor[:1].numel() for tensor in tensors)))
    found: Tensor | None = None
    for part in slices(len(tensors[0]), rows):
        one = measure(*(tensor[part] for tensor in tensors))
        if found is None:
            found = one.new_empty((len(tensors[0]), *one.shape[1:]))
        found[part] = one  # kept among large blocks, small results would keep their memory from being given back
        del one
    assert found is not None  # no data set is empty
    return found


def kind_of_outputs(outputs: Tensor) -> Outputs:
    """Return whether outputs (n, classes, ...) are probabilities: 0 or more, with rows that all sum to one.

    Outputs of which every row is one 1 among zeros could be either.
    """

    def looks(block: Tensor) -> Tensor:
        fits = (block.amin(dim=1) >= 0) & ((block.double().sum(dim=1) - 1).abs() <= _SUM_TOLERANCE)
        soft = ((block > 0) & (block < 1)).any(dim=1)
        return torch.stack([fits.reshape(len(block), -1).all(dim=1), soft.reshape(len(block), -1).any(dim=1)], dim=1)

    if not outputs.is_floating_point() or outputs.shape[1] < 2:
        return "logits"
    for part in slices(len(outputs), max(1, _BLOCK_VALUES // outputs[0].numel())):
        if not bool(looks(outputs[part])[:, 0].all()):  # the first block tells nearly always
            return "logits"
    soft = by_blocks(lambda block: looks(block)[:, 1], outputs)
    return "probabilities" if bool(soft.any()) else "either"


def require_equal_outputs(candidate: Tensor, reference: Tensor) -> bool:
    """Return whether two models give probabilities; raise ObservationError where one does and the other gives logits.

    Both are outputs (n, classes, ...).
    """
    return require_equal_kinds(kind_of_outputs(candidate), kind_of_outputs(reference))


def require_equal_kinds(candidate: Outputs, reference: Outputs) -> bool:
    """Return whether two kinds of outputs are probabilities; raises as `require_equal_outputs`."""
    kinds = [candidate, reference]
    if set(kinds) == {"logits", "probabilities"}:
        whose, other = ("candidate", "reference") if kinds[0] == "probabilities" else ("reference", "candidate")
        raise ObservationError(
            f"the {whose} gives probabilities (every row is 0 or more and sums to one, as after a softmax) and the "
            f"{other} gives logits: their outputs cannot be compared. Leave the softmax out of the {whose}, or return "
            f"the logarithm of its outputs"
        )
    return "probabilities" in kinds


def as_log_probabilities(probabilities: Tensor) -> Tensor:
    """Return the logarithms, which are logits, of probabilities; 0 counts as the least number of float32."""
    return probabilities.double().clamp_min(_LEAST).log()


def largest_probability(logits: Tensor, *, probabilities: bool = False) -> Tensor:
    """Return the probability (n,), float64, of the most likely class, of logits or `probabilities` (n, classes)."""
    if probabilities:
        return logits.amax(dim=1).double()
    return by_blocks(lambda block: torch.softmax(block.double(), dim=1).amax(dim=1), logits)


@explains_keywords
def expected_calibration_error(
    logits: Tensor, labels: Tensor, bins: int = _BINS, *, probabilities: bool = False
) -> float:
    """Return Σ (nᵦ / n) · |accuracy − mean confidence| over `bins` equal ranges of the largest probability, in [0, 1].

    It is equation 3 of Guo et al. 2017, "On calibration of modern neural networks".

    Args:
        logits: (n, classes).
        labels: (n,), int64.
        bins: The number of ranges, 1 or more.
        probabilities: Whether `logits` are probabilities.

    Returns:
        The error.

    Raises:
        InvalidArgumentError: If `bins` is below 1.

    >>> round(expected_calibration_error(torch.tensor([[10.0, -10.0], [10.0, -10.0]]), torch.tensor([0, 1])), 6)
    0.5
    """
    bins = check_integer("expected_calibration_error", "bins", bins, "must be a whole number of 1 or more", at_least=1)
    confidence = largest_probability(logits, probabilities=probabilities)
    return calibration_error(confidence, logits.argmax(dim=1) == labels, bins)


def calibration_error(confidence: Tensor, right: Tensor, bins: int = _BINS) -> float:
    """Return the expected calibration error of answers (n,) that are right, or not, with these probabilities (n,)."""
    # a range holds its upper end, as published
    places = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, places, right.double() - confidence)
    return float(gaps.abs().sum() / len(right))


def top_class_overlap(candidate: Tensor, reference: Tensor, count: int) -> Tensor:
    """Return for each example the share (n,) of the reference's `count` top classes that are among the candidate's.

    Both are logits (n, classes); the result is float64 in [0, 1].
    """

    def overlap(*blocks: Tensor) -> Tensor:
        mine, theirs = (logits.topk(count, dim=1).indices for logits in blocks)
        return (mine[:, :, None] == theirs[:, None, :]).any(dim=2).double().mean(dim=1)

    return by_blocks(overlap, candidate, reference)


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
