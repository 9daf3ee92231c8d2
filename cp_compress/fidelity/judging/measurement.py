"""What a comparison hands on: named numbers, the samples behind them, and the examples that differ most."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from torch import Tensor

from cp_compress.base.arguments import check_integer, did_you_mean, explains_keywords, reject
from cp_compress.base.error_reasons import printable_line, shortened
from cp_compress.base.errors import ObservationError
from cp_compress.base.json_values import plain
from cp_compress.base.showing.mistaken import missing_attribute
from cp_compress.base.showing.tables import escaped, html_table, number, table
from cp_compress.fidelity.judging.intervals import Evidence
from cp_compress.fidelity.judging.metric import Metric
from cp_compress.fidelity.judging.metrics import known_metric

LONGEST_TABLE = 200
"""How many rows of a table, such as of classes, a record holds."""

WITHOUT_SKILL = "without_skill"
"""Where the details of a measurement say what models that do no work would get."""

NOT_KNOWN = "not_known"
"""Where the details of a measurement say why a metric has no value, by its name."""

_FEWEST = 20  # examples; with fewer nothing is refused
_END = 0.01
# what fits one screen
_SHOWN_METRICS = 14
_SHOWN_FIRST = 4
_SHOWN_EXAMPLES = 3
_SHOWN_NOTES = 2
_LONGEST_NOTE = 150

_BADNESS: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "classes": lambda row: -row.get("drop", 0.0),
    "flips": lambda row: -row.get("count", 0),
    "slices": lambda row: row.get("agreement", 1.0) - row.get("drop", 0.0),
}


@dataclass(frozen=True)
class ExampleChange:
    """One example that compression changed: its index in the data, true label, and what was before and after."""

    index: int
    label: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"#{self.index} (label {self.label}): {self.before} → {self.after}"


@explains_keywords
@dataclass(frozen=True, repr=False)
class Measurement:
    """The result of one comparison; it knows no threshold.

    `measurement["agreement"]` is the value of a metric, and a measurement is iterated over by the names of its metrics.
    Its repr is one line, its text one screen, and a notebook shows it as a table.

    Args:
        comparison: The name of the comparison.
        metrics: The values by the names of the metrics.
        counts: The number of samples behind each metric; 0 for one that has no value on this data.
        evidence: The samples themselves, for metrics from which a claim about the population can be made.
        per_example: Tensors whose first dimension follows the order of the data. They are copied, so that changing them
            in place changes no later comparison.
        examples: The examples that differ most.
        details: Plain JSON for reports: tables by class, changes by class pair, chance levels.
        notes: Sentences that a reader must see beside the numbers.
    """

    comparison: str
    metrics: Mapping[str, float]
    counts: Mapping[str, int]
    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    per_example: Mapping[str, Tensor] = field(default_factory=dict)
    examples: tuple[ExampleChange, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # observations keep what they have computed for later comparisons, and must not share it with their callers
        own = {name: values.clone() for name, values in self.per_example.items()}
        object.__setattr__(self, "per_example", own)

    def __getitem__(self, metric: str) -> float:
        """Return the value of a metric; raises KeyError, with the nearest name, for one that was not measured."""
        if metric not in self.metrics:
            known = f"its metrics are {', '.join(self.metrics)}"
            raise KeyError(f"{self.comparison} has no metric {metric!r}; {did_you_mean(metric, self.metrics) or known}")
        return self.metrics[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __contains__(self, metric: object) -> bool:
        return metric in self.metrics

    def __len__(self) -> int:
        """Return the number of metrics; `counts` has the number of examples behind each."""
        return len(self.metrics)

    def __bool__(self) -> bool:
        return True

    if not TYPE_CHECKING:  # or every attribute would be known

        def __getattr__(self, name: str) -> NoReturn:
            known = vars(self).get("metrics", ())
            raise missing_attribute(self, name, {metric: f'measurement["{metric}"]' for metric in known})

    def keys(self) -> Iterable[str]:
        """Return the names of the metrics, so that `dict(measurement)` is their values by name."""
        return self.metrics.keys()

    def values(self) -> Iterable[float]:
        """Return the values of the metrics."""
        return self.metrics.values()

    def items(self) -> Iterable[tuple[str, float]]:
        """Return the metrics, each with its value."""
        return self.metrics.items()

    def __repr__(self) -> str:
        return f"<Measurement of {self.summary}>"

    @property
    def summary(self) -> str:
        """The comparison, and its first metrics, in one line."""
        shown = [f"{name} {number(value)}" for name, value in list(self.metrics.items())[:_SHOWN_FIRST]]
        more = len(self.metrics) - len(shown)
        rest = [f"{more} more metrics"] if more else []
        return printable_line(f"{self.comparison}: {', '.join([*shown, *rest])}, n = {self.largest_count:,}")

    @property
    def largest_count(self) -> int:
        """The largest number of samples behind a metric."""
        return max(self.counts.values(), default=0)

    def __str__(self) -> str:
        rows = self.metric_rows()
        more = len(rows) - 1 - _SHOWN_METRICS
        lines = [table(rows[: _SHOWN_METRICS + 1])]
        lines += [f"… and {more} more metrics, in .metrics"] if more > 0 else []
        return "\n".join([*lines, *self.remarks()])

    def _repr_html_(self) -> str:
        """Return the metrics as a table, and what a reader must see beside it, for a notebook."""
        return html_table(self.metric_rows()) + "".join(f"<p>{escaped(line)}</p>" for line in self.remarks())

    def metric_rows(self) -> list[tuple[str, str, str]]:
        """Return each metric with its value and count as texts, below a head."""
        found = [(name, number(value), number(self.counts.get(name))) for name, value in self.metrics.items()]
        return [(self.comparison, "value", "n"), *found]

    def remarks(self) -> list[str]:
        """Return the examples that changed most, and the notes, a line each; of many the first few."""
        changed = [shortened(f"changed: {change}", _LONGEST_NOTE) for change in self.examples]
        notes = [shortened(f"note: {note}", _LONGEST_NOTE) for note in self.notes]
        return [*_first(changed, _SHOWN_EXAMPLES, "examples"), *_first(notes, _SHOWN_NOTES, "notes")]

    def check(self, owner: str, metrics: Iterable[Metric] = ()) -> None:
        """Raise InvalidArgumentError for a measurement of a user's own that is not what it must be.

        Values must be real numbers within what `metrics` declares (NaN is one without a value), counts whole numbers of
        0 or more, and examples `ExampleChange`.
        """
        declared = {metric.name: metric for metric in metrics}
        for name, value in self.metrics.items():
            known = declared.get(name)
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                reject(owner, f"metrics[{name!r}]", value, "must be a real number; NaN says that there is no value")
            if known is not None and not (math.isnan(value) or known.low <= value <= known.high):
                rule = f"{name} is declared to lie in [{known.low:g}, {known.high:g}]"
                reject(owner, f"metrics[{name!r}]", value, rule)
        for name, count in self.counts.items():
            rule = "a count is the number of samples behind a metric: a whole number of 0 or more"
            check_integer(owner, f"counts[{name!r}]", count, rule, at_least=0)
        for change in self.examples:
            if not isinstance(change, ExampleChange):
                reject(
                    owner,
                    "examples",
                    change,
                    "each must be an ExampleChange, of cp_compress.fidelity.judging.measurement",
                )

    def to_json(self) -> dict[str, Any]:
        """Return everything but the values an example as plain Python types; of long tables the worst rows."""
        return {
            "comparison": self.comparison,
            "metrics": {name: plain(value) for name, value in self.metrics.items()},
            "counts": dict(self.counts),
            "examples": [dataclasses.asdict(change) for change in self.examples],
            "details": plain(_bounded(self.details)),
            "notes": list(self.notes),
        }


def _first(lines: list[str], most: int, what: str) -> list[str]:
    more = len(lines) - most
    return lines[:most] + ([f"… and {more} more, in .{what}"] if more > 0 else [])


def _bounded(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return details with the worst rows of tables that are too long for records and reports, and how many are not."""
    found = dict(details)
    for name, badness in _BADNESS.items():
        rows = found.get(name)
        if isinstance(rows, list) and len(rows) > LONGEST_TABLE:
            found[name] = sorted(rows, key=badness)[:LONGEST_TABLE]
            found["left_out"] = {**found.get("left_out", {}), name: len(rows) - LONGEST_TABLE}
    return found


class Bounding(Protocol):
    """What is required of a metric, as a `Requirement` says it."""

    @property
    def metric(self) -> str:
        """The name of the metric."""

    @property
    def direction(self) -> str:
        """The side that the metric is kept on, "min" or "max"."""

    @property
    def bound(self) -> float:
        """The bound."""

    def holds(self, value: float) -> bool:
        """Tell whether a value lies on the right side of the bound, or on it."""


def unskilled(model: str, metrics: Mapping[str, float], count: int) -> dict[str, Any]:
    """Return what a model that does no work, in words such as "a model that finds nothing", would get.

    `count` is the number of examples by which it is known; with fewer than 20 nothing is refused.
    """
    return {"model": model, "metrics": dict(metrics), "count": count}


def doubts_of_requirements(measurement: Measurement, requirements: Sequence[Bounding]) -> tuple[str, ...]:
    """Return notes on requirements that a model that does no work would meet, all of them.

    Raises ObservationError where 20 examples or more say so. A bound at the end of a metric's range, or a hundredth
    from it, such as agreement ≥ 0, is there to measure, and is left out.
    """
    asked = [one for one in requirements if not _always_holds(one)]
    notes: list[str] = []
    for found in measurement.details.get(WITHOUT_SKILL, ()) if asked else ():
        values = [found["metrics"].get(one.metric, math.nan) for one in asked]
        if not all(one.holds(value) for one, value in zip(asked, values, strict=True)):
            continue
        held = ", ".join(
            f"{one.metric} {'≥' if one.direction == 'min' else '≤'} {one.bound:g} (it would have {value:.3g})"
            for one, value in zip(asked, values, strict=True)
        )
        told = f"{found['model']} would meet {held}"
        if found["count"] >= _FEWEST:
            raise ObservationError(
                f"{told}: what is required tells nothing on this data. Require more, require another metric too, or "
                "give data on which the reference is better than that"
            )
        notes.append(told)
    return tuple(notes)


def _always_holds(requirement: Bounding) -> bool:
    metric = known_metric(requirement.metric)
    if metric is None:
        return False
    if requirement.direction == "min":
        return requirement.bound <= metric.low + _END
    return requirement.bound >= metric.high - _END
