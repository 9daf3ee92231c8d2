"""Bounds for a first gate, from what is noise: how far equivalent references are from each other on the given data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from cp_compress.base.arguments import check_real, reject
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import CompressionError, InvalidArgumentError, NothingComparedError, ObservationError
from cp_compress.fidelity.comparisons import COMPARISONS, known_comparisons
from cp_compress.fidelity.judging.fresh_data import broken_by, fresh_limit
from cp_compress.fidelity.judging.intervals import Evidence
from cp_compress.fidelity.judging.metric import Direction, Metric
from cp_compress.fidelity.judging.requirement import Requirement
from cp_compress.fidelity.judging.telling import require_telling
from cp_compress.fidelity.observing.observation import Observation, as_observations
from cp_compress.fidelity.observing.outputs import NoLogitsError
from cp_compress.fidelity.observing.refusals import require_known_batches

_FALSE_ALARMS = 0.05  # on fresh data, of all proposed bounds together


@dataclass(frozen=True)
class Proposal:
    """A bound for one metric of a level, what it rests on, and what candidates have there.

    `noise` is the worst value between equivalent references, `count` the number of samples behind it; `options` are
    those of the comparison. `candidates` maps names to values. `found` is the true value that breaks the bound on four
    fifths of fresh data sets of as many examples; None where that cannot be told from one data set.
    """

    level: str
    metric: str
    direction: Direction
    bound: float
    noise: float
    count: int
    options: Mapping[str, Any] = field(default_factory=dict)
    candidates: Mapping[str, float] = field(default_factory=dict)
    found: float | None = None

    def holds(self, value: float) -> bool:
        """Tell whether a value keeps the bound."""
        return value >= self.bound if self.direction == "min" else value <= self.bound

    def as_requirement(self) -> Requirement:
        """Return the bound as a requirement on the value of the examples."""
        return Requirement(self.metric, self.direction, self.bound)


PROPOSED_LEVELS = tuple(name for name, comparison in COMPARISONS.items() if comparison.proposed)
"""The comparisons for which bounds are proposed."""


def propose(
    references: Sequence[Observation],
    candidates: Mapping[str, Observation] | None = None,
    *,
    levels: Sequence[str] = PROPOSED_LEVELS,
    slack: float = 4.0,
    seed: int = 0,
) -> list[Proposal]:
    """Return bounds within which a compressed model differs little more than equivalent references do.

    A bound lies `slack` times as far from the value of an unchanged model as the worst pair of references does, and at
    least as far as chance alone moves the value of any pair on fresh data of as many examples, where the metric has a
    sample behind it: on such data, candidates that are no worse than the worst pair break any of these bounds in 5 % of
    cases. Bounds are rounded outwards to three digits. Where some classes have less than a quarter of the examples of
    the middle one, they are left out of the bound on classes (`min_class_examples` in the options).

    Args:
        references: Two observations or more of the same examples, the reference first: networks trained from other
            seeds, or this one in another number format.
        candidates: Observations by name; they are compared with the first reference, so that a reader sees which of
            them keep the bounds.
        levels: Names of comparisons that declare metrics to propose bounds for.
        slack: How many times the noise is allowed, 1 or more.
        seed: The seed of every random choice.

    Returns:
        One proposal for each metric that has a value.

    Raises:
        InvalidArgumentError: If there are fewer than two references, a level is unknown, or the slack is below 1.
        ObservationError: If the data cannot tell a good candidate from a ruined one by these bounds, or answers depend
            on batches of which nobody has said which are deployed.

    >>> from cp_compress.examples import digits, digits_cnn
    >>> from cp_compress.fidelity import observe
    >>> from cp_compress.model import Quantize
    >>> model = digits_cnn()
    >>> same = [observe(model, digits()), observe(Quantize("bfloat16").compress(model), digits())]
    >>> [(one.metric, one.bound > 0.9) for one in propose(same, levels=["embeddings"])]
    [('cka', True)]
    """
    _check_arguments(levels, slack)
    return [one for name in levels for one in _propose_level(name, references, candidates or {}, slack, seed)[0]]


def propose_applicable(
    references: Sequence[Observation],
    candidates: Mapping[str, Observation] | None = None,
    *,
    levels: Sequence[str] = PROPOSED_LEVELS,
    slack: float = 4.0,
    seed: int = 0,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[list[Proposal], dict[str, str]]:
    """Return what `propose` does for the levels that can be compared, and why others, and single metrics, are left out.

    Args:
        references: As in `propose`.
        candidates: As in `propose`.
        levels: As in `propose`.
        slack: As in `propose`.
        seed: As in `propose`.
        options: Options of the comparisons, by the name of each level.

    Returns:
        The proposals, and the reasons by the names of levels, such as "boundaries", and of metrics in them, such as
        "predictions.agreement".

    Raises:
        InvalidArgumentError: As in `propose`.
        ObservationError: If the models cannot be run on the data, or as in `propose`.
    """
    _check_arguments(levels, slack)
    found: list[Proposal] = []
    left_out: dict[str, str] = {}
    for name in levels:
        try:
            own = (options or {}).get(name, {})
            proposals, reasons = _propose_level(name, references, candidates or {}, slack, seed, own)
        except (CompressionError, InvalidArgumentError, NothingComparedError, ObservationError) as error:
            if name == "predictions" and not isinstance(error, NoLogitsError):
                raise  # what cannot be run has no other level either
            left_out[name] = shortened(error, 300)
            continue
        found += proposals
        left_out |= reasons
    return found, left_out


def _check_arguments(levels: Sequence[str], slack: float) -> None:
    check_real("propose", "slack", slack, "must be 1 or more: how many times the noise is allowed", at_least=1)
    known = [name for name, comparison in known_comparisons().items() if comparison.proposed]
    if not levels or any(level not in known for level in levels):
        reject("propose", "levels", list(levels), f"known are {', '.join(known)}")


def _propose_level(
    name: str,
    references: Sequence[Observation],
    candidates: Mapping[str, Observation],
    slack: float,
    seed: int,
    chosen: Mapping[str, Any] | None = None,
) -> tuple[list[Proposal], dict[str, str]]:
    """Return the bounds of a level, and why some of its metrics have none."""
    seen = as_observations("propose", "references", references, at_least=2)
    for other in (*seen, *candidates.values()):
        require_known_batches(other, seen[0])
    known = known_comparisons()
    level, error = known[name], _FALSE_ALARMS / sum(len(known[each].proposed) for each in PROPOSED_LEVELS)
    options = {**level.proposed_options, **(chosen or {})}
    if "examples" in options:
        options["examples"] = min(options["examples"], len(references[0]))
    seeded = options | {"seed": seed} if "seed" in level.options else options
    if "max_class_accuracy_drop" in level.proposed and "min_class_examples" in level.options:
        least = _least_class(references[0])
        seeded, options = ({**each, "min_class_examples": least} if least > 1 else each for each in (seeded, options))
    pairs = [level.compare(one, other, **seeded) for one, other in itertools.permutations(seen, 2)]
    compared = {
        other: level.compare(observation, references[0], **seeded).metrics for other, observation in candidates.items()
    }
    found: list[Proposal] = []
    left_out: dict[str, str] = {}
    for declared in map(level.metric, level.proposed):
        metric, direction = declared.name, declared.direction
        assert direction is not None
        choose = min if direction == "min" else max
        worst = choose((pair.metrics.get(metric, math.nan) for pair in pairs), default=math.nan)
        if math.isnan(worst) or any(math.isnan(pair.metrics[metric]) for pair in pairs):
            missing = metric not in pairs[0].metrics and not seen[0].labeled
            reason = "the data has no labels" if missing else "it has no value on these examples"
            left_out[f"{name}.{metric}"] = _or_start(reason, declared)
            continue
        samples = [pair.evidence[metric] for pair in pairs if metric in pair.evidence]
        bound = _bound(declared, direction, worst, samples, slack, error)
        count = pairs[0].counts.get(metric, 0)
        if bound == (declared.low if direction == "min" else declared.high):
            few = f"on so few examples (n = {count}) chance alone can bring any value"
            left_out[f"{name}.{metric}"] = _or_start(few if samples else "the noise can bring any value", declared)
            continue
        values = {other: metrics[metric] for other, metrics in compared.items()}
        least_found = broken_by(samples[0], direction, bound) if samples else None
        found.append(Proposal(name, metric, direction, bound, worst, count, options, values, least_found))
    require_telling(seen[0], [proposal.as_requirement() for proposal in found])
    return found, left_out


def _or_start(reason: str, metric: Metric) -> str:
    """Return why a metric has no proposal, with the bound that its declaration starts from where it has one."""
    return reason if metric.start is None else f"{reason}; a bound to start from: {metric.argument} = {metric.start:g}"


def _least_class(reference: Observation) -> int:
    """Return how many examples a class must have to count: a quarter of the middle one, 1 where all have as many."""
    if reference.task != "single_label" or not reference.labeled:
        return 1
    counts = torch.bincount(reference.labels)
    counts = counts[counts > 0]
    least = math.ceil(float(counts.double().median()) / 4)
    return least if int(counts.min()) < least else 1


def _bound(
    metric: Metric, direction: Direction, worst: float, samples: Sequence[Evidence], slack: float, error: float
) -> float:
    """Return the looser of what the slack and what chance allow, rounded outwards, within what the metric can be."""
    assert metric.unchanged is not None  # which `Comparison` has checked
    choose = min if direction == "min" else max
    away = metric.unchanged + slack * (worst - metric.unchanged)
    bound = choose([away, worst, *(fresh_limit(sample, direction, error) for sample in samples)])
    return min(metric.high, max(metric.low, _outwards(bound, direction) if math.isfinite(bound) else bound))


def _outwards(value: float, direction: Direction) -> float:
    rounded = (math.floor if direction == "min" else math.ceil)(value * 1000) / 1000
    if rounded == 0 and value != 0:  # a bound of 0 would allow nothing
        digits = 3 - math.ceil(math.log10(abs(value)))
        rounded = (math.floor if direction == "min" else math.ceil)(value * 10**digits) / 10**digits
    return rounded
