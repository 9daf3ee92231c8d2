"""Whether requirements tell a good candidate from one that does no work: held against what such a model would get."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.judging.metrics import known_metric

if TYPE_CHECKING:
    from cp_compress.fidelity.judging.judgement import Requirement
    from cp_compress.fidelity.judging.measurement import Measurement

KEY = "without_skill"
"""Where the details of a measurement say what models that do no work would get."""

_FEWEST = 20


def unskilled(model: str, metrics: Mapping[str, float], count: int) -> dict[str, Any]:
    """Return what a model that does no work, in words such as "a model that finds nothing", would get.

    `count` is the number of examples by which it is known; with fewer than 20 nothing is refused.
    """
    return {"model": model, "metrics": dict(metrics), "count": count}


def doubts_of_requirements(measurement: Measurement, requirements: Sequence[Requirement]) -> tuple[str, ...]:
    """Return notes on requirements that a model that does no work would meet, all of them.

    Raises ObservationError where 20 examples or more say so. A bound at the end of a metric's range, such as agreement
    ≥ 0, is there to measure, and is left out.
    """
    asked = [one for one in requirements if not _always_holds(one)]
    notes: list[str] = []
    for found in measurement.details.get(KEY, ()) if asked else ():
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


def _always_holds(requirement: Requirement) -> bool:
    metric = known_metric(requirement.metric)
    return metric is not None and requirement.bound == (metric.low if requirement.direction == "min" else metric.high)
