"""What a metric is: what it can be, which way is better, and what may be required of it."""

from __future__ import annotations

import keyword
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from cp_compress.base.arguments import check_choice, check_real, explains_keywords, reject
from cp_compress.base.numbers import bound_text

Direction = Literal["min", "max"]
"""The side that a requirement keeps a metric on: "min" from below, "max" from above."""

Basis = Literal["values", "answers", "labels", "classes"]
"""What a metric rests on: numbers that the models give, the classes that they answer with, which of these are right, or
which are right class by class. Each but the first can be empty of meaning on data that cannot tell models apart."""

_SIGNS: Mapping[Direction, str] = {"min": "≥", "max": "≤"}
_WORDS: Mapping[Direction, str] = {"min": "from below", "max": "from above"}


@explains_keywords
@dataclass(frozen=True)
class Metric:
    """A named number that a comparison gives.

    Args:
        name: What measurements, requirements and records call it.
        sentence: What it is, in one sentence.
        better: Which way a candidate is better, "higher" or "lower"; None for a number that is reported only, of which
            nothing can be required.
        unchanged: Its value for a candidate that does what the reference does; None where that depends on the
            reference or on the data.
        low: The smallest value that it can take.
        high: The largest value that it can take.
        claims: Whether a claim about the population can be made from it, at a confidence.
        unit: The unit of its values; empty for a plain number.
        source: The publication that its definition is from; empty where there is none to name.
        leveled: Whether it is a family, one metric for each quantile level: "iou_quantile_0.1" is of "iou_quantile".
        rests_on: What it is made of: "values" (logits, layers, maps), "answers" (the predicted classes), "labels"
            (which answers are right) or "classes" (which are right, class by class). A requirement is refused on data
            where that says nothing, such as labels on which the reference is no better than chance.
        start: A bound to start from, where none has been measured: what a mild compression, such as 8-bit weights,
            keeps with room to spare. None where that depends on the reference or on the unit of the data.
        called: What its argument calls it, where another comparison has a metric of that name; empty for its name.

    Raises:
        InvalidArgumentError: If the name is no word, the range is empty, or an argument is none of its choices or
            outside the range.

    >>> gap = Metric("gap", "The largest difference of accuracy between two groups.", "lower", unchanged=0.0)
    >>> gap.argument, gap.direction
    ('max_gap', 'max')
    """

    name: str
    sentence: str
    better: Literal["higher", "lower"] | None
    unchanged: float | None = None
    low: float = 0.0
    high: float = 1.0
    claims: bool = False
    unit: str = ""
    source: str = ""
    leveled: bool = False
    rests_on: Basis = "values"
    start: float | None = None
    called: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier() or keyword.iskeyword(self.name):
            reject("Metric", "name", self.name, "must be a word that Python could use as a name, such as gap")
        if self.better not in ("higher", "lower", None):
            reject("Metric", "better", self.better, 'must be "higher", "lower" or None')
        if not self.low < self.high:  # NaN too
            reject("Metric", "low, high", (self.low, self.high), "low must be less than high")
        if self.unchanged is not None and not self.low <= self.unchanged <= self.high:
            reject("Metric", "unchanged", self.unchanged, f"must lie in [{self.low:g}, {self.high:g}], or be None")
        if self.start is not None and (self.better is None or not self.low <= self.start <= self.high):
            rule = f"must lie in [{self.low:g}, {self.high:g}], of a metric that can be required, or be None"
            reject("Metric", "start", self.start, rule)
        check_choice("Metric", "rests_on", self.rests_on, get_args(Basis))
        if not isinstance(self.claims, bool):
            reject("Metric", "claims", self.claims, "must be True or False")
        if not isinstance(self.sentence, str) or not self.sentence.strip():
            reject("Metric", "sentence", self.sentence, "must say in one sentence what the metric is")

    @property
    def direction(self) -> Direction | None:
        """The side that a requirement keeps it on; None where nothing can be required of it."""
        return None if self.better is None else "min" if self.better == "higher" else "max"

    @property
    def argument(self) -> str | None:
        """The argument of an assertion that bounds it, such as "min_agreement"; None where there is none."""
        if self.direction is None:
            return None
        # a worst case says so in its name: max_class_accuracy_drop is bounded by an argument of that name
        name = self.called or self.name
        return name if name.startswith(f"{self.direction}_") else f"{self.direction}_{name}"

    def check_direction(self, owner: str, direction: Direction, bound: float, name: str | None = None) -> None:
        """Refuse a requirement that a candidate could only meet by being worse.

        Args:
            owner: What the error is about, such as "Requirement".
            direction: The side that the requirement keeps the metric on.
            bound: The bound of the requirement.
            name: What the requirement calls the metric, where that is not its name, such as "iou_quantile_0.1".

        Raises:
            InvalidArgumentError: If the side is the wrong one, or the metric is reported only.
        """
        if self.direction is None:
            reject(owner, "metric", self.name, "it is reported only: no value of it is better, so none can be required")
        if direction != self.direction:
            right, wrong = (
                f"{name or self.name} {_SIGNS[side]} {bound_text(bound)}" for side in (self.direction, direction)
            )
            rule = f"{self.better} is better, so it is required {_WORDS[self.direction]}, as in {right!r}"
            reject(owner, "requirement", wrong, rule)

    def headroom(self, value: float, bound: float) -> float | None:
        """Return the share that is left of the room between an unchanged model's value and a bound.

        It is (value − bound) / (unchanged − bound): 1 for a value of an unchanged model, 0 at the bound, negative
        beyond it, above 1 for one that is better than unchanged. None where there is no such room: no value for an
        unchanged model is declared or it is infinite, it lies on the bound (agreement ≥ 1) or does not meet it
        (compression ≥ 2 asks for a change), or the value is not finite.

        >>> drop = Metric("drop", "The accuracy that is lost.", "lower", unchanged=0.0, low=-1.0)
        >>> drop.headroom(0.005, 0.02), drop.headroom(0.04, 0.02), drop.headroom(0.0, 0.0)
        (0.75, -1.0, None)
        """
        if self.unchanged is None or not all(map(math.isfinite, (self.unchanged, value, bound))):
            return None
        room = self.unchanged - bound
        if room == 0 or (room > 0) != (self.direction == "min"):
            return None
        found = (value - bound) / room + 0.0  # no negative zero
        return found if math.isfinite(found) else None

    def check_bound(self, owner: str, argument: str, bound: float) -> float:
        """Return a bound as a float; raises InvalidArgumentError for one outside of what the metric can be."""
        rule = f"{self.name} lies in [{self.low:g}, {self.high:g}], and so must its bound{self.explain_percent(bound)}"
        return check_real(owner, argument, bound, rule, at_least=self.low, at_most=self.high)

    def explain_percent(self, bound: object) -> str:
        """Return what a bound would be that was meant in percent, or an empty text."""
        if self.high != 1 or isinstance(bound, bool) or not isinstance(bound, (int, float)) or not 1 < bound <= 100:
            return ""
        return f"; {bound:g} % would be {bound / 100:g}"

    def check_confidence(self, owner: str, confidence: float | None) -> None:
        """Raise InvalidArgumentError for a confidence where no claim about the population can be made."""
        if confidence is not None and not self.claims:
            rule = f"{self.name} is a value on the given data only; no claim about the population can be made from it"
            reject(owner, "confidence", confidence, f"{rule}, so give no confidence")


def declared(*metrics: Metric) -> Mapping[str, Metric]:
    """Return metrics by their names.

    >>> list(declared(Metric("gap", "A gap.", "lower")))
    ['gap']
    """
    return {metric.name: metric for metric in metrics}


def bound_arguments(metrics: Iterable[Metric]) -> dict[str, Metric]:
    """Return the arguments by which an assertion bounds metrics, in their order.

    >>> list(bound_arguments([Metric("gap", "A gap.", "lower"), Metric("hits", "Hits.", "higher")]))
    ['max_gap', 'min_hits']
    """
    return {metric.argument: metric for metric in metrics if metric.argument is not None}


def explain_argument(argument: str, metrics: Iterable[Metric]) -> str | None:
    """Return why an argument that names a metric does not bound it, or None for one that names none.

    >>> explain_argument("max_hits", [Metric("hits", "Hits.", "higher")])
    'of hits, higher is better, so it is bounded by min_hits'
    """
    bare = argument.removeprefix("min_").removeprefix("max_")
    metric = next(
        (one for one in metrics if argument not in (bare, one.argument) and one.name in (bare, argument)), None
    )
    if metric is None:
        return None
    if metric.argument is None:
        return f"{metric.name} is reported only, and nothing can be required of it"
    return f"of {metric.name}, {metric.better} is better, so it is bounded by {metric.argument}"
