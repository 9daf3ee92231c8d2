"""Tests of the difference of two proportions on the same examples that keep their error at every sample size.

Of n pairs, a are lost (right before, wrong after) and c are gained. Samples are ordered by the limit of Bonett and
Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data", and the
p-value of "the drop is d or more" is the largest probability, over all shares of gains that the sample does not
exclude, of a sample that is no higher in this order (an exact unconditional test; the limits are those of Buehler 1957,
"Confidence intervals for the product of two binomial parameters"; the restriction of the shares is that of Berger and
Boos 1994, "P values maximized over a confidence set for the nuisance parameter").
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cp_compress.base.lazy import LazyModule

if TYPE_CHECKING:
    from scipy import special
else:
    special = LazyModule("scipy.special")

FloatArray = npt.NDArray[np.float64]

_QUANTILES = (0.5, 3.5)
_EXCLUDED = 1e-8  # the error of leaving out shares of gains that the sample excludes; it is added
_LEFT_OUT = 1e-10  # the probability of numbers of gains that are not summed over; it is added
_REACH = math.sqrt(2 * math.log(2 / _LEFT_OUT))
_SHARES = 41
_SHARES_OF_MANY = 21  # of many gains, whose single ones the probability does not follow
_FEW_SHARES = 9
_PRECISION = 1e-6
_MANY, _MANY_LOST = 20_000, 1_000  # from here on a bound that is one half of a loss too high changes little


@dataclass(frozen=True, eq=False)
class _Region:
    """The samples that are no higher in the order than one that was seen: `most[c]` losses or fewer with c gains."""

    most: FloatArray
    total: int

    def probability(self, drop: float, shares: FloatArray) -> FloatArray:
        """Return the probability (k,) of these samples if the true drop is `drop` and the shares of gains (k,)."""
        centre = self.total * shares
        reach = np.asarray(_reach(centre))
        first = np.maximum(0.0, np.floor(centre - reach))
        width = int(min(self.total, np.ceil(2 * reach.max()) + 1)) + 1
        ahead: FloatArray = first[:, None] + np.arange(width)
        inside = ahead <= self.total
        gains: FloatArray = np.minimum(ahead, float(self.total))
        most, rest = self.most[gains.astype(np.int64)], self.total - gains
        share = shares[:, None]
        lost_share = np.clip((share + drop) / np.maximum(1 - share, 1e-300), 0.0, 1.0)
        below = self._at_most(np.maximum(most, 0.0), rest, np.broadcast_to(lost_share, rest.shape))
        below = np.where(most < 0, 0.0, np.where(most >= rest, 1.0, below))
        terms = np.where(inside, _binomial(gains, self.total, share) * below, 0.0)
        found: FloatArray = np.minimum(1.0, terms.sum(axis=1) + _LEFT_OUT)
        return found

    def _at_most(self, most: FloatArray, total: FloatArray, share: FloatArray) -> FloatArray:
        """Return binomial probabilities of `most` or fewer; of large numbers a bound above them, which is quicker.

        The bound is that of Zubkov and Serov 2013, "A complete proof of universal inequalities for the distribution
        function of the binomial law": it lies below the probability of one more.
        """
        if self.total < _MANY or most.min() < _MANY_LOST:
            exact: FloatArray = np.asarray(special.bdtr(most, total.astype(np.int64), share), dtype=np.float64)
            return exact
        some = np.maximum(total, 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            excess = np.minimum(1.0, (most + 1) / some) - share
            deviance = special.xlog1py(share + excess, excess / share)
            deviance = deviance + special.xlog1py(1 - share - excess, -excess / (1 - share))
        bound: FloatArray = special.ndtr(np.sign(excess) * np.sqrt(2 * some * np.maximum(deviance, 0.0)))
        # shares of 0 and 1 leave nothing to chance
        certain: FloatArray = np.where(share <= 0, 1.0, np.where(most >= total, 1.0, 0.0))
        return np.where((share <= 0) | (share >= 1), certain, bound)


def order(lost: FloatArray | float, gained: FloatArray | float, total: int, quantile: float) -> FloatArray:
    """Return the upper limit, at a normal quantile, by which samples are ordered."""
    size = total + 2
    up, down = (np.asarray(lost) + 1) / size, (np.asarray(gained) + 1) / size
    drop = up - down
    limit: FloatArray = drop + quantile * np.sqrt((up + down - drop**2) / size)
    return limit


def _region(lost: int, gained: int, total: int, quantile: float, *, whole: bool = False) -> _Region:
    """Return the region of a sample, made such that fewer losses or more gains never lead out of it.

    Because of that its probability is largest where the true drop is smallest. Unless it is to be `whole`, it is known
    up to the numbers of gains that are likely with any share which the sample does not exclude.
    """
    limit, size = float(order(lost, gained, total, quantile)), total + 2
    highest = _shares_of_gains(gained, total)[1] * total
    reach = float(_reach(highest))
    furthest = total if whole else min(total, math.ceil(max(highest + reach, 2 * reach)) + 3)
    gains = np.arange(furthest + 1, dtype=np.float64)
    square = quantile**2 / size
    down = (gains + 1) / size
    # where the limit, as a function of the drop, first crosses that of the sample: a quadratic
    half = 2 * limit + square
    discriminant = half**2 - 4 * (1 + square) * (limit**2 - 2 * square * down)
    drop = (half - np.sqrt(np.maximum(discriminant, 0.0))) / (2 * (1 + square))
    most = np.floor((drop + down) * size - 1 + 1e-7)
    uncrossed = -1.0 if limit < 0.5 else float(total)
    most = np.minimum(np.maximum(np.where(discriminant < 0, uncrossed, most), -1.0), total - gains)
    if most[gained] < lost:  # beyond the crossing, where nearly every pair is lost: such a sample proves nothing
        most = total - gains
    return _Region(np.maximum.accumulate(most), total)


def _reach(centre: FloatArray | float) -> FloatArray | float:
    """Return how far from its mean a binomial number lies with the probability left out (Bernstein's inequality)."""
    reach: FloatArray | float = _REACH * np.sqrt(centre + _REACH**2 / 36) + _REACH**2 / 6
    return reach


def _shares_of_gains(gained: int, total: int) -> tuple[float, float]:
    """Return the shares of gains between which a sample excludes none."""
    low = float(special.betaincinv(gained, total - gained + 1, _EXCLUDED / 2)) if gained > 0 else 0.0
    high = float(special.betaincinv(gained + 1, total - gained, 1 - _EXCLUDED / 2)) if gained < total else 1.0
    return low, high


def _quantile(confidence: float) -> float:
    """Return the quantile of the order that is used at a confidence, which every order would be valid at."""
    low, high = _QUANTILES
    return min(high, max(low, float(special.ndtri(confidence))))


@functools.lru_cache(maxsize=8192)
def p_value(lost: int, gained: int, total: int, drop: float, confidence: float) -> float:
    """Return the p-value of a sample if the true drop were `drop` or more, by the order of a confidence."""
    return _p_value(_region(lost, gained, total, _quantile(confidence)), gained, drop)


def _p_value(region: _Region, gained: int, drop: float, count: int | None = None) -> float:
    total = region.total
    count = (_SHARES if gained < 100 else _SHARES_OF_MANY) if count is None else count
    low, high = _shares_of_gains(gained, total)
    high = min(high, (1 - drop) / 2)
    if low > high:
        return _EXCLUDED
    # shares below -drop have larger drops; without losses the probability grows with the share
    low = max(low, min(-drop, high))
    shares = np.linspace(math.sqrt(low), math.sqrt(high), count) ** 2
    found = region.probability(drop, np.clip(shares, low, high))
    # parabolas through neighbours exceed them by an eighth of the second difference at most: the whole of it is added
    bend = np.abs(np.diff(found, 2))
    bend = np.concatenate([bend[:1], bend, bend[-1:]])
    return min(1.0, float((found + bend).max()) + _EXCLUDED)


@functools.lru_cache(maxsize=8192)
def upper_limit(lost: int, gained: int, total: int, confidence: float) -> float:
    """Return the smallest drop such that it and every larger one has a p-value of 1 − confidence or less."""
    region, error = _region(lost, gained, total, _quantile(confidence)), 1 - confidence
    estimate = (lost - gained) / total

    def excess(drop: float, count: int | None = None) -> float:
        return math.log(_p_value(region, gained, drop, count) / error)

    step = float(order(lost, gained, total, 2.0) - order(lost, gained, total, 0.0))
    rough = _falling_crossing(lambda drop: excess(drop, _FEW_SHARES), estimate, step, step / 1000)
    return _falling_crossing(excess, rough, step / 200, step * _PRECISION)


@functools.lru_cache(maxsize=1024)
def detectable_drop(lost: int, gained: int, total: int, bound: float, confidence: float, power: float) -> float:
    """Return the true drop at which `power` of samples with this share of gains do not prove a drop of `bound` at most.

    `lost`, `gained` and `total` are those of a sample that proves it.
    """
    share, most = gained / total, lost
    beyond = min(total - gained, lost + math.ceil(total * max(0.0, bound - (lost - gained) / total))) + 1
    while beyond - most > 1:
        middle = (most + beyond) // 2
        if p_value(middle, gained, total, bound, confidence) <= 1 - confidence:
            most = middle
        else:
            beyond = middle
    # the samples that prove the bound are, but for single ones, those up to the last one in the order
    region = _region(most, gained, total, _quantile(confidence), whole=True)

    def excess(drop: float) -> float:
        within = min(share, max(0.0, (1 - drop) / 2))
        return float(region.probability(drop, np.array([max(within, -drop)]))[0]) - (1 - power)

    estimate = (lost - gained) / total
    return _falling_crossing(excess, max(estimate, -share), 1 / total + abs(bound - estimate) / 2, 1e-6)


def _falling_crossing(function: Callable[[float], float], start: float, step: float, precision: float) -> float:
    """Return a point where a falling function is 0 or less, at most `precision` above where it becomes so.

    It lies in [-1, 1], or is 1. The search begins at `start`; regula falsi with the weights of Illinois.
    """
    low = high = min(1.0, max(-1.0, start))
    at_low = at_high = function(start)
    while at_high > 0:
        if high >= 1:
            return 1.0
        low, at_low = high, at_high
        high = min(1.0, high + step)
        at_high, step = function(high), step * 2
    while at_low <= 0:
        if low <= -1:
            return -1.0
        high, at_high = low, at_low
        low = max(-1.0, low - step)
        at_low, step = function(low), step * 2
    side = 0
    while high - low > precision:
        middle = (low * at_high - high * at_low) / (at_high - at_low)
        middle = min(max(middle, low + precision / 3), high - precision / 3)
        value = function(middle)
        if value > 0:
            low, at_low = middle, value
            at_high, side = at_high / 2 if side == 1 else at_high, 1
        else:
            high, at_high = middle, value
            at_low, side = at_low / 2 if side == -1 else at_low, -1
    return high


def _binomial(count: FloatArray, total: float, share: FloatArray) -> FloatArray:
    """Return binomial probabilities."""
    with np.errstate(divide="ignore"):
        logarithm = (
            special.gammaln(total + 1)
            - special.gammaln(count + 1)
            - special.gammaln(total - count + 1)
            + special.xlogy(count, share)
            + special.xlog1py(total - count, -share)
        )
    found: FloatArray = np.exp(logarithm)
    return found


def score(lost: float, gained: float, total: float, drop: float) -> float:
    """Return how far a sample lies from a true drop: about standard normal if it is that, large if it is more.

    It is the smaller of the score of Tango 1998, "Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design", and the signed root of the likelihood ratio: an approximation that is
    quick at any, also fractional, counts and exceeds the stated error by up to two fifths at 95 % confidence.
    """
    numerator = lost - gained - total * drop
    if numerator == 0:
        return 0.0
    linear = (2 * total - lost + gained) * drop - lost - gained
    constant = -gained * drop * (1 - drop)
    root = math.sqrt(max(0.0, linear * linear - 8 * total * constant))
    gained_share = (root - linear) / (4 * total)
    variance = total * max(0.0, 2 * gained_share + drop * (1 - drop))
    tango = abs(numerator) / math.sqrt(variance) if variance > 0 else math.inf
    seen = (lost, gained, total - lost - gained)
    expected = (gained_share + drop, gained_share, 1 - drop - 2 * gained_share)
    return math.copysign(min(tango, _likelihood_root(seen, expected, total)), numerator)


def _likelihood_root(seen: tuple[float, ...], expected: tuple[float, ...], total: float) -> float:
    deviance = 0.0
    for count, share in zip(seen, expected, strict=True):
        if count > 0:
            deviance += count * math.log(count / (total * share)) if share > 0 else math.inf
    return math.sqrt(max(0.0, 2 * deviance))
