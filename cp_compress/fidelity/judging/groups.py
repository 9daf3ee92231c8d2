"""Claims about the worst of several groups, such as classes or slices, and about each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.json_values import plain
from cp_compress.base.showing.brief import Brief
from cp_compress.fidelity.judging.intervals import (
    Interval,
    TestedEvidence,
)

Verdict = Literal["proven", "refuted", "undecided"]


@explains_keywords
def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm 1979): each at most α with probability α, all together.

    Whatever their dependence, rejecting where the adjusted value is at most α makes any false rejection with
    probability at most α.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class GroupVerdict:
    """What is known about one group's bound: its value, count, both adjusted p-values, and what they say.

    `p_proven` is that of the data if the group broke its bound, `p_refuted` that if it held it, each adjusted by Holm's
    method over all groups.
    """

    group: str
    value: float
    count: int
    p_proven: float
    p_refuted: float
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain Python types."""
        found: dict[str, Any] = plain(vars(self))
        return found


@runtime_checkable
class GroupEvidence(Protocol):
    """Evidence that is made of groups, each with a claim of its own: that it lies on the `direction` side of the bound.

    A requirement in the other direction is about the worst group only and says nothing of each.
    """

    direction: ClassVar[Literal["min", "max"]]

    def verdicts(self, bound: float, confidence: float) -> tuple[GroupVerdict, ...]:
        """Return for each group whether its bound is proven or refuted at `confidence`, over all groups together."""


@dataclass(frozen=True, repr=False)
class LargestDrop(Brief):
    """The largest of several groups' drops, such as that of the worst class: paired drops, or means of drops.

    The upper bound needs no correction for the number of groups (it fails only where the truly worst group's
    own bound fails); the lower bound is corrected after Bonferroni, which for the largest of them is Holm's method.
    """

    direction: ClassVar[Literal["min", "max"]] = "max"
    drops: tuple[TestedEvidence, ...]
    names: tuple[str, ...]

    @property
    def count(self) -> int:
        """The number of examples over all groups."""
        return sum(drop.count for drop in self.drops)

    def interval(self, confidence: float) -> Interval:
        """Return the one-sided bounds of the largest drop at `confidence`."""
        low = _largest_low(self.drops, _corrected(confidence, len(self.drops)))
        return Interval(low, _largest_high(self.drops, confidence))

    def scaled(self, factor: float) -> LargestDrop:
        """Return the same drops of groups `factor` times as large."""
        return LargestDrop(tuple(drop.scaled(factor) for drop in self.drops), self.names)

    def verdicts(self, bound: float, confidence: float) -> tuple[GroupVerdict, ...]:
        """Return for each group whether its drop is at most `bound`, by the test that its own interval inverts."""
        tests = [drop.p_values(bound, _corrected(confidence, len(self.drops))) for drop in self.drops]
        return _verdicts(self.names, self.drops, [more for more, _ in tests], [less for _, less in tests], confidence)


@dataclass(frozen=True, repr=False)
class SmallestShare(Brief):
    """The smallest of several groups' proportions or mean shares; its bounds are corrected as `LargestDrop`'s."""

    direction: ClassVar[Literal["min", "max"]] = "min"
    shares: tuple[TestedEvidence, ...]
    names: tuple[str, ...]

    @property
    def count(self) -> int:
        """The number of examples over all groups."""
        return sum(share.count for share in self.shares)

    def interval(self, confidence: float) -> Interval:
        """Return the one-sided bounds of the smallest proportion at `confidence`."""
        corrected = _corrected(confidence, len(self.shares))
        high = min(share.interval(corrected).high for share in self.shares)
        return Interval(min(share.interval(confidence).low for share in self.shares), high)

    def scaled(self, factor: float) -> SmallestShare:
        """Return the same proportions of groups `factor` times as large."""
        return SmallestShare(tuple(share.scaled(factor) for share in self.shares), self.names)

    def verdicts(self, bound: float, confidence: float) -> tuple[GroupVerdict, ...]:
        """Return for each group whether its share is at least `bound`, by the test that its own interval inverts."""
        tests = [share.p_values(bound, _corrected(confidence, len(self.shares))) for share in self.shares]
        return _verdicts(self.names, self.shares, [less for _, less in tests], [more for more, _ in tests], confidence)


def _largest_high(samples: Sequence[TestedEvidence], confidence: float) -> float:
    """Return the largest upper bound; a sample whose test refutes the one found so far has none that is larger."""
    largest = -math.inf
    for sample in sorted(samples, key=lambda one: -one.value - 1 / math.sqrt(one.count)):
        if largest == -math.inf or sample.p_values(largest, confidence)[0] > 1 - confidence:
            largest = max(largest, sample.interval(confidence).high)
    return largest


def _largest_low(samples: Sequence[TestedEvidence], confidence: float) -> float:
    largest = -math.inf
    for sample in sorted(samples, key=lambda one: -one.value + 1 / math.sqrt(one.count)):
        if largest == -math.inf or sample.p_values(largest, confidence)[1] <= 1 - confidence:
            largest = max(largest, sample.interval(confidence).low)
    return largest


def _corrected(confidence: float, groups: int) -> float:
    return 1 - (1 - confidence) / groups


def _verdicts(
    names: Sequence[str],
    samples: Sequence[TestedEvidence],
    proven: Sequence[float],
    refuted: Sequence[float],
    confidence: float,
) -> tuple[GroupVerdict, ...]:
    error = 1 - confidence
    rows = zip(names, samples, holm(proven), holm(refuted), strict=True)
    return tuple(
        GroupVerdict(name, sample.value, sample.count, held, broken, _verdict(held, broken, error))
        for name, sample, held, broken in rows
    )


def _verdict(held: float, broken: float, error: float) -> Verdict:
    if held <= error:
        return "proven"
    return "refuted" if broken <= error else "undecided"
