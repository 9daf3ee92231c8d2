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
from cp_compress.inputs.clusters import Clusters
from pytest_cp.assertions.bounds import PredictionsBounds
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import Family, assert_behaviour, build_requirements, returning_twin
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
    clusters: Clusters | None = None,
    min_class_examples: int = 1,
    confidence: float | None = None,
    family: Family | None = None,
    **bounds: Unpack[PredictionsBounds],
) -> Check:
    """Level A: assert that the compressed model's predictions are the reference's.

    For multi-label, dense and sequence data (`TaskDataset`) the metrics are those of all answers of an example. A claim
    about the worst class or slice (`confidence=`) says of each what is proven and refuted, with Holm's correction.

    Args:
        compressed: The candidate: a `torch.nn.Module`, or anything that maps a batch to logits.
        reference: The model that it is compared with.
        dataset: The labelled examples that both models read.
        compressed_dataset: What the candidate reads instead of `dataset`, such as the same examples after a codec.
        class_distance: Distances between classes, which make `cost`: a matrix, or groups within which a change is free.
        weights: The weight of each example, or of each class, in `cost`.
        slices: Named subsets of the examples, each a mask or indices, for the requirements on slices.
        top_k: How many of the most likely classes count for `top_k_agreement`.
        clusters: Which examples are not independent of each other, such as those of a patient, a video or a document:
            one whole number or text an example, equal within a cluster, or a column of the data set's metadata. The
            claims of a `confidence` are then about clusters. None for what the data set says itself (`TaskDataset`).
        min_class_examples: Classes with fewer examples have no part in `max_class_accuracy_drop`, which a note says.
        confidence: The confidence of claims about the population, in [0.5, 1); None compares the values on the given
            data with their bounds.
        family: "candidates" makes the confidence one of all candidates of the test together: each is judged with its
            share of the error (Bonferroni). None for each candidate by itself.
        **bounds: The requirements; one or more.

    Returns:
        The check, whose `measurement` holds all metrics.

    Raises:
        PredictionsNotPreservedError: If a requirement does not hold.
        NothingComparedError: If model and data are the same on both sides.
        InvalidArgumentError: If no requirement is given, or an argument is not as described.
    """
    __tracebackhide__ = True
    assertion = "assert_preserved_predictions"
    requirements = build_requirements(assertion, METRICS["predictions"].values(), bounds, confidence, family)
    if slices is None and any("_slice_" in requirement.metric for requirement in requirements):
        reject(assertion, "slices", None, "name the subsets that a requirement on slices is about")
    check_class_distance(class_distance, assertion)
    if clusters is not None and confidence is None:
        rule = "clusters change claims about the population, not values on the given data: give confidence, too"
        reject(assertion, "clusters", "given without confidence", rule)
    return assert_behaviour(
        COMPARISONS["predictions"],
        (compressed, reference, dataset, compressed_dataset),
        requirements,
        assertion,
        PredictionsNotPreservedError,
        {
            "class_distance": class_distance,
            "weights": weights,
            "slices": slices,
            "top_k": top_k,
            "clusters": clusters,
            "min_class_examples": min_class_examples,
        },
    )


check_preserved_predictions = returning_twin(assert_preserved_predictions)
