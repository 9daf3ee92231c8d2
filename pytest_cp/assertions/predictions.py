"""Level A as an assertion: the predictions stay."""

from __future__ import annotations

from typing import Any

from cp_compress.fidelity.judgement import Check
from cp_compress.fidelity.measurement import Measurement
from cp_compress.fidelity.observation import Observation
from cp_compress.fidelity.predictions import ClassDistance, Weights, compare_predictions
from cp_compress.fidelity.running import Model
from pytest_cp.checking import assert_pair, build_requirements, returning_twin
from pytest_cp.errors import PredictionsNotPreservedError


def assert_preserved_predictions(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    compressed_dataset: Any = None,
    min_agreement: float | None = None,
    min_accuracy: float | None = None,
    max_accuracy_drop: float | None = None,
    max_class_accuracy_drop: float | None = None,
    max_cost: float | None = None,
    class_distance: ClassDistance | None = None,
    weights: Weights | None = None,
    confidence: float | None = None,
) -> Check:
    """Level A: assert that the compressed model's predictions are the reference's.

    `compressed_dataset` is what the compressed model reads instead of `dataset`. Shares and drops are numbers in
    [0, 1]; `class_distance` and `weights` define the cost as in `compare_predictions`. Raises
    PredictionsNotPreservedError, and NothingComparedError when model and data are the same on both sides.
    """
    __tracebackhide__ = True
    requirements = build_requirements(
        "assert_preserved_predictions",
        confidence,
        at_least={"agreement": min_agreement, "accuracy": min_accuracy},
        at_most={
            "accuracy_drop": max_accuracy_drop,
            "max_class_accuracy_drop": max_class_accuracy_drop,
            "cost": max_cost,
        },
    )

    def compare(candidate: Observation, original: Observation) -> Measurement:
        return compare_predictions(candidate, original, class_distance=class_distance, weights=weights)

    return assert_pair(
        (compressed, reference, dataset, compressed_dataset),
        compare,
        requirements,
        "assert_preserved_predictions",
        PredictionsNotPreservedError,
    )


check_preserved_predictions = returning_twin(assert_preserved_predictions)
