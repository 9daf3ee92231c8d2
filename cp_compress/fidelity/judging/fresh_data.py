"""What a sample says about fresh data of as many examples: where chance puts its value, and what breaks a bound."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cp_compress.base.lazy import LazyModule
from cp_compress.fidelity.judging.detection import POWER, share_beyond
from cp_compress.fidelity.judging.groups import LargestDrop, SmallestShare
from cp_compress.fidelity.judging.intervals import BoundedMean, Evidence, PairedDrop, Proportion
from cp_compress.fidelity.judging.metric import Direction
from cp_compress.fidelity.judging.units import ClusteredMean

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = LazyModule("scipy.stats")


def fresh_limit(evidence: Evidence, direction: Direction, error: float) -> float:
    """Return a limit that the value on fresh data of as many examples exceeds with a probability of `error` or less.

    A value that a sample has by chance and one that fresh data has by chance differ by the root of two times as much as
    either from the truth: the limit is the confidence bound at the normal quantile that is larger by this factor. Of
    the largest of paired drops, such as of classes, it is the largest binomial quantile at the upper bound of the share
    of losses among all examples: the classes are taken to lose as often as each other.
    """
    if isinstance(evidence, LargestDrop) and all(isinstance(drop, PairedDrop) for drop in evidence.drops):
        drops = [drop for drop in evidence.drops if isinstance(drop, PairedDrop)]
        lost, total = sum(drop.lost for drop in drops), sum(drop.total for drop in drops)
        share = Proportion(lost, total).interval(1 - error / 2).high
        level = 1 - error / 2 / len(drops)
        return max(float(stats.binom.ppf(level, int(size), share)) / size for size in {drop.total for drop in drops})
    groups = evidence.drops if isinstance(evidence, LargestDrop) else ()
    groups = evidence.shares if isinstance(evidence, SmallestShare) else groups
    quantile = math.sqrt(2) * float(stats.norm.isf(error / max(1, len(groups))))
    interval = evidence.interval(float(stats.norm.cdf(quantile)))
    return interval.low if direction == "min" else interval.high


def broken_by(evidence: Evidence, direction: Direction, bound: float) -> float | None:
    """Return the true value that breaks a bound on `POWER` of such data sets, or None where it is not known.

    It is exact for proportions, and by the normal approximation for drops and means. Of the worst of several groups it
    is that of one of middle size.
    """
    if isinstance(evidence, (LargestDrop, SmallestShare)):
        groups = evidence.drops if isinstance(evidence, LargestDrop) else evidence.shares
        ordered = sorted(groups, key=lambda group: group.count)
        return broken_by(ordered[len(ordered) // 2], direction, bound)
    if isinstance(evidence, Proportion):
        limit = 1 - bound if direction == "min" else bound
        share = _broken_share(round(evidence.total), limit)
        return 1 - share if direction == "min" else share
    away = float(stats.norm.ppf(POWER))
    if isinstance(evidence, PairedDrop):
        total, gained = evidence.total, evidence.gained / evidence.total
        drop = bound + 1 / total
        for _ in range(20):  # the spread is that of the drop itself
            drop = bound + 1 / total + away * math.sqrt(max(0.0, 2 * gained + drop - drop**2) / total)
        return min(1.0, max(drop, _broken_share(int(total), bound) if gained == 0 else drop))
    if isinstance(evidence, (BoundedMean, ClusteredMean)) and math.isfinite(evidence.standard_error):
        moved = away * evidence.standard_error
        return bound - moved if direction == "min" else bound + moved
    return None


def _broken_share(total: int, limit: float) -> float:
    """Return the share of errors at which `POWER` of samples have more errors than the limit allows."""
    return share_beyond(math.floor(total * limit + 1e-9), total)
