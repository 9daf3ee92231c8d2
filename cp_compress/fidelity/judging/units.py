"""What is independent: examples, or clusters of them; and what a sample of clusters says about the population."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cp_compress.base.showing.brief import Brief
from cp_compress.fidelity.judging.intervals import BoundedMean, FloatArray, Interval, PairedDrop, Proportion

_BETS = 2.0 ** -np.arange(10)
_SHARES = (lambda places: 1 / ((places + 1) * (places + 2)) * 11 / 10)(np.arange(10))
"""How much is put on each bet: most on the largest, which few clusters or rare changes need."""


_RARE = 0.05
"""The share of the population from which on a kind of cluster must have been seen where sizes are found."""


@dataclass(frozen=True)
class FoundSizes:
    """That the sizes of clusters are found in the sample, so that larger ones may be missing from it.

    No bound holds for a population of which a rare part holds most examples and was not seen. So a claim is about
    clusters that are no larger than those that were seen, and is made of so many that a kind of cluster that is one in
    twenty or more is hardly ever missing.

    Attributes:
        clusters: What the clusters are, such as "images".
        examples: What they hold, such as "objects".
    """

    clusters: str
    examples: str

    def fewest(self, confidence: float) -> int:
        """Return how many clusters a claim needs: a rare kind is missing from them with half of the error.

        >>> FoundSizes("images", "objects").fewest(0.95)
        72
        """
        return math.ceil(math.log((1 - confidence) / 2) / math.log(1 - _RARE))

    def note(self, confidence: float, count: int, largest: float) -> str:
        """Return what a claim from so many clusters, of which the largest has so many examples, is about."""
        told = f"a claim at {confidence:.4g} about {self.examples} of {self.clusters} of unequal sizes"
        needed = self.fewest(confidence)
        if count < needed:
            return (
                f"{told} needs {needed} {self.clusters}: among {count}, a kind that is one in twenty may be missing, "
                f"and with it most {self.examples}"
            )
        missing = -math.expm1(math.log(1 - confidence) / count)
        return (
            f"{told} is about those with up to {largest:.0f} {self.examples}; at this confidence, {missing:.1%} or "
            "fewer have more"
        )


@dataclass(frozen=True, eq=False, repr=False)
class ClusteredMean(Brief):
    """The mean over examples of values in [`low`, `high`], where only clusters of examples are independent.

    `means` (k,) are those of the clusters and `sizes` (k,) their numbers of examples. The bounds hold for every number
    of clusters, whatever the dependence within a cluster and the sizes, which are taken as given: they invert the test
    that a gambler who bets on each cluster with its share of the largest one multiplies a stake by more than 1 / error
    (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting", with a fixed mixture of
    constant bets, so that the order of the clusters does not matter). Sizes that are `found` need so many clusters as
    `FoundSizes` says; fewer bound nothing.
    """

    means: FloatArray
    sizes: FloatArray
    low: float = 0.0
    high: float = 1.0
    repeats: float = 1.0
    found: FoundSizes | None = None

    @property
    def count(self) -> int:
        """The number of clusters."""
        return round(len(self.means) * self.repeats)

    @property
    def clusters(self) -> int:
        """The number of clusters, which is what tells this evidence from one of independent examples."""
        return self.count

    @property
    def value(self) -> float:
        """The mean over the examples."""
        return float((self.means * self.sizes).sum() / self.sizes.sum())

    @property
    def standard_error(self) -> float:
        """The standard error of the mean, by the spread of the clusters."""
        shares = self.sizes / self.sizes.sum()
        spread = float(((shares * (self.means - self.value)) ** 2).sum())
        return math.sqrt(spread * len(shares) / max(1, len(shares) - 1) / self.repeats)

    def interval(self, confidence: float) -> Interval:
        """Return the one-sided bounds of the mean at `confidence`."""
        if self._is_too_small(confidence):
            return Interval(self.low, self.high)
        error, mirrored = 1 - confidence, self._mirrored()
        return Interval(-mirrored._upper(error), self._upper(error))

    def scaled(self, factor: float) -> ClusteredMean:
        """Return the same means of `factor` times as many clusters."""
        return dataclasses.replace(self, repeats=self.repeats * factor)

    def p_values(self, bound: float, confidence: float = 0.95) -> tuple[float, float]:
        """Return the p-values of the sample if the true mean were `bound` or more, and if it were `bound` or less."""
        if self._is_too_small(confidence):
            return 1.0, 1.0
        return self._p_value_of_more(bound), self._mirrored()._p_value_of_more(-bound)

    def scope(self, confidence: float) -> str | None:
        """Return what a claim is about where sizes are found, or None."""
        return None if self.found is None else self.found.note(confidence, self.count, float(self.sizes.max()))

    def _is_too_small(self, confidence: float) -> bool:
        return self.found is not None and self.count < self.found.fewest(confidence)

    def _mirrored(self) -> ClusteredMean:
        return dataclasses.replace(self, means=-self.means, low=-self.high, high=-self.low)

    def _p_value_of_more(self, bound: float) -> float:
        if bound >= self.high:
            return 0.0
        with np.errstate(divide="ignore"):
            gains = self.sizes / self.sizes.max() * (bound - self.means) / (self.high - bound)
            stakes = np.log1p(np.maximum(-1.0, _BETS[:, None] * gains)).sum(axis=1) * self.repeats
        largest = float(stakes.max())
        if largest == -math.inf:
            return 1.0
        stake = largest + math.log(float((_SHARES * np.exp(stakes - largest)).sum()))
        return min(1.0, math.exp(-stake)) if stake > 0 else 1.0

    def _upper(self, error: float) -> float:
        """Return the smallest bound that is refuted as the true mean, the stake on which grows with it."""
        low, high = max(self.low, self.value), self.high
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if self._p_value_of_more(middle) <= error else (middle, high)
        return high


@dataclass(frozen=True, eq=False)
class ClusteredQuantile:
    """A quantile over examples of values (n,), where only the clusters (n,) that they belong to are independent.

    That the quantile is at most b is that a share `level` of the population or more is at most b, and that it is at
    least b that a share of `level` or less is below b: each end is the outermost value at which the test of
    `ClusteredMean` does not prove such a share. It is infinite where no value does.
    """

    values: FloatArray
    clusters: npt.NDArray[np.int64]
    sizes: FloatArray
    level: float
    repeats: float = 1.0
    found: FoundSizes | None = None

    @classmethod
    def of(cls, values: Tensor, units: Units, level: float) -> ClusteredQuantile:
        """Return the evidence of a quantile of values (n,)."""
        kept = torch.arange(len(values)) if units.clusters is None else units.clusters
        _, places, sizes = torch.unique(kept, return_inverse=True, return_counts=True)
        return cls(values.numpy(), places.numpy(), sizes.double().numpy(), level, found=units.found)

    @property
    def count(self) -> int:
        """The number of clusters."""
        return round(len(self.sizes) * self.repeats)

    def interval(self, confidence: float) -> Interval:
        """Return the one-sided bounds of the quantile at `confidence`."""
        ordered = np.unique(self.values)
        # where the share at most b is large enough for sure, and where the share below b is small enough
        above = _first(len(ordered), lambda place: self._share(ordered[place], below=False, confidence=confidence))
        below = _first(len(ordered), lambda place: not self._share(ordered[place], below=True, confidence=confidence))
        high = float(ordered[above]) if above < len(ordered) else math.inf
        return Interval(float(ordered[below - 1]) if below else -math.inf, high)

    def scaled(self, factor: float) -> ClusteredQuantile:
        """Return the same values of `factor` times as many clusters."""
        return dataclasses.replace(self, repeats=self.repeats * factor)

    def scope(self, confidence: float) -> str | None:
        """Return what a claim is about where sizes are found, or None."""
        return None if self.found is None else self.found.note(confidence, self.count, float(self.sizes.max()))

    def _share(self, bound: float, *, below: bool, confidence: float) -> bool:
        """Tell whether the share of values below `bound` is proven to be `level` at most, or of those up to it more."""
        holds = self.values < bound if below else self.values <= bound
        means = np.bincount(self.clusters, weights=holds, minlength=len(self.sizes)) / self.sizes
        sample = ClusteredMean(means, self.sizes, repeats=self.repeats, found=self.found)
        more, less = sample.p_values(self.level, confidence)
        return (more if below else less) <= 1 - confidence


def _first(count: int, holds: Callable[[int], bool]) -> int:
    """Return the first of `count` places at which something holds that holds at all later ones; `count` without any."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


Drop = PairedDrop | BoundedMean | ClusteredMean
Share = Proportion | BoundedMean | ClusteredMean


@dataclass(frozen=True, eq=False, repr=False)
class Units(Brief):
    """What evidence is made of: n examples, or the clusters (n,) that they belong to, whose sizes may be `found`."""

    clusters: Tensor | None = None
    found: FoundSizes | None = None

    def among(self, members: Tensor) -> Units:
        """Return the units of some of the examples, given by a mask (n,) or by indices."""
        return self if self.clusters is None else dataclasses.replace(self, clusters=self.clusters[members])

    def share(self, holds: Tensor) -> Share:
        """Return the evidence of a share: of the examples (n,), bool, of which something holds."""
        if self._apart(len(holds)):
            return Proportion(int(holds.sum()), len(holds))
        return self._clustered(holds.double(), 0.0, 1.0)

    def mean(self, values: Tensor, low: float = 0.0, high: float = 1.0) -> BoundedMean | ClusteredMean:
        """Return the evidence of the mean of values (n,) within limits."""
        if self._apart(len(values)):
            return BoundedMean.of(values.numpy(), low, high)
        return self._clustered(values, low, high)

    def drop(self, right_before: Tensor, right_after: Tensor) -> PairedDrop | ClusteredMean:
        """Return the evidence of the drop from what was right before (n,), bool, to what is right after."""
        if self._apart(len(right_before)):
            lost, gained = (right_before & ~right_after).sum(), (~right_before & right_after).sum()
            return PairedDrop(int(lost), int(gained), len(right_before))
        return self._clustered(right_before.double() - right_after.double(), -1.0, 1.0)

    def to_json(self) -> dict[str, int] | None:
        """Return how many clusters there are and their smallest and largest size; None for examples."""
        if self.clusters is None:
            return None
        sizes = torch.bincount(self.clusters)
        sizes = sizes[sizes > 0]
        return {"count": len(sizes), "smallest": int(sizes.min()), "largest": int(sizes.max())}

    def _apart(self, count: int) -> bool:
        return self.clusters is None or len(torch.unique(self.clusters)) == count

    def _clustered(self, values: Tensor, low: float, high: float) -> ClusteredMean:
        assert self.clusters is not None
        _, places, sizes = torch.unique(self.clusters, return_inverse=True, return_counts=True)
        sums = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, places, values.double())
        return ClusteredMean((sums / sizes).numpy(), sizes.double().numpy(), low, high, found=self.found)
