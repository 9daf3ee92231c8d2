"""Bayesian search of several parameters: expected improvement, weighted by the probability that constraints hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy import stats

from cp_compress.base.arguments import check_integer, check_real, explains_keywords
from cp_compress.base.showing.describing import Written
from cp_compress.search.gaussian_process import Floats, fill_unknown, fit_predict
from cp_compress.search.spaces import Categorical, Integer, Parameter, Point, SchemeSpace
from cp_compress.search.strategy import StrategyRun

if TYPE_CHECKING:
    from cp_compress.search.trials import Trial

_DRAWN, _NEAR = 1000, 150
_STEPS = (0.2, 0.05, 0.01)


@explains_keywords
@dataclass(frozen=True, repr=False)
class Bayesian(Written):
    """Search any number of parameters, including categories, with Gaussian processes of scikit-optimize.

    Its `Optimizer` gives the first `initial` points, a Latin hypercube, and holds the space. Then each point is the one
    with the largest expected improvement of the objective times the probability that every constraint holds (Gardner et
    al. 2014, "Bayesian optimization with inequality constraints"), among random points and points near the best.
    Feasibility is modelled, not penalised: at the optimum, where a constraint starts to fail, a penalised objective has
    a jump or a kink that a process smooths over, and the weight of a penalty would depend on the scales of objective
    and margins. Each constraint has a process of its own, so that no two units are mixed.

    To choose several points at once, the processes assume the expected values at those already chosen. A candidate that
    could not be judged counts as the worst margin so far.

    `confidence` is None if trials are deterministic. Otherwise, as with random training, a candidate is accepted only
    if the processes give its constraints at least this probability to hold, given all trials; points are then chosen to
    reach it. The noise itself is estimated from the trials.

    >>> str(Bayesian(initial=5))
    'bayesian(initial=5)'
    """

    initial: int = 6
    confidence: float | None = None

    expression_name: ClassVar[str] = "bayesian"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        rule = "initial is a number of trials, 1 or more"
        check_integer("Bayesian", "initial", self.initial, rule, at_least=1)
        if self.confidence is not None:
            rule = "confidence must lie in [0.5, 1), or be None for trials that repeat exactly"
            check_real("Bayesian", "confidence", self.confidence, rule, at_least=0.5, below=1)

    def start(self, space: SchemeSpace, trials: int, seed: int) -> StrategyRun:
        """Begin a run; the seed determines the random points."""
        return _Run(self, space, seed)


class _Run:
    def __init__(self, settings: Bayesian, space: SchemeSpace, seed: int) -> None:
        self._settings, self._space, self._seed = settings, space, seed
        self._optimizer = _make_optimizer(settings, space, seed)
        self._points: list[Point] = []
        self._trials: list[Trial] = []
        self._initial: list[Point] = []
        self._judged: tuple[int, list[Trial]] = (0, [])
        self._distance = 0.0 if settings.confidence is None else float(stats.norm.ppf(settings.confidence))

    def ask(self, count: int) -> list[Point]:
        made = len(self._trials)
        if made < self._settings.initial:
            first = self._hypercube()[made : made + count]
            if first:
                return first
        places = self._places(self._points)
        objectives, known = _objectives(self._trials)
        margins = _margins(self._trials)
        accepted = self._accepted()
        best = min((value for trial in accepted if (value := trial.objective) is not None), default=None)
        chosen: list[Point] = []
        objective_places = places[known]
        for _ in range(count):
            candidates = self._candidates(made + len(chosen), chosen)
            if not candidates:  # a finite space of which every point was tried
                break
            others = self._places(candidates)
            score = np.zeros(len(others))
            believed = []
            for column in margins:
                mean, deviation = fit_predict(places, column, others, self._seed)
                score += stats.norm.logcdf(mean / np.maximum(deviation, 1e-9) - self._distance)
                believed.append(mean)
            if len(objectives):
                mean, deviation = fit_predict(objective_places, objectives, others, self._seed)
                if best is not None:
                    score += _log_improvement(best - mean, np.maximum(deviation, 1e-9 * (1 + np.abs(mean))))
            index = int(score.argmax())
            chosen.append(candidates[index])
            row = others[index : index + 1]
            places = np.concatenate([places, row])
            margins = [np.append(column, mean[index]) for column, mean in zip(margins, believed, strict=True)]
            if len(objectives):
                objectives = np.append(objectives, mean[index])
                objective_places = np.concatenate([objective_places, row])
        return chosen

    def tell(self, point: Point, trial: Trial) -> None:
        self._points.append(point)
        self._trials.append(trial)

    def trusts(self, point: Point) -> bool:
        if self._settings.confidence is None:
            return all(trial.feasible for trial in self._trials if trial.point == point)
        return any(trial.point == point for trial in self._accepted())

    def _accepted(self) -> list[Trial]:
        """Return the feasible trials, without those that the other trials speak against."""
        feasible = [trial for trial in self._trials if trial.feasible]
        if self._settings.confidence is None or not feasible:
            return feasible
        if self._judged[0] == len(self._trials):
            return self._judged[1]
        places, others = self._places(self._points), self._places([trial.point for trial in feasible])
        held = np.ones(len(feasible), dtype=bool)
        for column in _margins(self._trials):
            mean, deviation = fit_predict(places, column, others, self._seed)
            held &= mean >= self._distance * deviation
        self._judged = len(self._trials), [trial for trial, holds in zip(feasible, held, strict=True) if holds]
        return self._judged[1]

    def _hypercube(self) -> list[Point]:
        if not self._initial:
            drawn = self._optimizer.ask(n_points=self._settings.initial)
            points = [self._point(values) for values in drawn]
            self._initial = [point for place, point in enumerate(points) if point not in points[:place]]
        return self._initial

    def _candidates(self, made: int, chosen: list[Point]) -> list[Point]:
        """Return random points, and points around the best of the trials, none of which was tried or chosen."""
        generator = np.random.RandomState([self._seed, made])
        drawn = self._optimizer.space.rvs(n_samples=_DRAWN, random_state=generator)
        accepted = self._accepted()
        if accepted:
            best = min(accepted, key=lambda trial: (trial.objective, trial.number)).point
            place = self._places([best])
            steps = [generator.normal(0, step, (_NEAR, place.shape[1])) for step in _STEPS]
            near = np.clip(place + np.concatenate(steps), 0, 1)
            drawn = [*drawn, *self._optimizer.space.inverse_transform(near)]
        points = [self._point(values) for values in drawn]
        return [point for point in points if point not in self._points and point not in chosen]

    def _places(self, points: list[Point]) -> Floats:
        values = [[point[name] for name, _ in self._space.parameters] for point in points]
        return np.asarray(self._optimizer.space.transform(values), dtype=np.float64)

    def _point(self, values: list[Any]) -> Point:
        point: dict[str, Any] = {}
        for (name, parameter), value in zip(self._space.parameters, values, strict=True):
            if isinstance(parameter, Categorical):
                point[name] = next(choice for choice in parameter.choices if choice == value)
            else:
                point[name] = parameter.from_unit(parameter.to_unit(value))
        return point


def _make_optimizer(settings: Bayesian, space: SchemeSpace, seed: int) -> Any:
    from skopt import Optimizer

    return Optimizer(
        [_dimension(name, parameter) for name, parameter in space.parameters],
        base_estimator="GP",
        n_initial_points=settings.initial,
        initial_point_generator="lhs",
        random_state=seed,
    )


def _dimension(name: str, parameter: Parameter) -> Any:
    from skopt import space

    if isinstance(parameter, Categorical):
        return space.Categorical(list(parameter.choices), name=name)
    kind = space.Integer if isinstance(parameter, Integer) else space.Real
    prior = "log-uniform" if parameter.scale == "log" else "uniform"
    return kind(parameter.low, parameter.high, prior=prior, name=name)


def _objectives(trials: list[Trial]) -> tuple[Floats, list[int]]:
    known = [index for index, trial in enumerate(trials) if trial.objective is not None]
    return np.array([trials[index].objective for index in known], dtype=np.float64), known


def _margins(trials: list[Trial]) -> list[Floats]:
    """Return the margins of each constraint, squashed."""
    feasible = [trial.feasible for trial in trials]
    columns = zip(*(trial.margins for trial in trials), strict=True)
    return [_squash(np.array(fill_unknown(column, feasible))) for column in columns]


def _squash(margins: Floats) -> Floats:
    """Return margins within (−1, 1) with their signs, so that one ruined candidate does not drown the others."""
    return margins / (np.abs(margins) + max(float(np.median(np.abs(margins))), 1e-9))


def _log_improvement(gain: Floats, deviation: Floats) -> Floats:
    scaled = gain / deviation
    expected = deviation * (scaled * stats.norm.cdf(scaled) + stats.norm.pdf(scaled))
    result: Floats = np.log(np.maximum(expected, 1e-300))
    return result
