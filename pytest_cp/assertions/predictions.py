"""Level A as an assertion: the predictions stay."""

from __future__ import annotations

from typing import Any

from typing_extensions import Unpack

from cp_compress.base.arguments import reject
from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.predictions.class_distances import ClassDistance, Weights, check_class_distance
from cp_compress.fidelity.predictions.tables import Slices
from pytest_cp.assertions.bounds import PredictionsBounds
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import assert_behaviour, build_requirements, returning_twin
from pytest_cp.errors import PredictionsNotPreservedError


@taking_bounds(METRICS["predictions"].values())
def assert_preserved_predictions(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    compressed_dataset: Any = None,
    class_distance: ClassDistance | None = None,
    weights: Weights | None = None,
    slices: Slices | None = None,
    top_k: int = 5,
    confidence: float | None = None,
    **bounds: Unpack[PredictionsBounds],
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
    assertion = "assert_preserved_predictions"
    requirements = build_requirements(assertion, METRICS["predictions"].values(), bounds, confidence)
    if slices is None and any("_slice_" in requirement.metric for requirement in requirements):
        reject(assertion, "slices", None, "name the subsets that a requirement on slices is about")
    check_class_distance(class_distance, assertion)
    return assert_behaviour(
        COMPARISONS["predictions"],
        (compressed, reference, dataset, compressed_dataset),
        requirements,
        assertion,
        PredictionsNotPreservedError,
        {"class_distance": class_distance, "weights": weights, "slices": slices, "top_k": top_k},
    )


check_preserved_predictions = returning_twin(assert_preserved_predictions)
