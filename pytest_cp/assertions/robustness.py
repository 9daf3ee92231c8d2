"""Corrupted images as an assertion: the compressed model stands them as the reference does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.robustness import compare_robustness
from pytest_cp.checks.call_options import keeping_options
from pytest_cp.checks.conclusion import assert_pair, build_requirements, returning_twin
from pytest_cp.checks.execution import current_execution
from pytest_cp.errors import RobustnessNotPreservedError


@keeping_options
def assert_robustness(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    compressed_dataset: Any = None,
    corruptions: Sequence[str] | str = "all",
    severities: Sequence[int] = (1, 3, 5),
    examples: int | Sequence[int] | None = None,
    min_corrupted_agreement: float | None = None,
    min_worst_corrupted_agreement: float | None = None,
    max_corrupted_accuracy_drop: float | None = None,
    max_worst_corrupted_accuracy_drop: float | None = None,
    max_corruption_error_ratio: float | None = None,
    confidence: float | None = None,
) -> Check:
    """Level D: assert that the compressed model answers corrupted images as the reference does.

    The arguments are those of `compare_robustness`. `min_corrupted_agreement` and `max_corrupted_accuracy_drop` bound
    means over all corruptions and severities, the `worst` ones their worst cell, all in [0, 1];
    `max_corruption_error_ratio` the candidate's errors over the reference's. Only `min_corrupted_agreement` takes a
    `confidence`. Raises RobustnessNotPreservedError, and NothingComparedError when model and data are the same.
    """
    __tracebackhide__ = True
    requirements = build_requirements(
        "assert_robustness",
        confidence,
        at_least={
            "corrupted_agreement": min_corrupted_agreement,
            "worst_corrupted_agreement": min_worst_corrupted_agreement,
        },
        at_most={
            "corrupted_accuracy_drop": max_corrupted_accuracy_drop,
            "worst_corrupted_accuracy_drop": max_worst_corrupted_accuracy_drop,
            "corruption_error_ratio": max_corruption_error_ratio,
        },
    )

    def compare(candidate: Observation, original: Observation) -> Measurement:
        return compare_robustness(
            candidate, original, corruptions, severities, examples=examples, seed=current_execution().seed
        )

    return assert_pair(
        (compressed, reference, dataset, compressed_dataset),
        compare,
        requirements,
        "assert_robustness",
        RobustnessNotPreservedError,
    )


check_robustness = returning_twin(assert_robustness)
