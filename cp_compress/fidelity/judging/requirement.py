"""What is required of a metric, and how a text says it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cp_compress.base.arguments import check_choice, check_integer, check_real, explains_keywords, reject
from cp_compress.base.numbers import bound_text, percent
from cp_compress.fidelity.judging.metric import Direction
from cp_compress.fidelity.judging.metrics import check_level, find_metric, known_metric, near_metrics

_SIGNS = r"<\s*=|>\s*=|=<|=>|==?|<|>|≤|≥|:|at least|at most"
_NUMBER = r"\d*\.?\d+%?"
_MEANT_DIRECTIONS = {">": "min", ">=": "min", "≥": "min", "<": "max", "<=": "max", "≤": "max"}


@explains_keywords
@dataclass(frozen=True)
class Requirement:
    """A bound that a metric must keep.

    Args:
        metric: The name of the metric.
        direction: "min" for a value of at least `bound`, "max" for one of at most `bound`. A metric of this package can
            only be required on the side where a worse candidate misses the bound.
        bound: The bound, a finite number.
        confidence: None to compare the value on the given data with the bound. A confidence in [0.5, 1) makes the
            requirement a claim about the population: it passes if the one-sided confidence bound lies on the right side
            (non-inferiority), fails if the opposite bound lies on the wrong side, and is inconclusive otherwise.
        family: The number of claims, such as of all candidates of a gate, that hold together at this confidence: each
            is judged with the share of the error that is left for it (Bonferroni).

    Raises:
        InvalidArgumentError: If an argument is not as described, or no claim can be made from the metric.

    >>> str(Requirement("agreement", "min", 0.99))
    'agreement ≥ 0.99'
    """

    metric: str
    direction: Direction
    bound: float
    confidence: float | None = None
    family: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not self.metric:
            reject("Requirement", "metric", self.metric, "must be the name of a metric, such as agreement")
        meant = _MEANT_DIRECTIONS.get(self.direction) if isinstance(self.direction, str) else None
        if meant is not None:
            reject("Requirement", "direction", self.direction, f'must be "min" or "max"; did you mean "{meant}"?')
        check_choice("Requirement", "direction", self.direction, ("min", "max"))
        check_real("Requirement", "bound", self.bound, f"the bound of {self.metric} must be a finite number")
        if self.confidence is not None:
            rule = "confidence must lie in [0.5, 1): the probability with which the claim may be trusted"
            if isinstance(self.confidence, (int, float)) and 50 <= self.confidence < 100:
                rule = f"{rule}; {self.confidence:g} % would be {self.confidence / 100:g}"
            check_real("Requirement", "confidence", self.confidence, rule, at_least=0.5, below=1)
        check_integer("Requirement", "family", self.family, "must be the number of claims, 1 or more", at_least=1)
        if self.family > 1 and self.confidence is None:
            reject("Requirement", "family", self.family, "only claims with a confidence are made for a family")
        metric = known_metric(self.metric)
        if metric is not None:
            check_level("Requirement", self.metric, metric)
            metric.check_direction("Requirement", self.direction, self.bound, self.metric)
            metric.check_confidence("Requirement", self.confidence)

    @classmethod
    def parse(cls, text: str, confidence: float | None = None) -> Requirement:
        """Read a requirement such as "agreement >= 0.99" or "cost ≤ 0.05".

        Raises InvalidArgumentError for other forms, metrics that no comparison gives, and bounds that no value reaches.

        >>> print(Requirement.parse("agreement >= 0.99", confidence=0.95))
        agreement ≥ 0.99 at 95% confidence
        """
        if not isinstance(text, str):
            reject("Requirement.parse", "text", text, 'must be a text such as "agreement >= 0.98"')
        found = re.fullmatch(r"\s*(\w[\w.]*)\s*(>=|≥|<=|≤)\s*(\S+)\s*", text)
        if found is None:
            reject("Requirement.parse", "text", text, _meant_requirement(text))
        metric, sign, bound = found.groups()
        if re.fullmatch(_NUMBER, metric):
            reject("Requirement.parse", "text", text, _meant_requirement(text))
        try:
            value = float(bound)
        except ValueError:
            percent = re.fullmatch(r"([\d.]+)%", bound)
            told = f"; write {float(percent[1]) / 100:g} for {bound}" if percent else ""
            told = f"; write {bound.replace(',', '.')}" if re.fullmatch(r"\d+,\d+", bound) else told
            reject("Requirement.parse", "text", text, f"{bound!r} is no number{told}")
        value = find_metric(metric).check_bound("Requirement.parse", "bound", value)
        return cls(metric, "min" if sign in (">=", "≥") else "max", value, confidence)

    def __str__(self) -> str:
        sign = "≥" if self.direction == "min" else "≤"
        claim = f" at {percent(self.confidence, digits=0)} confidence" if self.confidence is not None else ""
        return f"{self.metric} {sign} {bound_text(self.bound)}{claim}{self.of_family}"

    @property
    def of_family(self) -> str:
        """What the claim's family is, as it follows the confidence in a text; empty for a claim of its own."""
        return f" over {self.family} candidates" if self.family > 1 else ""

    def holds(self, value: float) -> bool:
        """Tell whether a value lies on the right side of the bound, or on it."""
        return value >= self.bound if self.direction == "min" else value <= self.bound

    def margin(self, value: float) -> float:
        """Return how far a value lies on the right side of the bound; negative on the wrong side."""
        return value - self.bound if self.direction == "min" else self.bound - value


def _meant_requirement(text: str) -> str:
    """Return the form of a requirement, with what a text that has another one may stand for."""
    form = 'must have the form "metric >= bound" or "metric <= bound"'
    parts = [part.strip() for part in re.split(r"\s*(?:,(?!\d)|;|&&?|\band\b)\s*", text) if part.strip()]
    if len(parts) > 1:
        return f"{form}; give each by itself: {' and '.join(map(repr, parts))}"
    if re.search(r"\bat \d+ ?%|confidence", text):
        return f"{form}; its confidence is given apart, by confidence= or --confidence"
    reverse = re.fullmatch(rf"\s*({_NUMBER})\s*(?:{_SIGNS})\s*(\w[\w.]*)\s*", text)
    found = re.fullmatch(rf"\s*(\w[\w.]*?)\s*(?:{_SIGNS}|\s)\s*({_NUMBER})\s*", text)
    name, bound = (reverse[2], reverse[1]) if reverse else (found[1], found[2]) if found else (text.strip(), "bound")
    if not re.fullmatch(r"\w[\w.]*", name):
        return form
    metric = known_metric(name) or known_metric(name.removeprefix("min_").removeprefix("max_"))
    if metric is None:
        near = near_metrics(name)
        return f"{form}{near and f'; {near}'}"
    if metric.direction is None:
        return f"{form}; nothing can be required of {metric.name}"
    told = metric.name if not metric.leveled else f"{metric.name}_0.1"
    return f'{form}: "{told} {">=" if metric.direction == "min" else "<="} {bound}"'


def as_requirements(owner: str, given: object, confidence: float | None = None) -> list[Requirement]:
    """Return one requirement, or several, each a `Requirement` or its text, which gets the confidence.

    Raises InvalidArgumentError, as `owner`, for anything else.
    """
    several: list[object] = [given]
    if isinstance(given, Iterable) and not isinstance(given, (str, Mapping)):
        several = list(given)
    asked: list[Requirement] = []
    for one in several if given is not None else ():
        if isinstance(one, str):
            asked.append(Requirement.parse(one, confidence))
        elif isinstance(one, Requirement):
            asked.append(one)
        else:
            rule = 'must be requirements, such as Requirement("agreement", "min", 0.98) or "agreement >= 0.98"'
            reject(owner, "requirements", one, rule)
    return asked
