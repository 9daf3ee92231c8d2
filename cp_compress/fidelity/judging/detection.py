"""What a claim that passed would have found: the minimum detectable effect of a sample like this one.

A claim passes where its bound is proven. The minimum detectable effect is the true value at which it would not have
passed in `POWER` of the samples: of as many examples, with the same share of gains or spread.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cp_compress.base.lazy import LazyModule
from cp_compress.fidelity.judging.groups import LargestDrop, SmallestShare
from cp_compress.fidelity.judging.intervals import BoundedMean, Evidence, Interval, PairedDrop, Proportion
from cp_compress.fidelity.judging.metric import Direction
from cp_compress.fidelity.judging.paired_tests import detectable_drop
from cp_compress.fidelity.judging.units import ClusteredMean

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = LazyModule("scipy.stats")

POWER = 0.8
_GROUPS = 8


def detectable(evidence: Evidence, direction: Direction, bound: float, confidence: float, value: float) -> float | None:
    """Return the true value that would have been found in `POWER` of the samples, or None where it is not known.

    It is exact for proportions and paired drops, and by the normal approximation for means and quantiles. Of a claim
    about the worst of several groups it is that of the largest groups, which are proven most closely.

    Args:
        evidence: The sample from which the claim was proven.
        direction: The side on which the metric is kept, "min" or "max".
        bound: The bound that was proven.
        confidence: The confidence at which it was.
        value: The value of the metric on the sample.

    >>> round(detectable(Proportion(500, 500), "min", 0.99, 0.95, 1.0), 4)
    0.994
    """
    if isinstance(evidence, (LargestDrop, SmallestShare)):
        samples = evidence.drops if isinstance(evidence, LargestDrop) else evidence.shares
        largest = sorted(samples, key=lambda sample: -sample.count)[:_GROUPS]
        found = [detectable(sample, direction, bound, confidence, sample.value) for sample in largest]
        known = [one for one in found if one is not None]
        return (min(known) if direction == "min" else max(known)) if known else None
    if isinstance(evidence, PairedDrop) and direction == "max":
        lost, gained, total = int(evidence.lost), int(evidence.gained), int(evidence.total)
        return detectable_drop(lost, gained, total, bound, confidence, POWER)
    if isinstance(evidence, Proportion):
        return _share(evidence, direction, bound, confidence)
    return _shifted(evidence, direction, bound, confidence, value)


def _share(evidence: Proportion, direction: Direction, bound: float, confidence: float) -> float:
    total = round(evidence.total)
    errors = round(total - evidence.successes if direction == "min" else evidence.successes)
    limit = 1 - bound if direction == "min" else bound
    most, beyond = errors, total + 1  # the most errors with which the claim still passes
    while beyond - most > 1:
        middle = (most + beyond) // 2
        if middle <= total and stats.binom.cdf(middle, total, limit) <= 1 - confidence:
            most = middle
        else:
            beyond = middle
    share = share_beyond(most, total)
    return 1 - share if direction == "min" else share


def share_beyond(most: int, total: int) -> float:
    """Return the share of errors at which `POWER` of samples of `total` examples have more than `most` errors."""
    return float(stats.beta.ppf(POWER, most + 1, total - most)) if 0 <= most < total else 1.0


def _shifted(evidence: Evidence, direction: Direction, bound: float, confidence: float, value: float) -> float | None:
    """Return the true value from which a sample falls, in `POWER` of cases, below the least value that passes."""
    interval = evidence.interval(confidence)
    slack = interval.low - bound if direction == "min" else bound - interval.high
    spread = _standard_error(evidence, interval, confidence)
    if not (math.isfinite(slack) and math.isfinite(spread)):
        return None
    away = slack + float(stats.norm.ppf(POWER)) * spread
    return max(bound, value - away) if direction == "min" else min(bound, value + away)


def _standard_error(evidence: Evidence, interval: Interval, confidence: float) -> float:
    if isinstance(evidence, (ClusteredMean, BoundedMean)) and evidence.standard_error > 0:
        return evidence.standard_error
    return (interval.high - interval.low) / (2 * max(0.5, float(stats.norm.ppf(confidence))))
