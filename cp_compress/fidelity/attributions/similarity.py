"""How alike two attribution maps are by the order of their values, and by their strongest places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cp_compress.base.arguments import check_real, explains_keywords
from cp_compress.base.lazy import LazyModule
from cp_compress.fidelity.attributions.jaccard import as_map_rows

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = LazyModule("scipy.stats")


@explains_keywords
def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Spearman's rank correlation of the values of two maps.

    `first` and `second` are maps (n, ...) of one shape; the result (n,) is float64 in [-1, 1]. Equal values share
    their mean rank. Of maps whose values are all equal, two give 1 and one gives 0.

    Raises InvalidArgumentError for maps of different shapes, NaN and infinite values. Spearman 1904; for attribution
    maps Adebayo et al. 2018, "Sanity checks for saliency maps".

    >>> a, b = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 9.0, 8.0]])
    >>> rank_correlation(a, b).tolist()
    [0.5]
    """
    return correlation_of_ranks(*as_map_rows("rank_correlation", first, second))


@explains_keywords
def top_fraction_iou(first: Tensor, second: Tensor, fraction: float = 0.1) -> Tensor:
    """Return the share that the strongest places of two maps have in common: intersection over union.

    `first` and `second` are maps (n, ...) of one shape. A place's strength is its value without the sign; in maps
    (n, channels, *space) that of all channels together. Of p places, the strongest round(`fraction` · p), one or more,
    are taken; places that tie for the last of them share it evenly. The result (n,) is float64 in [0, 1]; two all-zero
    maps give 1, one all-zero map 0. Unrelated maps have about f / (2 − f) in common.

    Raises InvalidArgumentError for maps of different shapes, NaN and infinite values, and a fraction outside (0, 1).

    >>> a, b = torch.tensor([[5.0, -4.0, 0.0, 1.0]]), torch.tensor([[9.0, 0.0, 0.0, 2.0]])
    >>> top_fraction_iou(a, b, 0.5).tolist()
    [0.333...]
    """
    share = check_fraction("top_fraction_iou", "fraction", fraction)
    as_map_rows("top_fraction_iou", first, second)
    return iou_of_strengths(place_strengths(first), place_strengths(second), share)


def check_fraction(owner: str, name: str, fraction: float) -> float:
    """Return a share in (0, 1) of the places; raises InvalidArgumentError for another."""
    return check_real(owner, name, fraction, f"{name} is a share of the places in (0, 1)", above=0, below=1)


def place_strengths(maps: Tensor) -> Tensor:
    """Return how much a map holds at each place (n, *space), float64 of 0 or more: its channels without signs, added.

    Maps (n, channels, *space) have two dimensions of space or more; others have no channels.
    """
    values = maps.detach().to(torch.float64).abs()
    return values.sum(dim=1) if values.ndim > 3 else values


def correlation_of_ranks(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's correlation (n,) of rows (n, values)."""
    ranks_a, ranks_b = (torch.from_numpy(_centred_ranks(_as_array(rows))) for rows in (a, b))
    spread = ranks_a.square().sum(dim=1) * ranks_b.square().sum(dim=1)
    flat_a, flat_b = ((rows == rows[:, :1]).all(dim=1).cpu() for rows in (a, b))
    correlation = ((ranks_a * ranks_b).sum(dim=1) / spread.sqrt()).clamp(-1, 1)
    return torch.where(flat_a | flat_b, (flat_a & flat_b).to(correlation.dtype), correlation)


def _as_array(rows: Tensor) -> npt.NDArray[Any]:
    values = rows.detach().cpu()
    return (values.float() if values.dtype in (torch.float16, torch.bfloat16) else values).numpy()


def _centred_ranks(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return ranks (n, values) less their mean; equal values share theirs."""
    order = np.argsort(rows, axis=1)
    ordered = np.take_along_axis(rows, order, axis=1)
    ranks = np.empty(rows.shape)
    np.put_along_axis(ranks, order, np.arange(1.0, rows.shape[1] + 1)[None], axis=1)
    tied = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    if tied.any():  # twice as slow as sorting alone, and rare in maps of gradients
        ranks[tied] = stats.rankdata(rows[tied], axis=1)
    centred: npt.NDArray[np.float64] = ranks - (rows.shape[1] + 1) / 2
    return centred


def iou_of_strengths(first: Tensor, second: Tensor, fraction: float) -> Tensor:
    """Return the intersection over union (n,) of the strongest places of strengths (n, *space)."""
    a, b = first.flatten(1), second.flatten(1)
    count = max(1, round(fraction * a.shape[1]))
    taken_a, taken_b = _strongest(a, count), _strongest(b, count)
    index = torch.minimum(taken_a, taken_b).sum(dim=1) / torch.maximum(taken_a, taken_b).sum(dim=1)
    zero_a, zero_b = ~a.any(dim=1), ~b.any(dim=1)
    return torch.where(zero_a | zero_b, (zero_a & zero_b).to(index.dtype), index)


def _strongest(strengths: Tensor, count: int) -> Tensor:
    """Return which places (n, places) are among the `count` strongest, ties for the last by their share."""
    last = strengths.topk(count, dim=1).values[:, -1:]
    above, tied = (strengths > last).double(), (strengths == last).double()
    return above + tied * (count - above.sum(dim=1, keepdim=True)) / tied.sum(dim=1, keepdim=True)
