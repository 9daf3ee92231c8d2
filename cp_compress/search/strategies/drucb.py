"""Domain-Restricted UCB: Bayesian search of one parameter in two stages, the constraint first, then the objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cp_compress.base.arguments import check_choice, check_real, explains_keywords
from cp_compress.base.showing.describing import Written
from cp_compress.search.gaussian_process import Floats, fill_unknown, fit_predict
from cp_compress.search.spaces import Point, SchemeSpace
from cp_compress.search.strategy import Axis, End, StrategyRun

if TYPE_CHECKING:
    from cp_compress.search.trials import Trial

_GRID = 1001


@explains_keywords
@dataclass(frozen=True, repr=False)
class DRUCB(Written):
    """Search one numeric parameter by Domain-Restricted UCB (Joseph et al., IEEE Micro 2020; Joseph's thesis proposal).

    Let s in (0, 1) be how strongly a point compresses, y_t a trial's margin, and μ, σ a Gaussian process's prediction
    of the margin (scikit-optimize's, Matérn 5/2, noise estimated):

    1. for the fraction `first_stage` of the trials: s_t = argmax over D of (1−γ)·σ(s) − γ·|μ(s) − L|, where D starts as
       (0, 1) and becomes (s_t, 1) whenever s_t > s_{t−1} and y_t ≥ L. Margins are distances to what is required, so
       that the level L is 0;
    2. for the rest: s_t = argmin over (0, s_acc) of μ(s) − κ·σ(s), with a process on the objective and s_acc the
       strongest feasible compression so far.

    The patent US 12,417,403 B2 covers a two-stage Bayesian search for compression: find out whether you may use this
    strategy in your jurisdiction. It is never chosen by default; `Bisection` needs no more trials.

    Args:
        gamma: γ in [0, 1], the weight of closeness to the level in the first stage.
        kappa: κ, the weight of uncertainty in the second stage, 0 or more.
        first_stage: The fraction of the trials in the first stage, in (0, 1].
        feasible_at: The end of the parameter that compresses mildly, "high" or "low".

    Raises:
        InvalidArgumentError: If an argument is out of its range.

    >>> str(DRUCB(gamma=0.9))
    'drucb(gamma=0.9)'
    """

    gamma: float = 0.5
    kappa: float = 1.96
    first_stage: float = 0.7
    feasible_at: End = "high"

    expression_name: ClassVar[str] = "drucb"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_real("DRUCB", "gamma", self.gamma, "gamma must lie in [0, 1]", at_least=0, at_most=1)
        check_real("DRUCB", "kappa", self.kappa, "kappa must be 0 or more", at_least=0)
        rule = "first_stage is the share of trials in the first stage and must lie in (0, 1]"
        check_real("DRUCB", "first_stage", self.first_stage, rule, above=0, at_most=1)
        check_choice("DRUCB", "feasible_at", self.feasible_at, ("high", "low"))

    def start(self, space: SchemeSpace, trials: int, seed: int) -> StrategyRun:
        """Begin a run; the seed is that of the fit of the processes."""
        return _Run(self, Axis("drucb", space, self.feasible_at), trials, seed)


class _Run:
    def __init__(self, settings: DRUCB, axis: Axis, trials: int, seed: int) -> None:
        self._settings, self._axis, self._seed = settings, axis, seed
        self._first = max(1, math.ceil(settings.first_stage * trials))
        self._strengths: list[float] = []
        self._trials: list[Trial] = []
        self._low = 0.0

    def ask(self, count: int) -> list[Point]:
        points: list[Point] = []
        lies: list[tuple[float, float]] = []
        for _ in range(count):
            in_first = len(self._strengths) + len(points) < self._first
            tried = [*(trial.point for trial in self._trials), *points]
            found = self._level_point(lies, tried) if in_first else self._objective_point(lies, tried)
            if found is None:
                break
            strength, believed = found
            # a batch is spread by believing that each of its points gives what is expected there
            lies.append((strength, believed))
            points.append(self._axis.point(1 - strength))
        return points

    def tell(self, point: Point, trial: Trial) -> None:
        strength = 1 - self._axis.place(point)
        advanced = not self._strengths or strength > self._strengths[-1]
        if len(self._strengths) < self._first and advanced and (trial.feasible or trial.too_mild):
            self._low = strength
        self._strengths.append(strength)
        self._trials.append(trial)

    def trusts(self, point: Point) -> bool:
        return all(trial.feasible for trial in self._trials if trial.point == point)

    def _fresh(self, low: float, high: float, tried: list[Point]) -> Floats:
        """Return places strictly between two ends whose points were not tried."""
        places = np.linspace(low, high, _GRID + 2)[1:-1]
        return np.array([place for place in places if self._axis.point(1 - float(place)) not in tried])

    def _level_point(self, lies: list[tuple[float, float]], tried: list[Point]) -> tuple[float, float] | None:
        grid = self._fresh(self._low, 1.0, tried)
        if not len(grid):
            return None
        mean, deviation = self._believe(self._margins(), lies, grid)
        score = (1 - self._settings.gamma) * deviation - self._settings.gamma * np.abs(mean)
        best = int(score.argmax()) if len(self._strengths) + len(lies) else len(grid) // 2
        return float(grid[best]), float(mean[best])

    def _objective_point(self, lies: list[tuple[float, float]], tried: list[Point]) -> tuple[float, float] | None:
        feasible = [s for s, trial in zip(self._strengths, self._trials, strict=True) if trial.feasible]
        if not feasible:  # there is no s_acc yet, so the first stage goes on
            return self._level_point(lies, tried)
        grid = self._fresh(0.0, max(feasible), tried)
        if not len(grid):
            return None
        known = [trial.objective for trial in self._trials]
        mean, deviation = self._believe(known, lies, grid)
        best = int((mean - self._settings.kappa * deviation).argmin())
        return float(grid[best]), float(mean[best])

    def _margins(self) -> list[float]:
        known = [abs(trial.margin) for trial in self._trials if trial.margin is not None]
        mild = max(known, default=1.0)  # far from the level that is looked for
        margins = [mild if trial.too_mild else trial.margin for trial in self._trials]
        return fill_unknown(margins, [trial.feasible for trial in self._trials])

    def _believe(
        self, values: Sequence[float | None], lies: list[tuple[float, float]], grid: Floats
    ) -> tuple[Floats, Floats]:
        pairs = [(s, value) for s, value in zip(self._strengths, values, strict=True) if value is not None] + lies
        if not pairs:
            return np.zeros(len(grid)), np.ones(len(grid))
        places, seen = np.array([s for s, _ in pairs])[:, None], np.array([value for _, value in pairs])
        return fit_predict(places, seen, grid[:, None], self._seed)
