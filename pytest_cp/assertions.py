"""The assertions: measure, judge, record, and fail with the evidence.

Subjects come by position, what was made before what it is compared with, as in `torch.testing.assert_close(actual,
expected)`; requirements come by keyword. An assertion without any requirement is refused. Every `assert_*` returns
its `Check`; its twin `check_*` takes the same arguments and returns the check whether it passed or not.

With `confidence=` (in [0.5, 1)) a requirement is a claim about the population that the data was drawn from; a claim
that the data neither proves nor refutes is *inconclusive*, which fails, and the message says how many more examples
would decide it. Without it, the values on the given data are compared with their bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cp_compress.base.arguments import check_real, reject
from cp_compress.fidelity.attributions import compare_attributions
from cp_compress.fidelity.boundaries import compare_boundaries
from cp_compress.fidelity.judgement import Check
from cp_compress.fidelity.measurement import Measurement
from cp_compress.fidelity.observation import Observation
from cp_compress.fidelity.predictions import ClassDistance, Weights, compare_predictions
from cp_compress.fidelity.reconstruction import compare_reconstruction
from cp_compress.fidelity.running import Model
from cp_compress.fidelity.subjects import require_difference
from cp_compress.footprint_comparison import compare_footprints
from cp_compress.standard_directions import standard_directions
from pytest_cp.checking import assert_pair, build_requirements, conclude, recording_errors, returning_twin
from pytest_cp.errors import (
    AttributionsNotPreservedError,
    BoundariesNotPreservedError,
    FootprintNotReducedError,
    NothingComparedError,
    PredictionsNotPreservedError,
    ReconstructionNotPreservedError,
)
from pytest_cp.options import current_execution
from pytest_cp.records import Record
from pytest_cp.subjects import describe_data, describe_model


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
    confidence: float | None = None,
) -> Check:
    """Level C: assert that the compressed model looks at the same parts of its inputs.

    `method` is an attribution method or its expression, such as "integrated_gradients(steps=50)"; `examples` a
    number of examples, spread evenly over the data set, or their indices (default: all). IoU values lie in
    [0, 1]; `min_iou_quantile=(0.1, 0.3)` requires the 10 % quantile over examples to be 0.3 or more. Raises
    AttributionsNotPreservedError, and NothingComparedError when model and data are the same on both sides.
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
            **quantile_metric,
        },
    )

    def compare(candidate: Observation, original: Observation) -> Measurement:
        return compare_attributions(
            candidate, original, method, examples=examples, quantiles=quantiles, seed=current_execution().seed
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


def assert_boundary_distance(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    compressed_dataset: Any = None,
    directions: Any = "gate",
    examples: int | Sequence[int] = 32,
    max_distance: float | None = None,
    bounds: Any = None,
    tolerance: float = 0.1,
    max_median_change: float | None = None,
    max_mean_abs_log_ratio: float | None = None,
    min_preserved_fraction: float | None = None,
    max_censored_fraction: float | None = None,
    confidence: float | None = None,
) -> Check:
    """Level D: assert that decision boundaries lie as far from the inputs as before.

    `directions` is "gate" (class gradients of the reference, low frequencies, Gaussian, and residuals of JPEG for
    images in [0, 1]: fixed by the seed, the same for every candidate), a `Directions` value such as Hypothesis draws
    from `direction_batches`, or a tensor (directions, *input). `examples` is a number of examples, spread evenly
    over the data set, or their indices. Distances are L2 in units of the input, searched up to `max_distance` (by
    default the median distance between
    two of the examples); `bounds` clips moved inputs to a range such as (0, 1). A ray is preserved when its
    distance changes by at most the share `tolerance`. Raises BoundariesNotPreservedError, and
    NothingComparedError when model and data are the same on both sides.
    """
    __tracebackhide__ = True
    requirements = build_requirements(
        "assert_boundary_distance",
        confidence,
        at_least={"preserved_fraction": min_preserved_fraction},
        at_most={
            "median_change": max_median_change,
            "mean_abs_log_ratio": max_mean_abs_log_ratio,
            "censored_fraction": max_censored_fraction,
        },
    )

    def compare(candidate: Observation, original: Observation) -> Measurement:
        gate = isinstance(directions, str) and directions == "gate"
        seed = current_execution().seed
        return compare_boundaries(
            candidate,
            original,
            standard_directions(original, examples, seed) if gate else directions,
            examples=examples,
            max_distance=max_distance,
            bounds=bounds,
            tolerance=tolerance,
            seed=seed,
        )

    return assert_pair(
        (compressed, reference, dataset, compressed_dataset),
        compare,
        requirements,
        "assert_boundary_distance",
        BoundariesNotPreservedError,
    )


def assert_reconstruction(
    decoded: Any,
    original: Any,
    *,
    max_error: float | None = None,
    max_rmse: float | None = None,
    min_psnr: float | None = None,
    min_ssim: float | None = None,
    max_bytes_per_example: float | None = None,
    confidence: float | None = None,
) -> Check:
    """Assert that decoded data is close to the original, and small.

    `decoded` and `original` are data sets or tensors (n, ...) of the same examples; a `CompressedDataset` also
    brings its bytes an example. Errors are in units of the data, PSNR in dB for a data range of 1. Raises
    ReconstructionNotPreservedError, and NothingComparedError when both are one object or hold the same content
    and no codec stored it.
    """
    __tracebackhide__ = True
    assertion = "assert_reconstruction"
    requirements = build_requirements(
        assertion,
        confidence,
        at_least={"psnr": min_psnr, "ssim": min_ssim},
        at_most={"max_error": max_error, "rmse": max_rmse, "bytes_per_example": max_bytes_per_example},
    )
    subjects: Record = {}
    with recording_errors(assertion, subjects):
        if decoded is original:
            raise NothingComparedError("nothing was compressed: decoded and original are one object")
        measurement = compare_reconstruction(decoded, original)
        count = measurement.counts["max_error"]
        subjects["decoded"] = describe_data(decoded, None, count)
        subjects["original"] = describe_data(original, None, count)
        if measurement.metrics["max_error"] == 0 and not hasattr(decoded, "codec"):
            raise NothingComparedError(
                "nothing was compressed: decoded holds the same values as original, and no codec stored it"
            )
    return conclude(measurement, requirements, assertion, subjects, ReconstructionNotPreservedError)


def assert_footprint(
    compressed: Model,
    reference: Model,
    *,
    example_input: Any = None,
    min_compression: float | None = None,
    max_flops_ratio: float | None = None,
    min_speedup: float | None = None,
) -> Check:
    """Assert that the compressed model is smaller, or faster, than the reference.

    `min_compression` bounds reference bytes / compressed bytes of the files that `save` writes;
    `max_flops_ratio` the compressed model's FLOPs as a share of the reference's; `min_speedup` the ratio of
    median latencies, measured in turns. The last two need `example_input`, a batch. Raises
    FootprintNotReducedError, and NothingComparedError when both models are the same.
    """
    __tracebackhide__ = True
    assertion = "assert_footprint"
    requirements = build_requirements(
        assertion,
        None,
        at_least={"compression": min_compression, "speedup": min_speedup},
        at_most={"flops_ratio": max_flops_ratio},
    )
    subjects: Record = {}
    with recording_errors(assertion, subjects):
        require_difference(compressed, reference, None, None)
        subjects |= {"candidate": describe_model(compressed), "reference": describe_model(reference)}
        asked = [requirement.metric for requirement in requirements]
        measurement = compare_footprints(compressed, reference, example_input, asked)
    return conclude(measurement, requirements, assertion, subjects, FootprintNotReducedError)


check_preserved_predictions = returning_twin(assert_preserved_predictions)
check_attribution_iou = returning_twin(assert_attribution_iou)
check_boundary_distance = returning_twin(assert_boundary_distance)
check_reconstruction = returning_twin(assert_reconstruction)
check_footprint = returning_twin(assert_footprint)
