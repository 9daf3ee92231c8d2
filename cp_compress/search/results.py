"""The result of a search: the best feasible candidate, all trials, and the verdict on fresh data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.numbers import number
from cp_compress.base.showing.brief import Brief
from cp_compress.base.showing.describing import describe_point
from cp_compress.search.trials import Trial, finite_or_none

if TYPE_CHECKING:
    from torch import nn

    from cp_compress.fidelity.judging.judgement import Check
    from cp_compress.model.scheme import Scheme

_SHOWN_FIRST, _SHOWN_LAST = 3, 8


@explains_keywords
@dataclass(frozen=True, eq=False, repr=False)
class SearchResult(Brief):
    """The best feasible candidate of a search and how it was found.

    Attributes:
        best: The best candidate.
        scheme: Its compression scheme.
        trial: Its trial.
        trials: All trials, in order.
        objective: The expression of the objective.
        reference_objective: The objective of the reference.
        constraints: The constraints, as text.
        strategy: The expression of the strategy.
        gate: The checks of `best` on fresh data, or None if there was no such data.
        search_digests: The digests of the examples that the search has seen, for `shared_examples`.
        notes: Sentences that a reader must see beside the result.
        objective_unit: The unit of the objective, empty if it has none.
    """

    best: nn.Module
    scheme: Scheme
    trial: Trial
    trials: tuple[Trial, ...]
    objective: str
    reference_objective: float
    constraints: tuple[str, ...]
    strategy: str
    gate: tuple[Check, ...] | None
    search_digests: frozenset[str]
    notes: tuple[str, ...]
    objective_unit: str = ""

    @property
    def gate_passed(self) -> bool | None:
        """Whether the best candidate also passes on fresh data, or None if there was no such data."""
        return None if self.gate is None else all(check.passed for check in self.gate)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the model as plain Python types."""
        return {
            "scheme": str(self.scheme),
            "objective": self.objective,
            "objective_unit": self.objective_unit,
            "reference_objective": self.reference_objective,
            "constraints": list(self.constraints),
            "strategy": self.strategy,
            "best_trial": self.trial.number,
            "trials": [trial.to_json() for trial in self.trials],
            "gate": None if self.gate is None else [_check_to_json(check) for check in self.gate],
            "notes": list(self.notes),
            "search_digests": sorted(self.search_digests),
        }

    def __str__(self) -> str:
        unit = f" {self.objective_unit}" if self.objective_unit else ""
        lines = [
            f"best of {len(self.trials)} trials by {self.strategy}: {self.scheme}, "
            f"{self.objective} {self.trial.objective:.6g}{unit}, the reference {self.reference_objective:.6g}",
            *(f"  {constraint}" for constraint in self.constraints),
            trial_table(self.trials, self.trial),
            *(f"fresh data: {describe_check(check)}" for check in self.gate or ()),
            *(f"note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def trial_table(trials: Sequence[Trial], best: Trial | None = None) -> str:
    """Write trials as a table, the best one marked; of many the first, the last and the best.

    >>> print(trial_table([Trial(1, {"density": 0.5}, "prune(density=0.5)", "pass", 120.0, (0.01,))]))
      trial  point        objective  margin  outcome
          1  density=0.5        120   +0.01  pass
    """
    rows = [("trial", "point", "objective", "margin", "outcome")]
    shown = list(trials)
    if len(trials) > _SHOWN_FIRST + _SHOWN_LAST + 1:
        kept = {*range(_SHOWN_FIRST), *range(len(trials) - _SHOWN_LAST, len(trials))}
        shown = [one for place, one in enumerate(trials) if place in kept or one is best]
    for trial in shown:
        outcome = trial.outcome if trial.error is None else f"{trial.outcome}: {trial.error.splitlines()[0][:100]}"
        objective = "–" if trial.objective is None else f"{trial.objective:.6g}"
        margin = "–" if trial.margin is None else f"{trial.margin:+.4g}"
        rows.append((str(trial.number), describe_point(trial.point), objective, margin, outcome))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    marks = [" ", *("*" if best is not None and trial.number == best.number else " " for trial in shown)]
    left = len(trials) - len(shown)
    more = [f"  … and {left} more trials, in .trials"] if left else []
    lines = (
        f"{mark} {row[0]:>{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]}"
        for mark, row in zip(marks, rows, strict=True)
    )
    return "\n".join([*lines, *more])


def describe_check(check: Check) -> str:
    """Write a check's requirements with what was found."""
    parts = []
    for result in check.results:
        needed = f", {result.examples_needed} more examples would decide" if result.examples_needed else ""
        value = number(result.value, result.requirement.bound, digits=6)
        parts.append(f"{result.requirement}: {value} on {result.count}, {result.outcome}{needed}")
    return "; ".join(parts)


def _check_to_json(check: Check) -> dict[str, Any]:
    return {
        "comparison": check.measurement.comparison,
        "outcome": check.outcome,
        "results": [
            {
                "requirement": str(result.requirement),
                "outcome": result.outcome,
                "value": finite_or_none(result.value),
                "count": result.count,
            }
            for result in check.results
        ],
    }
