"""Medians of distances, or of places, some of which are only known to be larger than what was looked at."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cp_compress.base.arguments import explains_keywords


@explains_keywords
def kaplan_meier_median(distances: Tensor, seen: Tensor) -> float:
    """Return the median by the product-limit estimate, NaN if the curve does not fall to one half.

    `distances` (n,), float64, are where an event was seen (`seen` true) or how far was searched without one. The median
    is the smallest distance at which the estimated fraction of rays without an event, Π (1 − events / at risk), is at
    most 1/2. Kaplan and Meier 1958, "Nonparametric estimation from incomplete observations".

    >>> kaplan_meier_median(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([True, False, True, True]))
    3.0
    """
    order = distances.argsort()
    values, events = distances[order], seen[order].double()
    times, where = torch.unique_consecutive(values, return_inverse=True)
    deaths = torch.zeros(len(times), dtype=torch.float64).index_add_(0, where, events)
    entries = torch.zeros(len(times), dtype=torch.float64).index_add_(0, where, torch.ones_like(events))
    at_risk = len(values) - (entries.cumsum(0) - entries)
    # sums of logarithms would round a curve that comes down to one half exactly
    surviving = (1 - deaths / at_risk.clamp_min(1)).cumprod(0)
    reached = ((surviving <= 0.5 + 1e-12) & (deaths > 0)).nonzero().flatten()
    return float(times[reached[0]]) if len(reached) else math.nan
