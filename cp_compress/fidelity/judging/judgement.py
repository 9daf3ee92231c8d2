"""Measurement and requirements in, outcome out: pass, fail, inconclusive or error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from cp_compress.base.arguments import (
    did_you_mean,
    explains_keywords,
    reject,
)
from cp_compress.base.json_values import plain
from cp_compress.base.outcomes import SEVERITY, Outcome
from cp_compress.base.showing.brief import Brief
from cp_compress.base.showing.mistaken import missing_attribute
from cp_compress.base.showing.tables import escaped, html_table, number, table
from cp_compress.fidelity.judging.detection import detectable
from cp_compress.fidelity.judging.groups import GroupEvidence, GroupVerdict
from cp_compress.fidelity.judging.intervals import Evidence, Interval, examples_needed
from cp_compress.fidelity.judging.measurement import LONGEST_TABLE, NOT_KNOWN, Measurement, doubts_of_requirements
from cp_compress.fidelity.judging.metrics import known_metric
from cp_compress.fidelity.judging.requirement import Requirement, as_requirements

_SHOWN_RESULTS = 12


@dataclass(frozen=True, repr=False)
class Result(Brief):
    """One requirement judged: what was found, its interval, and how many more examples would decide it.

    A claim about the worst of several groups has a verdict on each of them in `groups`. `clusters` is the number of
    clusters that a claim is about, None where examples are independent. `detectable` is, of a claim that passed, the
    true value with which it would not have in 80 % of samples (`detection`). `distinct` is how many of `count` a claim
    counts, None where no example is repeated.
    """

    requirement: Requirement
    outcome: Outcome
    value: float
    count: int
    interval: Interval | None = None
    examples_needed: int | None = None
    groups: tuple[GroupVerdict, ...] = ()
    clusters: int | None = None
    detectable: float | None = None
    distinct: int | None = None

    @property
    def margin(self) -> float:
        """How far the value lies on the right side of its bound; negative on the wrong side."""
        return self.requirement.margin(self.value)

    @property
    def headroom(self) -> float | None:
        """The share that is left of the room between an unchanged model and the bound, `Metric.headroom`."""
        metric = known_metric(self.requirement.metric)
        return None if metric is None else metric.headroom(self.value, self.requirement.bound)

    def __str__(self) -> str:
        interval = self.interval
        between = "" if interval is None else f" in [{number(interval.low)}, {number(interval.high)}]"
        more = self.examples_needed
        needed = "" if more is None else f"; about {more:,} more examples would decide"
        found = f"found {number(self.value, self.requirement.bound)}{between}, n = {self.count:,}"
        return f"{self.outcome}: {self.requirement}: {found}{needed}"

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain Python types."""
        requirement, interval = self.requirement, self.interval
        return {
            "requirement": str(requirement),
            "metric": requirement.metric,
            "direction": requirement.direction,
            "bound": requirement.bound,
            "confidence": requirement.confidence,
            "outcome": self.outcome,
            "value": plain(self.value),
            "margin": plain(self.margin),
            "headroom": self.headroom,
            "count": self.count,
            "interval": None if interval is None else [plain(interval.low), plain(interval.high)],
            "examples_needed": self.examples_needed,
            "family": requirement.family,
            "clusters": self.clusters,
            "detectable": plain(self.detectable),
            "distinct": self.distinct,
            "groups": [group.to_json() for group in sorted(self.groups, key=_badness)[:LONGEST_TABLE]]
            if len(self.groups) > LONGEST_TABLE
            else [group.to_json() for group in self.groups],
        }


def _badness(group: GroupVerdict) -> tuple[float, float]:
    return group.p_refuted, -group.p_proven


@explains_keywords
@dataclass(frozen=True, repr=False)
class Check:
    """A measurement, its requirements judged, and the outcome of the worst of them.

    It is neither true nor false: ask for `passed`; raises TypeError where its truth is asked for. `check.metrics` and
    `check["agreement"]` are those of the measurement. Its repr is one line, its text one screen.
    """

    measurement: Measurement
    results: tuple[Result, ...]

    def __bool__(self) -> bool:
        # every object is true by default: `assert check_…(…)` would hold whatever was found
        raise TypeError(f"a Check is neither true nor false; ask for its .passed (here {self.passed})")

    @property
    def metrics(self) -> Mapping[str, float]:
        """The values of the measurement by the names of their metrics."""
        return self.measurement.metrics

    def __getitem__(self, metric: str) -> float:
        """Return the value of a metric; raises as `Measurement`."""
        return self.measurement[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self.measurement)

    def __contains__(self, metric: object) -> bool:
        return metric in self.measurement

    def __len__(self) -> int:
        """Return the number of metrics; `results` has a result for each requirement."""
        return len(self.measurement)

    if not TYPE_CHECKING:  # or every attribute would be known

        def __getattr__(self, name: str) -> NoReturn:
            known = getattr(vars(self).get("measurement"), "metrics", ())
            raise missing_attribute(self, name, {metric: f'check["{metric}"]' for metric in known})

    def __repr__(self) -> str:
        others = len(self.results) - 1
        rest = f", {others} more requirement{'s' if others > 1 else ''}" if others else ""
        return f"<Check of {self.measurement.comparison}: {self.worst}{rest}>"

    def __str__(self) -> str:
        rows = _requirement_rows(self.results)
        more = len(rows) - 1 - _SHOWN_RESULTS
        rest = [f"… and {more} more requirements, in .results"] if more > 0 else []
        heading = f"{self.outcome}: {self.measurement.summary}"
        return "\n".join([heading, table(rows[: _SHOWN_RESULTS + 1]), *rest, *self.measurement.remarks()])

    def _repr_html_(self) -> str:
        """Return what is required and was found, for a notebook."""
        remarks = "".join(f"<p>{escaped(line)}</p>" for line in self.measurement.remarks())
        heading = f"<p><strong>{self.outcome}</strong>: {escaped(self.measurement.summary)}</p>"
        return heading + html_table(_requirement_rows(self.results)) + remarks

    @property
    def outcome(self) -> Outcome:
        """The worst outcome among the requirements."""
        return max((result.outcome for result in self.results), key=SEVERITY.index)

    @property
    def passed(self) -> bool:
        """Whether every requirement holds."""
        return self.outcome == "pass"

    @property
    def worst(self) -> Result:
        """The requirement that decides the outcome: the worst, and among equals the one with the least headroom.

        Those without headroom come after those with, by their margin.
        """
        return min(self.results, key=_severity)

    def to_json(self) -> dict[str, Any]:
        """Return the outcome, what decided it and the measurement as plain Python types, without values an example."""
        return {
            "outcome": self.outcome,
            "requirements": [result.to_json() for result in self.results],
            "decisive": str(self.worst.requirement),
            **self.measurement.to_json(),
        }


def _severity(result: Result) -> tuple[float, ...]:
    return -SEVERITY.index(result.outcome), *nearness(result.headroom, result.margin)


def nearness(headroom: float | None, margin: float) -> tuple[bool, float, float]:
    """Return what orders requirements by how near they are to their bound, the nearest or farthest beyond it first."""
    return headroom is None, 0.0 if headroom is None else headroom, margin


def _requirement_rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Return each requirement with what was found, the worst first, as texts below a head."""
    ordered = sorted(results, key=_severity)
    found: list[tuple[str, ...]] = [
        (
            result.outcome,
            str(result.requirement),
            number(result.value, result.requirement.bound),
            "" if result.interval is None else f"[{number(result.interval.low)}, {number(result.interval.high)}]",
            number(result.count),
        )
        for result in ordered
    ]
    rows: list[tuple[str, ...]] = [("outcome", "required", "found", "interval", "n"), *found]
    return rows if any(result.interval for result in results) else [(*row[:3], row[4]) for row in rows]


@explains_keywords
def judge(measurement: Measurement, requirements: Requirement | str | Sequence[Requirement | str]) -> Check:
    """Compare a measurement's metrics with requirements, of which each may be a text such as "agreement >= 0.99".

    Raises InvalidArgumentError when there is no requirement, when one names a metric that was not measured, or
    asks for a confidence level where the metric has no sample behind it, and ObservationError when a model that does no
    work, of which the measurement says what it would get, meets them all. A value that is NaN is an error.

    >>> measurement = Measurement("predictions", {"agreement": 0.98}, {"agreement": 100})
    >>> judge(measurement, [Requirement("agreement", "min", 0.99)]).outcome
    'fail'
    """
    if not isinstance(measurement, Measurement):
        _reject_measurement("judge", measurement)
    asked = as_requirements("judge", requirements)
    if not asked:
        reject("judge", "requirements", requirements, "a check without requirements would pass whatever was found")
    results = tuple(_judge_one(measurement, requirement) for requirement in asked)
    scopes, doubts = _scopes(measurement, asked), doubts_of_requirements(measurement, asked)
    if scopes or doubts:
        measurement = dataclasses.replace(measurement, notes=(*scopes, *measurement.notes, *doubts))
    return Check(measurement, results)


def _reject_measurement(owner: str, given: object) -> NoReturn:
    told = "must be a Measurement, as a comparison returns"
    if isinstance(given, Check):
        told = f"{told}; a Check has one as its .measurement"
    elif isinstance(given, Mapping):
        told = f'{told}; give that of a level, as found["predictions"]'
    elif isinstance(given, (list, tuple, Requirement, str)):
        told = f"{told}; the measurement comes first, and the requirements second"
    reject(owner, "measurement", type(given).__name__, told)


def _judge_one(measurement: Measurement, requirement: Requirement) -> Result:
    metric = requirement.metric
    if metric not in measurement.metrics:
        reason = measurement.details.get(NOT_KNOWN, {}).get(metric)
        if reason is not None:
            reject("judge", "metric", metric, f"its value is not known: {reason}")
        measured = f"measured only {', '.join(sorted(measurement.metrics))}"
        near = did_you_mean(metric, measurement.metrics)
        reject("judge", "metric", metric, f"comparison {measurement.comparison!r} {measured}{near and f'; {near}'}")
    value = measurement.metrics[metric]
    count = measurement.counts.get(metric, 0)
    if math.isnan(value) or count == 0:
        return Result(requirement, "error", value, count)
    if requirement.confidence is None:
        return Result(requirement, "pass" if requirement.holds(value) else "fail", value, count)
    if metric not in measurement.evidence:
        rule = f"{metric} is a value on the given data only; no claim about the population can be made from it"
        reject("judge", "confidence", requirement.confidence, rule)
    confidence = _shared_confidence(requirement)
    result = _judge_claim(requirement, confidence, value, count, measurement.evidence[metric])
    clusters, worth = measurement.details.get("clusters"), measurement.details.get("distinct_share")
    return dataclasses.replace(
        result,
        clusters=None if clusters is None else clusters["count"],
        distinct=None if worth is None else round(count * worth),
    )


def _shared_confidence(requirement: Requirement) -> float:
    """Return the confidence of a claim: each of a family has its share of the error."""
    assert requirement.confidence is not None  # or there is no claim
    return 1 - (1 - requirement.confidence) / requirement.family


def _scopes(measurement: Measurement, requirements: Sequence[Requirement]) -> tuple[str, ...]:
    """Return what claims are about, where their evidence says so."""
    found = []
    for requirement in requirements:
        scope = getattr(measurement.evidence.get(requirement.metric), "scope", None)
        if requirement.confidence is not None and scope is not None:
            found.append(scope(_shared_confidence(requirement)))
    return tuple(dict.fromkeys(one for one in found if one is not None))


def _judge_claim(requirement: Requirement, confidence: float, value: float, count: int, evidence: Evidence) -> Result:
    interval = evidence.interval(confidence)
    outcome = _claim_outcome(requirement, interval)
    needed = None
    if outcome == "inconclusive":
        needed = examples_needed(
            evidence, lambda wider: _claim_outcome(requirement, wider) != "inconclusive", confidence
        )
    groups: tuple[GroupVerdict, ...] = ()
    if isinstance(evidence, GroupEvidence) and evidence.direction == requirement.direction:
        groups = evidence.verdicts(requirement.bound, confidence)
    if outcome == "pass":  # the claim that was proven is that of all groups at once
        groups = tuple(dataclasses.replace(group, verdict="proven") for group in groups)
    found = None
    if outcome == "pass":
        found = detectable(evidence, requirement.direction, requirement.bound, confidence, value)
    return Result(requirement, outcome, value, count, interval, needed, groups, detectable=found)


def _claim_outcome(requirement: Requirement, interval: Interval) -> Outcome:
    held, refuted = (interval.low, interval.high) if requirement.direction == "min" else (interval.high, interval.low)
    if requirement.holds(held):
        return "pass"
    return "inconclusive" if requirement.holds(refuted) else "fail"
