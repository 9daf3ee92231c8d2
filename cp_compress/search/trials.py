"""The record of one trial: a point that was tried, its objective, and how it was judged."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.outcomes import SEVERITY, Outcome
from cp_compress.base.showing.brief import Brief
from cp_compress.search.spaces import Point


@explains_keywords
@dataclass(frozen=True, repr=False)
class Trial(Brief):
    """One point that was tried, as plain JSON values without the model.

    Attributes:
        number: The number of the trial, from 1.
        point: The point, by the names of its parameters.
        scheme: The expression of the scheme.
        outcome: The worst outcome of the constraints.
        objective: The objective, smaller for a better candidate, or None if it is not finite.
        margins: The distance of each constraint from being violated, negative if it is violated, or None if not finite.
        values: For each constraint, the measured values of the required metrics.
        error: The reason why a candidate could not be made, measured or judged.
        digest: The digest of the candidate's content.
        too_mild: Whether there is no candidate because so mild a compression would have changed nothing.
        seconds: The duration of the trial, in seconds.
    """

    number: int
    point: Point
    scheme: str
    outcome: Outcome
    objective: float | None = None
    margins: tuple[float | None, ...] = ()
    values: tuple[Mapping[str, float | None], ...] = ()
    error: str | None = None
    digest: str | None = None
    too_mild: bool = False
    seconds: float = field(default=0.0, compare=False)

    @property
    def feasible(self) -> bool:
        """Whether every constraint passed and the objective is known; "inconclusive" is not feasible."""
        return self.outcome == "pass" and self.objective is not None

    @property
    def margin(self) -> float | None:
        """The smallest margin of all constraints, or None if one is not known."""
        known = [margin for margin in self.margins if margin is not None]
        return min(known) if known and len(known) == len(self.margins) else None

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain Python types."""
        return {
            **{part.name: getattr(self, part.name) for part in dataclasses.fields(self)},
            "point": dict(self.point),
            "margins": list(self.margins),
            "values": [dict(values) for values in self.values],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Trial:
        """Read a record; raises KeyError, TypeError or ValueError if it is malformed."""
        trial = cls(**{**record, "margins": tuple(record["margins"]), "values": tuple(record["values"])})
        if trial.outcome not in SEVERITY:
            raise ValueError(f"{trial.outcome!r} is not an outcome")
        return trial


class NoFeasibleCandidateError(RuntimeError):
    """No trial of a search was feasible.

    `trials` holds all trials, `search_digests` the digests of the examples that the search has seen.
    """

    def __init__(
        self, message: str, trials: tuple[Trial, ...] = (), search_digests: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(message)
        self.trials = trials
        self.search_digests = search_digests

    def to_json(self) -> dict[str, Any]:
        """Return the trials as plain Python types, under the names of a search's result."""
        return {
            "scheme": None,
            "trials": [trial.to_json() for trial in self.trials],
            "notes": [str(self)],
            "search_digests": sorted(self.search_digests),
        }


class TrialError(RuntimeError):
    """A trial ended with an error that is not due to the candidate; the message names the point."""


def finite_or_none(value: float) -> float | None:
    """Return a number that JSON can hold, or None.

    >>> finite_or_none(0.5), finite_or_none(float("nan"))
    (0.5, None)
    """
    return float(value) if math.isfinite(value) else None
