"""Bisection of one parameter, with or without noise: update the distribution of the constraints' threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cp_compress.base.arguments import check_choice, check_real, explains_keywords
from cp_compress.base.showing.describing import Written
from cp_compress.search.spaces import Point, SchemeSpace
from cp_compress.search.strategy import Axis, End, StrategyRun

if TYPE_CHECKING:
    from cp_compress.search.trials import Trial

_IMPOSSIBLE = 1e-30
_CONFIRMING_SHARE = 0.4


@explains_keywords
@dataclass(frozen=True, repr=False)
class Bisection(Written):
    """Bisect one numeric parameter, one end of which compresses mildly (`feasible_at`) and the other strongly.

    It is assumed that the constraints hold from some threshold up to the mild end. The distribution of that threshold
    is at first uniform over the parameter's range; each trial shifts it to one side, and the next point is its median
    (Horstein 1963; Waeber, Frazier and Henderson 2013). `noise` is the standard deviation of a margin between repeated
    trials of one point, in units of the margin, as random training or fresh subsets of data cause it:

    - 0, for deterministic trials: plain bisection, 2⁻ⁿ of the range after n trials;
    - above 0: a trial with margin m says "holds" with probability Φ(m / noise), so that no single trial decides. The
      last two fifths of the trials are made where the threshold is passed with probability `confidence`, and only a
      candidate whose point is feasible with that probability, given all trials, is accepted.

    The sampling error of the data is separate: account for it with the `confidence` of the requirements.

    >>> str(Bisection(noise=0.005))
    'bisection(noise=0.005)'
    """

    noise: float = 0.0
    confidence: float = 0.9
    feasible_at: End = "high"

    expression_name: ClassVar[str] = "bisection"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_real("Bisection", "noise", self.noise, "the standard deviation of a margin, 0 or more", at_least=0)
        rule = "confidence must lie in [0.5, 1)"
        check_real("Bisection", "confidence", self.confidence, rule, at_least=0.5, below=1)
        check_choice("Bisection", "feasible_at", self.feasible_at, ("high", "low"))

    def start(self, space: SchemeSpace, trials: int, seed: int) -> StrategyRun:
        """Begin a run; the seed is not used, because nothing is random."""
        return _Run(self, Axis("bisection", space, self.feasible_at), trials)


class _Run:
    def __init__(self, settings: Bisection, axis: Axis, trials: int) -> None:
        self._settings, self._axis, self._trials = settings, axis, trials
        self._told = 0
        # the belief is constant between breaks: a trial adds a break, so that no grid limits the precision
        self._breaks, self._weights = np.array([0.0, 1.0]), np.array([1.0])
        self._infeasible, self._feasible = 0.0, 1.0

    def ask(self, count: int) -> list[Point]:
        points: list[Point] = []
        for level in self._levels(count):
            point = self._axis.point(self._quantile(level))
            if point not in points and (self._settings.noise or self._is_open(point)):
                points.append(point)
        return points

    def tell(self, point: Point, trial: Trial) -> None:
        place = self._axis.place(point)
        self._told += 1
        if trial.feasible or trial.too_mild:
            self._feasible = min(self._feasible, place)
        else:
            self._infeasible = max(self._infeasible, place)
        self._split(place)
        holds, fails = self._likelihoods(trial)
        self._weights *= np.where(self._breaks[:-1] < place, holds, fails)
        self._weights /= self._weights.sum()

    def trusts(self, point: Point) -> bool:
        if not self._settings.noise:
            return True
        reached = self._breaks[:-1] < self._axis.place(point)
        return float(self._weights[reached].sum()) >= self._settings.confidence - 1e-9

    def _levels(self, count: int) -> list[float]:
        confirming = self._told >= (1 - _CONFIRMING_SHARE) * self._trials
        if self._settings.noise and confirming:
            return [0.5 + (self._settings.confidence - 0.5) * (k / count) for k in range(1, count + 1)]
        return [k / (count + 1) for k in range(1, count + 1)]

    def _is_open(self, point: Point) -> bool:
        return self._infeasible < self._axis.place(point) < self._feasible

    def _likelihoods(self, trial: Trial) -> tuple[float, float]:
        """Return how likely the trial is if the constraints hold at its point, and if they do not."""
        if self._settings.noise and trial.margin is not None and trial.objective is not None:
            scaled = trial.margin / self._settings.noise / math.sqrt(2)
            holds, fails = math.erfc(-scaled) / 2, math.erfc(scaled) / 2
        else:
            holds, fails = (1.0, 0.0) if trial.feasible or trial.too_mild else (0.0, 1.0)
        # never quite zero: trials of one batch, or a curve that is not monotone, can contradict each other
        return max(holds, _IMPOSSIBLE), max(fails, _IMPOSSIBLE)

    def _split(self, place: float) -> None:
        cell = int(np.searchsorted(self._breaks, place, side="right")) - 1
        if not self._breaks[cell] < place < self._breaks[min(cell + 1, len(self._breaks) - 1)]:
            return
        low, high = self._breaks[cell], self._breaks[cell + 1]
        share = (place - low) / (high - low)
        parts = self._weights[cell] * np.array([share, 1 - share])
        self._breaks = np.insert(self._breaks, cell + 1, place)
        self._weights = np.concatenate([self._weights[:cell], parts, self._weights[cell + 1 :]])

    def _quantile(self, level: float) -> float:
        cumulative = np.concatenate([[0.0], np.cumsum(self._weights)])
        return float(np.interp(level * cumulative[-1], cumulative, self._breaks))
