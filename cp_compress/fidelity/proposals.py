"""Bounds for a first gate, from what is noise: how far equivalent references are from each other on the given data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cp_compress.base.arguments import check_real, reject
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import CompressionError, InvalidArgumentError, NothingComparedError, ObservationError
from cp_compress.fidelity.attributions.comparison import compare_attributions
from cp_compress.fidelity.boundaries.gate_directions import compare_standard_boundaries
from cp_compress.fidelity.embeddings.comparison import compare_embeddings
from cp_compress.fidelity.judging.measurement import Measurement, metric_range
from cp_compress.fidelity.judging.noise_floors import noise_floor
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.predictions.comparison import compare_predictions

_CONFIDENCE = 0.95
_EXAMPLES = 64
_RAYS = 32


@dataclass(frozen=True)
class Proposal:
    """A bound for one metric of a level, what it rests on, and what candidates have there.

    `noise` is the worst value between equivalent references, `count` the number of samples behind it; `options` are
    those of the comparison. `candidates` maps names to values.
    """

    level: str
    metric: str
    direction: Literal["min", "max"]
    bound: float
    noise: float
    count: int
    options: Mapping[str, Any] = field(default_factory=dict)
    candidates: Mapping[str, float] = field(default_factory=dict)

    def holds(self, value: float) -> bool:
        """Tell whether a value keeps the bound."""
        return value >= self.bound if self.direction == "min" else value <= self.bound


@dataclass(frozen=True)
class _Level:
    compare: Callable[..., Measurement]
    metrics: tuple[tuple[str, Literal["min", "max"], float], ...]  # the value of an unchanged model is the third
    options: Mapping[str, Any] = field(default_factory=dict)


_LEVELS: Mapping[str, _Level] = {
    "predictions": _Level(
        compare_predictions,
        (("agreement", "min", 1.0), ("accuracy_drop", "max", 0.0), ("max_class_accuracy_drop", "max", 0.0)),
    ),
    "embeddings": _Level(compare_embeddings, (("cka", "min", 1.0),)),
    "attributions": _Level(compare_attributions, (("mean_iou", "min", 1.0),), {"examples": _EXAMPLES}),
    "boundaries": _Level(compare_standard_boundaries, (("median_change", "max", 0.0),), {"examples": _RAYS}),
}


def propose(
    references: Sequence[Observation],
    candidates: Mapping[str, Observation] | None = None,
    *,
    levels: Sequence[str] = tuple(_LEVELS),
    slack: float = 4.0,
    seed: int = 0,
) -> list[Proposal]:
    """Return bounds within which a compressed model differs little more than equivalent references do.

    `references` are two observations or more of the same examples, the reference first: networks trained from other
    seeds, or this one in another number format. A bound lies `slack` times as far from the value of an unchanged
    model as the worst pair does, and at least as far as chance alone can move the worst pair's value on so many
    examples (the one-sided 95 % bound, where the metric has one). It is rounded outwards to three digits.
    `candidates` are compared with the first reference, so that a reader sees who keeps the bounds. `levels` are of
    "predictions", "embeddings", "attributions" and "boundaries".

    Raises InvalidArgumentError for fewer than two references, unknown levels and a slack below 1.

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
    levels: Sequence[str] = tuple(_LEVELS),
    slack: float = 4.0,
    seed: int = 0,
) -> tuple[list[Proposal], dict[str, str]]:
    """Return what `propose` does for the levels that can be compared, and why others, and single metrics, are left out.

    The reasons have names of levels, such as "boundaries", and of metrics in them, such as "predictions.agreement".
    Raises what `propose` raises where not even predictions can be compared.
    """
    _check_arguments(levels, slack)
    found: list[Proposal] = []
    left_out: dict[str, str] = {}
    for name in levels:
        try:
            proposals, reasons = _propose_level(name, references, candidates or {}, slack, seed)
        except (CompressionError, InvalidArgumentError, NothingComparedError, ObservationError) as error:
            if name == "predictions":
                raise  # what has no answers to compare has no other level either
            left_out[name] = shortened(error, 300)
            continue
        found += proposals
        left_out |= reasons
    return found, left_out


def _check_arguments(levels: Sequence[str], slack: float) -> None:
    check_real("propose", "slack", slack, "must be 1 or more: how many times the noise is allowed", at_least=1)
    unknown = [level for level in levels if level not in _LEVELS]
    if unknown or not levels:
        reject("propose", "levels", list(levels), f"known are {', '.join(_LEVELS)}")


def _propose_level(
    name: str, references: Sequence[Observation], candidates: Mapping[str, Observation], slack: float, seed: int
) -> tuple[list[Proposal], dict[str, str]]:
    """Return the bounds of a level, and why some of its metrics have none."""
    level = _LEVELS[name]
    options = dict(level.options)
    if "examples" in options:
        options["examples"] = min(options["examples"], len(references[0]))
    seeded = options if name == "predictions" else options | {"seed": seed}
    floor = noise_floor(references, level.compare, **seeded)
    pair = level.compare(references[1], references[0], **seeded)
    compared = {
        other: level.compare(observation, references[0], **seeded).metrics for other, observation in candidates.items()
    }
    found: list[Proposal] = []
    left_out: dict[str, str] = {}
    for metric, direction, unchanged in level.metrics:
        worst = (min if direction == "min" else max)(floor.values.get(metric, (math.nan,)))
        if math.isnan(worst):
            left_out[f"{name}.{metric}"] = "it has no value on these examples"
            continue
        bound = _bound(metric, direction, unchanged, worst, pair, slack)
        count = pair.counts.get(metric, 0)
        if bound == metric_range(metric)[0 if direction == "min" else 1]:
            few = f"on so few examples (n = {count}) chance alone can bring any value"
            left_out[f"{name}.{metric}"] = few if metric in pair.evidence else "the noise can bring any value"
            continue
        values = {other: metrics[metric] for other, metrics in compared.items()}
        found.append(Proposal(name, metric, direction, bound, worst, count, options, values))
    return found, left_out


def _bound(
    metric: str, direction: Literal["min", "max"], unchanged: float, worst: float, pair: Measurement, slack: float
) -> float:
    """Return the looser of what the slack and what chance allow, rounded outwards, within what the metric can be."""
    away = unchanged + slack * (worst - unchanged)
    choose = min if direction == "min" else max
    bound = choose(away, worst)
    if metric in pair.evidence:
        interval = pair.evidence[metric].interval(_CONFIDENCE)
        bound = choose(bound, interval.low if direction == "min" else interval.high)
    low, high = metric_range(metric)
    return min(high, max(low, _outwards(bound, direction) if math.isfinite(bound) else bound))


def _outwards(value: float, direction: Literal["min", "max"]) -> float:
    rounded = (math.floor if direction == "min" else math.ceil)(value * 1000) / 1000
    if rounded == 0 and value != 0:  # a bound of 0 would allow nothing
        digits = 3 - math.ceil(math.log10(abs(value)))
        rounded = (math.floor if direction == "min" else math.ceil)(value * 10**digits) / 10**digits
    return rounded
