"""What a sample says about the population: confidence bounds for proportions, paired drops, means and quantiles.

Each evidence gives an interval whose two ends hold *one-sided* at the confidence asked for: "the value is at
most `high`" is wrong in a share 1 − confidence of samples or fewer, and so is "at least `low`". Means without known
limits have no evidence: no bound holds for them at the sample sizes of a gate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.lazy import LazyModule
from cp_compress.base.showing.brief import Brief
from cp_compress.fidelity.judging.mean_tests import falling_crossing, hoeffding_bentkus, hoeffding_bentkus_log_p
from cp_compress.fidelity.judging.paired_tests import p_value, score, upper_limit

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = LazyModule("scipy.stats")

FloatArray = npt.NDArray[np.float64]


@explains_keywords
@dataclass(frozen=True)
class Interval:
    """The lower and the upper confidence bound of a metric; infinite where the sample bounds nothing."""

    low: float
    high: float


class Evidence(Protocol):
    """The sample behind a metric."""

    @property
    def count(self) -> int:
        """The number of examples in the sample."""

    def interval(self, confidence: float) -> Interval:
        """Return the one-sided bounds at `confidence`, a number in (0, 1)."""

    def scaled(self, factor: float) -> Evidence:
        """Return the evidence that `factor` times as many examples of the same kind would give."""


class TestedEvidence(Evidence, Protocol):
    """Evidence that also gives p-values for any bound, by the tests that its interval inverts."""

    @property
    def value(self) -> float:
        """The value on the sample."""

    def scaled(self, factor: float) -> TestedEvidence:
        """Return the evidence that `factor` times as many examples of the same kind would give."""

    def p_values(self, bound: float, confidence: float = 0.95) -> tuple[float, float]:
        """Return the p-values of the sample if the true value were `bound` or more, and if it were `bound` or less.

        They are valid at every error. Where samples can be ordered in several ways, it is as at `confidence`, so that
        they agree with the interval at that confidence.
        """


@dataclass(frozen=True)
class Proportion:
    """`successes` of `total` examples: exact binomial bounds (Clopper and Pearson 1934).

    >>> Proportion(0, 100).interval(0.95).high  # the "rule of three"
    0.0295...
    """

    successes: float
    total: float

    @property
    def count(self) -> int:
        """The number of examples in the sample."""
        return round(self.total)

    def interval(self, confidence: float) -> Interval:
        """Return the exact one-sided bounds at `confidence`."""
        failures = self.total - self.successes
        error = 1 - confidence
        low = float(stats.beta.ppf(error, self.successes, failures + 1)) if self.successes > 0 else 0.0
        high = float(stats.beta.ppf(confidence, self.successes + 1, failures)) if failures > 0 else 1.0
        return Interval(low, high)

    def scaled(self, factor: float) -> Proportion:
        """Return the same proportion of `factor` times as many examples."""
        return Proportion(self.successes * factor, self.total * factor)

    @property
    def value(self) -> float:
        """The share of successes."""
        return self.successes / self.total

    def p_values(self, bound: float, confidence: float = 0.95) -> tuple[float, float]:
        """Return the p-values of the exact binomial test, if the true share were `bound` or more, and or less."""
        more = stats.binom.cdf(self.successes, self.total, bound)
        return float(more), float(stats.binom.sf(self.successes - 1, self.total, bound))


@dataclass(frozen=True, repr=False)
class PairedDrop(Brief):
    """`lost` and `gained` of `total` paired examples, for the drop (lost − gained) / total.

    The bounds invert an exact unconditional test (`paired_tests`): a drop that is at the bound is called less, or more,
    no more often than the error allows, whatever the number of pairs and the share of pairs that change.
    """

    lost: float
    gained: float
    total: float

    def __post_init__(self) -> None:
        counts = (self.lost, self.gained, self.total)
        if any(count != int(count) or count < 0 for count in counts) or not 0 < self.total >= self.lost + self.gained:
            rule = "must be whole numbers of 0 or more, of pairs of which there is one at least"
            reject("PairedDrop", "lost, gained, total", counts, rule)

    @property
    def count(self) -> int:
        """The number of examples in the sample."""
        return int(self.total)

    def interval(self, confidence: float) -> Interval:
        """Return the one-sided exact bounds of the drop at `confidence`."""
        lost, gained, total = int(self.lost), int(self.gained), int(self.total)
        low = -upper_limit(gained, lost, total, confidence)
        high = upper_limit(lost, gained, total, confidence)
        return Interval(min(low, self.value), max(high, self.value))

    def scaled(self, factor: float) -> ExpectedDrop:
        """Return what `factor` times as many pairs of the same shares would give, with approximate bounds."""
        return ExpectedDrop(self.lost * factor, self.gained * factor, self.total * factor)

    @property
    def value(self) -> float:
        """The drop on the sample."""
        return (self.lost - self.gained) / self.total

    def p_values(self, bound: float, confidence: float = 0.95) -> tuple[float, float]:
        """Return the p-values of the exact test, if the true drop were `bound` or more, and or less."""
        lost, gained, total = int(self.lost), int(self.gained), int(self.total)
        more, less = p_value(lost, gained, total, bound, confidence), p_value(gained, lost, total, -bound, confidence)
        return more, less


@dataclass(frozen=True, repr=False)
class ExpectedDrop(Brief):
    """The drop that a larger sample would show: numbers of pairs that need not be whole, and quick approximate bounds.

    It says how many examples a claim would need, and is evidence for none.
    """

    lost: float
    gained: float
    total: float

    @property
    def count(self) -> int:
        """The number of examples in the sample."""
        return round(self.total)

    @property
    def value(self) -> float:
        """The drop."""
        return (self.lost - self.gained) / self.total

    def interval(self, confidence: float) -> Interval:
        """Return one-sided bounds of the drop at `confidence`, by the approximate test of `paired_tests.score`."""
        quantile, estimate = float(stats.norm.ppf(confidence)), self.value
        sample = (self.lost, self.gained, self.total)
        return Interval(
            falling_crossing(lambda drop: score(*sample, drop) - quantile, -1.0, estimate),
            falling_crossing(lambda drop: score(*sample, drop) + quantile, estimate, 1.0),
        )

    def p_values(self, bound: float, confidence: float = 0.95) -> tuple[float, float]:
        """Return the approximate p-values, if the true drop were `bound` or more, and or less."""
        found = score(self.lost, self.gained, self.total, bound) / math.sqrt(2)
        return math.erfc(-found) / 2, math.erfc(found) / 2

    def scaled(self, factor: float) -> ExpectedDrop:
        """Return the same shares of `factor` times as many pairs."""
        return ExpectedDrop(self.lost * factor, self.gained * factor, self.total * factor)


@dataclass(frozen=True, eq=False, repr=False)
class BoundedMean(Brief):
    """The mean of values that cannot leave [`low`, `high`].

    Each end is the better of two bounds that hold for every distribution and sample size, at half the error
    each: Hoeffding–Bentkus (Bates et al. 2021, "Distribution-free, risk-controlling prediction sets",
    Theorem 4), tight near the ends of the range, and empirical Bernstein (Maurer and Pontil 2009, Theorem 4),
    tight for small variance.
    """

    mean: float
    variance: float
    size: float
    low: float = 0.0
    high: float = 1.0

    @classmethod
    def of(cls, values: FloatArray, low: float = 0.0, high: float = 1.0) -> BoundedMean:
        """Summarise values (n,)."""
        variance = float(values.var(ddof=1)) if len(values) > 1 else math.nan
        return cls(float(values.mean()), variance, len(values), low, high)

    @property
    def count(self) -> int:
        """The number of examples in the sample."""
        return round(self.size)

    @property
    def standard_error(self) -> float:
        """The standard error of the mean; NaN of a single value."""
        return math.sqrt(self.variance / self.size)

    def interval(self, confidence: float) -> Interval:
        """Return the one-sided bounds of the mean at `confidence`."""
        width = self.high - self.low
        if width <= 0:
            return Interval(self.low, self.high)
        share = min(1.0, max(0.0, (self.mean - self.low) / width))
        error = (1 - confidence) / 2
        margin = self._bernstein_margin(error, width)
        high = min(hoeffding_bentkus(share, self.size, error), share + margin, 1.0)
        low = max(1 - hoeffding_bentkus(1 - share, self.size, error), share - margin, 0.0)
        return Interval(self.low + width * low, self.low + width * high)

    def _bernstein_margin(self, error: float, width: float) -> float:
        if not self.size > 1:
            return math.inf
        logarithm = math.log(2 / error)
        variance = self.variance / width**2
        return math.sqrt(2 * variance * logarithm / self.size) + 7 * logarithm / (3 * (self.size - 1))

    def scaled(self, factor: float) -> BoundedMean:
        """Return the same mean and variance of `factor` times as many examples."""
        return dataclasses.replace(self, size=self.size * factor)

    @property
    def value(self) -> float:
        """The mean of the sample."""
        return self.mean

    def p_values(self, bound: float, confidence: float = 0.95) -> tuple[float, float]:
        """Return the p-values of the sample if the true mean were `bound` or more, and if it were `bound` or less."""
        mirrored = dataclasses.replace(self, mean=-self.mean, low=-self.high, high=-self.low)
        return self._p_value_of_more(bound), mirrored._p_value_of_more(-bound)

    def _p_value_of_more(self, bound: float) -> float:
        """Return the smallest error at which the interval's upper end is at most `bound`, 1 at most."""
        width = self.high - self.low
        if bound >= self.high:
            return 0.0
        share, true = (min(1.0, max(0.0, (value - self.low) / width)) for value in (self.mean, bound))
        if share >= true:
            return 1.0
        smallest = math.exp(hoeffding_bentkus_log_p(share, self.size, true))
        if self.size > 1:  # the margin of `_bernstein_margin` is a quadratic in the root of its logarithm
            slope, square = math.sqrt(2 * self.variance / self.size) / width, 7 / (3 * (self.size - 1))
            root = (math.sqrt(slope**2 + 4 * square * (true - share)) - slope) / (2 * square)
            smallest = min(smallest, 2 * math.exp(-(root**2)))
        return min(1.0, 2 * smallest)  # each of the two bounds has half of the error


@dataclass(frozen=True, eq=False, repr=False)
class Quantile(Brief):
    """A quantile of a sample: distribution-free bounds from order statistics (exact binomial)."""

    values: FloatArray
    level: float
    repeats: float = 1.0

    @property
    def count(self) -> int:
        """The number of examples in the sample."""
        return round(len(self.values) * self.repeats)

    def interval(self, confidence: float) -> Interval:
        """Return the one-sided bounds of the quantile at `confidence`; infinite where the sample is too small."""
        ordered = np.sort(self.values)
        size = self.count
        below = int(stats.binom.ppf(1 - confidence, size, self.level))
        above = int(stats.binom.ppf(confidence, size, self.level)) + 1
        # X_(k) lies below the quantile with probability P(Bin(n, q) >= k)
        low = self._order_statistic(ordered, below) if below >= 1 else -math.inf
        high = self._order_statistic(ordered, above) if above <= size else math.inf
        return Interval(low, high)

    def _order_statistic(self, ordered: FloatArray, position: int) -> float:
        return float(ordered[min(len(ordered) - 1, math.ceil(position / self.repeats) - 1)])

    def scaled(self, factor: float) -> Quantile:
        """Return the same values, each `factor` times as often."""
        return dataclasses.replace(self, repeats=self.repeats * factor)


def examples_needed(evidence: Evidence, decides: Callable[[Interval], bool], confidence: float) -> int | None:
    """Return how many more examples of the same kind would let `decides` say yes, or None if a million-fold would not.

    The estimate holds the observed rates fixed.

    >>> examples_needed(Proportion(99, 100), lambda interval: interval.low >= 0.97, 0.95)
    116
    """
    few, many = 1.0, 2.0
    while not decides(evidence.scaled(many).interval(confidence)):
        few, many = many, many * 2
        if many > 2**20:
            return None
    while (many - few) * evidence.count > 1:
        middle = (few + many) / 2
        if decides(evidence.scaled(middle).interval(confidence)):
            many = middle
        else:
            few = middle
    return max(1, math.ceil((many - 1) * evidence.count))
