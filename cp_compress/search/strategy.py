"""What a search strategy is: a value that starts a run, which proposes points and receives their trials."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from cp_compress.base.arguments import reject
from cp_compress.search.spaces import Categorical, Integer, Point, Real, SchemeSpace

if TYPE_CHECKING:
    from cp_compress.search.trials import Trial

End = Literal["high", "low"]


class StrategyRun(Protocol):
    """One run of a strategy; what it asks for depends on nothing but its settings and what it was told, in order."""

    def ask(self, count: int) -> list[Point]:
        """Return up to `count` points to try next; none when nothing is left to learn.

        Every point must be told of before the next are asked for.
        """
        ...

    def tell(self, point: Point, trial: Trial) -> None:
        """Take the result of a point."""
        ...

    def trusts(self, point: Point) -> bool:
        """Tell whether all that was told supports a feasible trial of this point, or whether it may have been luck."""
        ...


class Strategy(Protocol):
    """A frozen, printable value with the settings of a strategy."""

    def start(self, space: SchemeSpace, trials: int, seed: int) -> StrategyRun:
        """Begin a run of `trials` trials; raises InvalidArgumentError for a space that the strategy cannot search."""
        ...


class Axis:
    """The one numeric parameter of a space as a place in [0, 1]: 0 at its strongest compression, 1 at its mildest."""

    def __init__(self, owner: str, space: SchemeSpace, feasible_at: End) -> None:
        if len(space.parameters) != 1 or isinstance(space.parameters[0][1], Categorical):
            rule = f"{owner} searches one numeric parameter; use bayesian for several, and for categories"
            reject(owner, "space", str(space), rule)
        name, parameter = space.parameters[0]
        assert isinstance(parameter, (Real, Integer))
        self.name, self.parameter, self._flipped = name, parameter, feasible_at == "low"

    def point(self, place: float) -> Point:
        """Return the point nearest to a place; an Integer has fewer points than there are places."""
        return {self.name: self.parameter.from_unit(1 - place if self._flipped else place)}

    def place(self, point: Point) -> float:
        """Return the place of a point."""
        unit = self.parameter.to_unit(point[self.name])
        return 1 - unit if self._flipped else unit


def note_direction(space: SchemeSpace, strategy: Strategy, trials: Sequence[Trial]) -> list[str]:
    """Return a note when the objective falls towards the end that a strategy was told to be the mild one."""
    feasible_at = getattr(strategy, "feasible_at", None)
    if feasible_at not in ("high", "low"):
        return []
    axis = Axis("search", space, feasible_at)
    known = sorted((axis.place(trial.point), trial.objective) for trial in trials if trial.objective is not None)
    pairs = [(before, after) for (_, before), (_, after) in itertools.pairwise(known) if before != after]
    if not pairs or any(before < after for before, after in pairs):
        return []
    other = "low" if feasible_at == "high" else "high"
    rule = f"the {feasible_at} end of {axis.name}, which should compress mildly, has the smaller objective"
    return [f"{rule}; check whether it should be feasible_at={other}"]
