"""The footprint as an assertion: smaller, or faster."""

from __future__ import annotations

from typing import Any

from typing_extensions import Unpack

from cp_compress.fidelity.footprints import compare_footprints
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.observing.refusals import require_difference, require_source
from cp_compress.fidelity.observing.runner import Model
from pytest_cp.assertions.bounds import FootprintBounds
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import build_requirements, conclude, recording_errors, returning_twin
from pytest_cp.checks.naming import describe_models
from pytest_cp.checks.recorder import Record
from pytest_cp.checks.records import note_subjects
from pytest_cp.errors import FootprintNotReducedError


@taking_bounds(METRICS["footprint"].values())
def assert_footprint(
    compressed: Model,
    reference: Model,
    *,
    example_input: Any = None,
    **bounds: Unpack[FootprintBounds],
) -> Check:
    """Assert that the compressed model is smaller, or faster, than the reference.

    Args:
        compressed: The candidate.
        reference: The model that it is compared with.
        example_input: A batch, which `max_flops_ratio` and `min_speedup` need.
        **bounds: The requirements; one or more. Sizes are those of the files that `save` writes, latencies are measured
            in turns. `min_coverage` is the least share of the reference's weights that must have changed; one that
            cannot be known does not hold.

    Returns:
        The check, whose `measurement` holds what was measured of each model.

    Raises:
        FootprintNotReducedError: If a requirement does not hold.
        NothingComparedError: If both models are the same.
        InvalidArgumentError: If no requirement is given, or an argument is not as described.
    """
    __tracebackhide__ = True
    assertion = "assert_footprint"
    requirements = build_requirements(assertion, METRICS["footprint"].values(), bounds, None)
    subjects: Record = {}
    with recording_errors(assertion, subjects):
        require_difference(compressed, reference, None, None)
        require_source(compressed, reference)
        subjects |= describe_models(compressed, reference, None)
        asked = [requirement.metric for requirement in requirements]
        measurement = compare_footprints(compressed, reference, example_input, asked)
        note_subjects(compressed, reference)
    return conclude(measurement, requirements, assertion, subjects, FootprintNotReducedError)


check_footprint = returning_twin(assert_footprint)
