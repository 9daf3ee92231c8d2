"""What a comparison hands on: named numbers, the samples behind them, and the examples that differ most."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cp_compress.base.arguments import check_integer, reject
from cp_compress.base.json_values import plain
from cp_compress.fidelity.judging.intervals import Evidence
from cp_compress.fidelity.judging.metric import Metric

LONGEST_TABLE = 200
"""How many rows of a table, such as of classes, a record holds."""

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


@dataclass(frozen=True)
class Measurement:
    """The result of one comparison; it knows no threshold.

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


def _bounded(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return details with the worst rows of tables that are too long for records and reports, and how many are not."""
    found = dict(details)
    for name, badness in _BADNESS.items():
        rows = found.get(name)
        if isinstance(rows, list) and len(rows) > LONGEST_TABLE:
            found[name] = sorted(rows, key=badness)[:LONGEST_TABLE]
            found["left_out"] = {**found.get("left_out", {}), name: len(rows) - LONGEST_TABLE}
    return found
