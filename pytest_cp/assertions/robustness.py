"""Corrupted images as an assertion: the compressed model stands them as the reference does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import Unpack

from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.observing.runner import Model
from pytest_cp.assertions.bounds import RobustnessBounds
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import assert_behaviour, build_requirements, returning_twin
from pytest_cp.errors import RobustnessNotPreservedError


@taking_bounds(METRICS["robustness"].values())
def assert_robustness(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    compressed_dataset: Any = None,
    corruptions: Sequence[str] | str = "all",
    severities: Sequence[int] = (1, 3, 5),
    examples: int | Sequence[int] | None = None,
    confidence: float | None = None,
    **bounds: Unpack[RobustnessBounds],
) -> Check:
    """Level D: assert that the compressed model answers corrupted images as the reference does.

    The arguments are those of `compare_robustness`. `min_corrupted_agreement` and `max_corrupted_accuracy_drop` bound
    means over all corruptions and severities, the `worst` ones their worst cell, all in [0, 1];
    `max_corruption_error_ratio` the candidate's errors over the reference's. Only `min_corrupted_agreement` takes a
    `confidence`. Raises RobustnessNotPreservedError, and NothingComparedError when model and data are the same.
    """
    __tracebackhide__ = True
    assertion = "assert_robustness"
    requirements = build_requirements(assertion, METRICS["robustness"].values(), bounds, confidence)
    return assert_behaviour(
        COMPARISONS["robustness"],
        (compressed, reference, dataset, compressed_dataset),
        requirements,
        assertion,
        RobustnessNotPreservedError,
        {"corruptions": corruptions, "severities": severities, "examples": examples},
    )


check_robustness = returning_twin(assert_robustness)
