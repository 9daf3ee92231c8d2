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
from pytest_cp.checks.conclusion import Family, assert_behaviour, build_requirements, returning_twin
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
    family: Family | None = None,
    **bounds: Unpack[EmbeddingsBounds],
) -> Check:
    """Level B: assert that the compressed model represents the examples as the reference does.

    Only `max_mean_angle` at a single layer takes a `confidence`.

    Args:
        compressed: The candidate: a `torch.nn.Module`, or anything that maps a batch to logits.
        reference: The model that it is compared with.
        dataset: The labelled examples that both models read.
        compressed_dataset: What the candidate reads instead of `dataset`, such as the same examples after a codec.
        layer: The path of a module, several of them, or a mapping from the reference's to the candidate's; of several
            the worst counts. By default it is what goes into the last linear layer.
        examples: A number of examples, spread evenly over the data set, or their indices; None for all.
        neighbors: How many nearest neighbours count for `neighbor_overlap`.
        pool: How values at many places become one vector: "mean" over the places, or "flatten".
        confidence: The confidence of claims about the population, in [0.5, 1); None compares the values on the given
            data with their bounds.
        family: "candidates" makes the confidence one of all candidates of the test together: each is judged with its
            share of the error (Bonferroni). None for each candidate by itself.
        **bounds: The requirements; one or more.

    Returns:
        The check, whose `measurement` holds all metrics.

    Raises:
        EmbeddingsNotPreservedError: If a requirement does not hold.
        NothingComparedError: If model and data are the same on both sides.
        InvalidArgumentError: If no requirement is given, or an argument is not as described.
    """
    __tracebackhide__ = True
    assertion = "assert_embeddings_preserved"
    requirements = build_requirements(assertion, METRICS["embeddings"].values(), bounds, confidence, family)
    return assert_behaviour(
        COMPARISONS["embeddings"],
        (compressed, reference, dataset, compressed_dataset),
        requirements,
        assertion,
        EmbeddingsNotPreservedError,
        {"layer": layer, "examples": examples, "neighbors": neighbors, "pool": pool},
    )


check_embeddings_preserved = returning_twin(assert_embeddings_preserved)
