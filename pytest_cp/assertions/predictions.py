"""Level A as an assertion: the predictions stay."""

from __future__ import annotations

from typing import Any

from cp_compress.base.arguments import reject
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.predictions.class_distances import ClassDistance, Weights, check_class_distance
from cp_compress.fidelity.predictions.comparison import compare_predictions
from cp_compress.fidelity.predictions.tables import Slices
from pytest_cp.checks.call_options import keeping_options
from pytest_cp.checks.conclusion import assert_pair, build_requirements, returning_twin
from pytest_cp.errors import PredictionsNotPreservedError


@keeping_options
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
    max_newly_wrong: float | None = None,
    max_ece_change: float | None = None,
    min_top_k_agreement: float | None = None,
    max_mean_kl: float | None = None,
    max_mean_logit_distance: float | None = None,
    max_slice_accuracy_drop: float | None = None,
    min_slice_agreement: float | None = None,
    min_exact_agreement: float | None = None,
    max_mean_class_iou_drop: float | None = None,
    min_agreement_iou: float | None = None,
    class_distance: ClassDistance | None = None,
    weights: Weights | None = None,
    slices: Slices | None = None,
    top_k: int = 5,
    confidence: float | None = None,
) -> Check:
    """Level A: assert that the compressed model's predictions are the reference's.

    `compressed_dataset` is what the compressed model reads instead of `dataset`. Shares and drops are numbers in
    [0, 1]; `class_distance` and `weights` define the cost, `slices` the named subsets of the examples, as in
    `compare_predictions`, which says what each metric is. A claim about the worst class or slice (`confidence=`) says
    of each what is proven and refuted, with Holm's correction. For multi-label, dense and sequence data
    (`TaskDataset`) the metrics are those of `compare_structured`. Raises PredictionsNotPreservedError, and
    NothingComparedError when model and data are the same on both sides.
    """
    __tracebackhide__ = True
    requirements = build_requirements(
        "assert_preserved_predictions",
        confidence,
        at_least={
            "agreement": min_agreement,
            "accuracy": min_accuracy,
            "top_k_agreement": min_top_k_agreement,
            "min_slice_agreement": min_slice_agreement,
            "exact_agreement": min_exact_agreement,
            "agreement_iou": min_agreement_iou,
        },
        at_most={
            "accuracy_drop": max_accuracy_drop,
            "max_class_accuracy_drop": max_class_accuracy_drop,
            "cost": max_cost,
            "newly_wrong": max_newly_wrong,
            "ece_change": max_ece_change,
            "mean_kl": max_mean_kl,
            "mean_logit_distance": max_mean_logit_distance,
            "max_slice_accuracy_drop": max_slice_accuracy_drop,
            "mean_class_iou_drop": max_mean_class_iou_drop,
        },
    )
    if slices is None and (max_slice_accuracy_drop is not None or min_slice_agreement is not None):
        reject("assert_preserved_predictions", "slices", None, "name the subsets that a requirement on slices is about")

    check_class_distance(class_distance, "assert_preserved_predictions")

    def compare(candidate: Observation, original: Observation) -> Measurement:
        return compare_predictions(
            candidate, original, class_distance=class_distance, weights=weights, slices=slices, top_k=top_k
        )

    return assert_pair(
        (compressed, reference, dataset, compressed_dataset),
        compare,
        requirements,
        "assert_preserved_predictions",
        PredictionsNotPreservedError,
    )


check_preserved_predictions = returning_twin(assert_preserved_predictions)
