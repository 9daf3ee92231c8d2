"""Bayesian search of several parameters with scikit-optimize, under a ranking that puts feasibility first."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cp_compress.base.arguments import check_integer
from cp_compress.search.spaces import Categorical, Integer, Parameter, Point, SchemeSpace
from cp_compress.search.strategies import StrategyRun, Written

if TYPE_CHECKING:
    from cp_compress.search.trials import Trial


@dataclass(frozen=True)
class Bayesian(Written):
    """Search any number of parameters, categories too, with scikit-optimize's `Optimizer` on a Gaussian process.

    The process models one number in [0, 2], made anew from all trials before each ask (Deb 2000, "An efficient
    constraint handling method for genetic algorithms"): feasible trials lie in [0, 1] by their objective, infeasible
    ones in [1, 2] by the share of the worst violation, candidates that could not be judged at 2. There is thus no
    penalty weight to choose, and no scale of objective or margin matters; a penalty that is too small would end in an
    infeasible optimum, one that is too large hides the objective. The first `initial` trials are a Latin hypercube;
    several points at once are asked for with constant liars (the least value seen so far).

    >>> str(Bayesian(initial=5))
    'bayesian(initial=5)'
    """

    initial: int = 6

    expression_name: ClassVar[str] = "bayesian"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        rule = "initial is a number of trials, 1 or more"
        check_integer("Bayesian", "initial", self.initial, rule, at_least=1)

    def start(self, space: SchemeSpace, trials: int, seed: int) -> StrategyRun:
        """Begin a run; the seed draws the first points and those that the acquisition is optimised from."""
        return _Run(self, space, seed)


class _Run:
    def __init__(self, settings: Bayesian, space: SchemeSpace, seed: int) -> None:
        self._settings, self._space, self._seed = settings, space, seed
        self._points: list[Point] = []
        self._trials: list[Trial] = []

    def ask(self, count: int) -> list[Point]:
        with warnings.catch_warnings():
            # fits with few points, and points asked for again, are usual here
            warnings.simplefilter("ignore")
            found = self._optimizer().ask(n_points=count, strategy="cl_min")
        return [self._point(values) for values in found]

    def tell(self, point: Point, trial: Trial) -> None:
        self._points.append(point)
        self._trials.append(trial)

    def trusts(self, point: Point) -> bool:
        return all(trial.feasible for trial in self._trials if trial.point == point)

    def _optimizer(self) -> Any:
        from skopt import Optimizer

        dimensions = [_dimension(name, parameter) for name, parameter in self._space.parameters]
        optimizer = Optimizer(
            dimensions,
            base_estimator="GP",
            n_initial_points=self._settings.initial,
            initial_point_generator="lhs",
            acq_func="EI",
            # made anew for each ask, so that a search that goes on from a file asks for the same points
            random_state=self._seed + len(self._trials) if len(self._trials) >= self._settings.initial else self._seed,
        )
        if self._trials:
            places = [[point[name] for name, _ in self._space.parameters] for point in self._points]
            optimizer.tell(places, feasibility_first(self._trials))
        return optimizer

    def _point(self, values: list[Any]) -> Point:
        point = {}
        for (name, parameter), value in zip(self._space.parameters, values, strict=True):
            if isinstance(parameter, Categorical):
                point[name] = next(choice for choice in parameter.choices if choice == value)
            else:
                point[name] = parameter.from_unit(parameter.to_unit(value))
        return point


def feasibility_first(trials: list[Trial]) -> list[float]:
    """Return one number in [0, 2] for each trial: feasible ones by objective, then the others by their violation.

    >>> from cp_compress.search.trials import Trial
    >>> tried = [("pass", 10.0, 0.1), ("pass", 20.0, 0.2), ("fail", 1.0, -0.3), ("fail", 5.0, -0.1)]
    >>> made = [Trial(n, {}, "", outcome, value, (margin,)) for n, (outcome, value, margin) in enumerate(tried)]
    >>> [round(value, 3) for value in feasibility_first(made)]
    [0.0, 1.0, 2.0, 1.333]
    """
    objectives = [trial.objective for trial in trials if trial.feasible and trial.objective is not None]
    least, span = (min(objectives), max(objectives) - min(objectives)) if objectives else (0.0, 0.0)
    violations = [-trial.margin for trial in trials if not trial.feasible and trial.margin is not None]
    worst = max(violations, default=0.0)
    values = []
    for trial in trials:
        if trial.feasible and trial.objective is not None:
            values.append((trial.objective - least) / span if span > 0 else 0.0)
        elif trial.margin is None or worst <= 0:
            values.append(2.0)
        else:
            values.append(1 + max(0.0, -trial.margin) / worst)
    return values


def _dimension(name: str, parameter: Parameter) -> Any:
    from skopt import space

    if isinstance(parameter, Categorical):
        return space.Categorical(list(parameter.choices), name=name)
    kind = space.Integer if isinstance(parameter, Integer) else space.Real
    prior = "log-uniform" if parameter.scale == "log" else "uniform"
    return kind(parameter.low, parameter.high, prior=prior, name=name)
