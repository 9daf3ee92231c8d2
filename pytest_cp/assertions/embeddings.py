"""Level B as an assertion: internal representations stay alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import Unpack

from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.embeddings.comparison import Layers
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.observing.runner import Model
from pytest_cp.assertions.bounds import EmbeddingsBounds
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import assert_behaviour, build_requirements, returning_twin
from pytest_cp.errors import EmbeddingsNotPreservedError


@taking_bounds(METRICS["embeddings"].values())
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
    confidence: float | None = None,
    **bounds: Unpack[EmbeddingsBounds],
) -> Check:
    """Level B: assert that the compressed model represents the examples as the reference does.

    `layer` is the path of a module, several, or a mapping from the reference's to the candidate's; of several layers
    the worst counts; by default it is what goes into the last linear layer. The other arguments and the metrics are
    those of `compare_embeddings`: angles in radians, all else in [0, 1]. Only `max_mean_angle` at a single layer takes
    a `confidence`. Raises EmbeddingsNotPreservedError, and NothingComparedError when model and data are the same
    on both sides.
    """
    __tracebackhide__ = True
    assertion = "assert_embeddings_preserved"
    requirements = build_requirements(assertion, METRICS["embeddings"].values(), bounds, confidence)
    return assert_behaviour(
        COMPARISONS["embeddings"],
        (compressed, reference, dataset, compressed_dataset),
        requirements,
        assertion,
        EmbeddingsNotPreservedError,
        {"layer": layer, "examples": examples, "neighbors": neighbors, "pool": pool},
    )


check_embeddings_preserved = returning_twin(assert_embeddings_preserved)
