"""Level B as an assertion: internal representations stay alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cp_compress.fidelity.embeddings.comparison import Layers, compare_embeddings
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.observing.runner import Model
from pytest_cp.checks.call_options import keeping_options
from pytest_cp.checks.conclusion import assert_pair, build_requirements, returning_twin
from pytest_cp.checks.execution import current_execution
from pytest_cp.errors import EmbeddingsNotPreservedError


@keeping_options
def assert_embeddings_preserved(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    compressed_dataset: Any = None,
    layer: Layers | None = None,
    examples: int | Sequence[int] | None = None,
    neighbors: int = 10,
    pool: str = "mean",
    min_cka: float | None = None,
    min_kernel_cka: float | None = None,
    max_mean_angle: float | None = None,
    min_neighbor_overlap: float | None = None,
    max_hardness_change: float | None = None,
    max_procrustes_distance: float | None = None,
    confidence: float | None = None,
) -> Check:
    """Level B: assert that the compressed model represents the examples as the reference does.

    `layer` is the path of a module, several, or a mapping from the reference's to the candidate's; of several layers
    the worst counts; by default it is what goes into the last linear layer. The other arguments and the metrics are
    those of `compare_embeddings`: angles in radians, all else in [0, 1]. Only `max_mean_angle` at a single layer takes
    a `confidence`. Raises EmbeddingsNotPreservedError, and NothingComparedError when model and data are the same
    on both sides.
    """
    __tracebackhide__ = True
    requirements = build_requirements(
        "assert_embeddings_preserved",
        confidence,
        at_least={"cka": min_cka, "kernel_cka": min_kernel_cka, "neighbor_overlap": min_neighbor_overlap},
        at_most={
            "mean_angle": max_mean_angle,
            "hardness_change": max_hardness_change,
            "procrustes_distance": max_procrustes_distance,
        },
    )

    def compare(candidate: Observation, original: Observation) -> Measurement:
        seed = current_execution().seed
        return compare_embeddings(
            candidate, original, layer, examples=examples, neighbors=neighbors, pool=pool, seed=seed
        )

    return assert_pair(
        (compressed, reference, dataset, compressed_dataset),
        compare,
        requirements,
        "assert_embeddings_preserved",
        EmbeddingsNotPreservedError,
    )


check_embeddings_preserved = returning_twin(assert_embeddings_preserved)
