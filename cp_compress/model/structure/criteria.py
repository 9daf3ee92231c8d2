"""How strong a filter or a neuron is: the criteria by which structured schemes rank what stays."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cp_compress.base.arguments import check_choice
from cp_compress.model.settings import CRITERIA

# up to this many subtractions distances are taken one by one; above it from products, which round differently
_EXACT = 1 << 27


def unit_strengths(rows: Sequence[Tensor], criterion: str) -> Tensor:
    """Return the strength of each unit (a filter, a neuron) as float64 (units,): the weakest are pruned first.

    `rows` holds one tensor (units, values) a layer; where several layers are coupled, because their outputs are added
    to one another, the rows of unit i are joined and judged as one. "l1" and "l2" are norms, "max" is the largest and
    "mean" the average of |w|; "geometric_median" is the sum of the Euclidean distances to all other units, so that the
    most replaceable go first (FPGM: He et al. 2019, equation 4). Raises InvalidArgumentError for another criterion.

    >>> unit_strengths([torch.tensor([[3.0, -4.0], [1.0, 1.0]])], "l2").tolist()[0]
    5.0
    """
    check_choice("unit_strengths", "criterion", criterion, CRITERIA)
    joined = [row.detach().double() for row in rows]
    if criterion == "geometric_median":
        return _summed_distances(joined)
    magnitudes = [row.abs() for row in joined]
    if criterion == "max":
        return torch.stack([row.amax(1) for row in magnitudes]).amax(0)
    power = 2 if criterion == "l2" else 1
    total = torch.stack([row.pow(power).sum(1) for row in magnitudes]).sum(0)
    if criterion == "l2":
        return total.sqrt()
    return total / sum(row.shape[1] for row in magnitudes) if criterion == "mean" else total


def _summed_distances(rows: Sequence[Tensor]) -> Tensor:
    values = torch.cat(list(rows), 1)
    values = values - values.mean(0)  # distances stay, and products of smaller numbers lose fewer digits
    exact = values.shape[0] * values.numel() <= _EXACT
    mode = "donot_use_mm_for_euclid_dist" if exact else "use_mm_for_euclid_dist"
    return torch.cdist(values, values, compute_mode=mode).sum(1)
