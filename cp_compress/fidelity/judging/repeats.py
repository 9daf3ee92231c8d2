"""Claims about the population count an example once, however often it is repeated in the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.judging.requirement import Requirement
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.inputs.distinct import effective_count, identical_groups


def count_once(measurement: Measurement, reference: Observation, requirements: Sequence[Requirement]) -> Measurement:
    """Return a measurement whose evidence is that of distinct examples, where a requirement has a confidence.

    The values stay as they are; the evidence is scaled from the number of examples to what they are worth
    (`effective_count`), and a note says so. The inputs are those of the reference.
    """
    if not measurement.evidence or all(one.confidence is None for one in requirements):
        return measurement
    if measurement.details.get("clusters") is not None:  # whoever made them has counted what belongs together
        return measurement
    groups = reference.remember(("identical groups",), lambda: identical_groups(reference.data))
    used = measurement.per_example.get("example")
    if used is not None and used.dtype == groups.dtype:
        groups = groups[used]
    distinct = len(torch.unique(groups))
    if distinct == len(groups):
        return measurement
    worth = effective_count(groups)
    evidence = {name: one.scaled(worth / len(groups)) for name, one in measurement.evidence.items()}
    weighed = "" if round(worth) == distinct else f", some more often than others, so they are worth {worth:.1f}"
    note = f"{distinct} of {len(groups)} examples are distinct{weighed}: claims at a confidence count each once"
    details = {**measurement.details, "distinct_share": worth / len(groups)}
    return dataclasses.replace(measurement, evidence=evidence, notes=(*measurement.notes, note), details=details)
