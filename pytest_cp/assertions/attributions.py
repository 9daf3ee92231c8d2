"""Level C as an assertion: the model looks at the same places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cp_compress.base.arguments import check_real, reject
from cp_compress.fidelity.attributions.comparison import compare_attributions
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.observing.runner import Model
from pytest_cp.checks.call_options import keeping_options
from pytest_cp.checks.conclusion import assert_pair, build_requirements, returning_twin
from pytest_cp.checks.execution import current_execution
from pytest_cp.errors import AttributionsNotPreservedError


@keeping_options
def assert_attribution_iou(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    compressed_dataset: Any = None,
    method: Any = "saliency",
    examples: int | Sequence[int] | None = None,
    min_mean_iou: float | None = None,
    min_median_iou: float | None = None,
    min_corrected_iou: float | None = None,
    min_iou_quantile: tuple[float, float] | None = None,
    min_agreeing_mean_iou: float | None = None,
    min_rank_correlation: float | None = None,
    min_top_fraction_iou: float | None = None,
    top_fraction: float = 0.1,
    confidence: float | None = None,
) -> Check:
    """Level C: assert that the compressed model looks at the same parts of its inputs.

    `method` is an attribution method or its expression, such as "integrated_gradients(steps=50)"; `examples` a
    number of examples, spread evenly over the data set, or their indices (default: all). IoU values lie in
    [0, 1]; `min_iou_quantile=(0.1, 0.3)` requires the 10 % quantile over examples to be 0.3 or more.
    `min_agreeing_mean_iou` counts the examples on which both models predict one class, `min_rank_correlation`
    compares the order of all values, in [-1, 1], and `min_top_fraction_iou` the strongest places, a share
    `top_fraction` of all. Raises AttributionsNotPreservedError, and NothingComparedError when model and data are the
    same on both sides.
    """
    __tracebackhide__ = True
    quantile_metric, quantiles = _iou_quantile(min_iou_quantile)
    requirements = build_requirements(
        "assert_attribution_iou",
        confidence,
        at_least={
            "mean_iou": min_mean_iou,
            "median_iou": min_median_iou,
            "corrected_iou": min_corrected_iou,
            "agreeing_mean_iou": min_agreeing_mean_iou,
            "rank_correlation": min_rank_correlation,
            "top_fraction_iou": min_top_fraction_iou,
            **quantile_metric,
        },
    )

    def compare(candidate: Observation, original: Observation) -> Measurement:
        return compare_attributions(
            candidate,
            original,
            method,
            examples=examples,
            quantiles=quantiles,
            top_fraction=top_fraction,
            seed=current_execution().seed,
        )

    return assert_pair(
        (compressed, reference, dataset, compressed_dataset),
        compare,
        requirements,
        "assert_attribution_iou",
        AttributionsNotPreservedError,
    )


def _iou_quantile(requirement: tuple[float, float] | None) -> tuple[dict[str, float], tuple[float, ...]]:
    if requirement is None:
        return {}, ()
    if not isinstance(requirement, (tuple, list)) or len(requirement) != 2:
        rule = "must be a pair (quantile in (0, 1), smallest IoU)"
        reject("assert_attribution_iou", "min_iou_quantile", requirement, rule)
    rule = "must be a pair (quantile in (0, 1), smallest IoU)"
    quantile = check_real("assert_attribution_iou", "min_iou_quantile", requirement[0], rule, above=0, below=1)
    bound = requirement[1]
    return {f"iou_quantile_{quantile:g}": bound}, (quantile,)


check_attribution_iou = returning_twin(assert_attribution_iou)
