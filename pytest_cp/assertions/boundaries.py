"""Level D as an assertion: decision boundaries keep their distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cp_compress.fidelity.boundaries.comparison import compare_boundaries
from cp_compress.fidelity.boundaries.gate_directions import find_directions
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.observing.runner import Model
from pytest_cp.checks.call_options import keeping_options
from pytest_cp.checks.conclusion import assert_pair, build_requirements, returning_twin
from pytest_cp.checks.execution import current_execution
from pytest_cp.errors import BoundariesNotPreservedError


@keeping_options
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
    min_median_distance_ratio: float | None = None,
    max_censored_fraction: float | None = None,
    confidence: float | None = None,
) -> Check:
    """Level D: assert that decision boundaries lie as far from the inputs as before.

    `directions` is "gate" (class gradients of the reference, low frequencies, Gaussian, and residuals of JPEG for
    images in [0, 1]: fixed by the seed, the same for every candidate), "worst" (each model along its own worst case),
    "benign" (along changes that should not matter), a `Directions` value such as Hypothesis draws
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
        at_least={
            "preserved_fraction": min_preserved_fraction,
            "median_distance_ratio": min_median_distance_ratio,
        },
        at_most={
            "median_change": max_median_change,
            "mean_abs_log_ratio": max_mean_abs_log_ratio,
            "censored_fraction": max_censored_fraction,
        },
    )

    def compare(candidate: Observation, original: Observation) -> Measurement:
        seed = current_execution().seed
        return compare_boundaries(
            candidate,
            original,
            find_directions(directions, original, examples, seed),
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


check_boundary_distance = returning_twin(assert_boundary_distance)
