"""A measurement of the user's own as an assertion: whatever it compares."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.judging.requirement import Requirement, as_requirements
from cp_compress.fidelity.observing.refusals import (
    require_difference,
    require_order,
    require_originals,
    require_source,
)
from cp_compress.fidelity.observing.runner import Model
from cp_compress.inputs.reading import LabeledData
from pytest_cp.checks.conclusion import conclude, recording_errors, returning_twin
from pytest_cp.checks.naming import describe_data, describe_models
from pytest_cp.checks.recorder import Record
from pytest_cp.checks.records import note_subjects, noting_refusals
from pytest_cp.errors import ComparisonNotPreservedError

_ASSERTION = "assert_measurement"


@explains_keywords
def assert_measurement(
    measurement: Measurement,
    requirements: Requirement | str | Sequence[Requirement | str],
    *,
    compressed: Model,
    reference: Model,
    dataset: Any = None,
    compressed_dataset: Any = None,
    confidence: float | None = None,
) -> Check:
    """Assert what is required of a measurement that you have made yourself.

    The check is recorded, reported, held to its baseline and to waivers, and fails closed as every other one. Where the
    measurement is a function of two observations, `assert_comparison` also sees to it that the two were observed on the
    same examples.

    Args:
        measurement: What was found; `counts` says how many samples are behind each metric that is required.
        requirements: One requirement or more, as `Requirement("gap", "max", 0.1)`, or as texts such as
            "agreement >= 0.98" where the metric is known.
        compressed: The candidate that was measured.
        reference: The model that it was compared with; baselines are bound to its content.
        dataset: The examples that were used; None where there are none. Baselines are bound to their content.
        compressed_dataset: What the candidate read instead of `dataset`.
        confidence: The confidence of requirements that are written as texts, in [0.5, 1).

    Returns:
        The check.

    Raises:
        ComparisonNotPreservedError: If a requirement does not hold.
        NothingComparedError: If model and data are the same on both sides.
        InvalidArgumentError: If nothing is required, or `measurement` says of a required metric that no sample is
            behind it.
    """
    __tracebackhide__ = True
    with noting_refusals(_ASSERTION):
        asked = _read(requirements, confidence)
        _check(measurement, asked)
    subjects: Record = {}
    with recording_errors(_ASSERTION, subjects):
        subjects |= describe_models(compressed, reference, compressed_dataset)
        require_order(compressed, reference)
        require_source(compressed, reference)
        require_difference(compressed, reference, dataset, compressed_dataset)
        if dataset is not None:
            data = LabeledData(dataset)
            if compressed_dataset is not None:
                require_originals(LabeledData(compressed_dataset), data)
            subjects["data"] = describe_data(dataset, data.digest(), len(data))
        note_subjects(compressed, reference, (dataset, compressed_dataset))
    return conclude(measurement, asked, _ASSERTION, subjects, ComparisonNotPreservedError)


def _read(given: Any, confidence: float | None) -> list[Requirement]:
    several = [given] if isinstance(given, (Requirement, str)) else list(given if isinstance(given, Iterable) else ())
    if confidence is not None and any(isinstance(one, Requirement) for one in several):
        rule = "is for requirements that are written as texts: give each Requirement its own"
        reject(_ASSERTION, "confidence", confidence, rule)
    asked = as_requirements(_ASSERTION, given, confidence)
    if not asked:
        rule = 'give at least one Requirement, or a text such as "agreement >= 0.98"'
        reject(_ASSERTION, "requirements", given, rule)
    return asked


def _check(measurement: Measurement, asked: Sequence[Requirement]) -> None:
    if not isinstance(measurement, Measurement):
        rule = "must be a cp_compress.fidelity.Measurement: named metrics, and the number of samples behind each"
        reject(_ASSERTION, "measurement", type(measurement).__name__, rule)
    measurement.check(_ASSERTION)
    for requirement in asked:
        name = requirement.metric
        value = measurement.metrics.get(name)
        if value is not None and not math.isnan(value) and measurement.counts.get(name, 0) < 1:
            rule = f"says of {name} that no sample is behind it: give counts={{{name!r}: the number of samples}}"
            reject(_ASSERTION, "measurement.counts", dict(measurement.counts), rule)


check_measurement = returning_twin(assert_measurement)
