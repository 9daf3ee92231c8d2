"""Tests of the mean of values in [0, 1] that hold for every distribution and sample size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from cp_compress.base.lazy import LazyModule

if TYPE_CHECKING:
    from scipy import special
else:
    special = LazyModule("scipy.special")  # a hundredth of the time of a distribution of scipy.stats


def hoeffding_bentkus(mean: float, size: float, error: float) -> float:
    """Return the largest true mean in [0, 1] that a sample mean this small does not refute at `error`."""
    return falling_crossing(
        lambda true_mean: hoeffding_bentkus_log_p(mean, size, true_mean) - math.log(error), mean, 1.0
    )


def hoeffding_bentkus_log_p(mean: float, size: float, true_mean: float) -> float:
    """Return the logarithm of the p-value of a sample mean in [0, 1] this small if the true one is `true_mean`."""
    found, trials = math.ceil(size * mean - 1e-9), math.floor(size)
    tail = 1.0 if found >= trials else float(special.bdtr(found, trials, true_mean))  # bdtr is NaN beyond the trials
    bentkus = 1 + math.log(tail) if tail > 0 else -math.inf
    divergence = _bernoulli_divergence(min(mean, true_mean), true_mean)
    return min(bentkus, -size * divergence)


def _bernoulli_divergence(sample: float, true: float) -> float:
    if true >= 1:
        return math.inf if sample < 1 else 0.0
    first = sample * math.log(sample / true) if sample > 0 else 0.0
    second = (1 - sample) * math.log((1 - sample) / (1 - true)) if sample < 1 else 0.0
    return first + second


def falling_crossing(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a falling function crosses zero in [low, high], or the end beyond which it would."""
    if function(low) <= 0:
        return low
    if function(high) >= 0:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        if function(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
