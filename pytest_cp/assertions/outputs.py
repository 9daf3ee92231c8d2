"""Outputs as an assertion: the compressed model gives the numbers that its reference gives, whatever they mean."""

from __future__ import annotations

from typing import Any

from typing_extensions import Unpack

from cp_compress.base.arguments import reject
from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.outputs.folding import OwnMetric
from cp_compress.inputs.clusters import Clusters
from pytest_cp.assertions.bounds import OutputsBounds
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import Family, assert_behaviour, build_requirements, returning_twin
from pytest_cp.errors import OutputsNotPreservedError

_ASSERTION = "assert_outputs_preserved"


@taking_bounds(METRICS["outputs"].values())
def assert_outputs_preserved(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    compressed_dataset: Any = None,
    metric: OwnMetric | None = None,
    tolerance: float | None = None,
    clusters: Clusters | None = None,
    confidence: float | None = None,
    family: Family | None = None,
    **bounds: Unpack[OutputsBounds],
) -> Check:
    """Assert that the compressed model gives the numbers that the reference gives: regressions, forecasts, images.

    Both models run batch by batch. A `confidence` is taken by `min_within_tolerance` and `max_relative_error_quantile`
    of one output: other errors are means without a largest value, of which no bound holds at the sample sizes of a
    gate.

    Args:
        compressed: The candidate: a `torch.nn.Module`, or any callable from a batch to a tensor, or several in a
            mapping, tuple or object.
        reference: The model that it is compared with.
        dataset: The examples that both models read. They need no labels.
        compressed_dataset: What the candidate reads instead of `dataset`.
        metric: A distance of your own, for `max_own_error`: a function of the candidate's outputs and the reference's,
            each (k, ...), that returns k numbers, lower where outputs are closer.
        tolerance: The relative error that an example may have, for `min_within_tolerance`.
        clusters: Which examples are not independent of each other: one whole number or text an example, equal within a
            cluster, or a column of the data set's metadata. None for what the data set says itself.
        confidence: The confidence of claims about the population, in [0.5, 1); None compares the values on the given
            data with their bounds.
        family: "candidates" makes the confidence one of all candidates of the test together: each is judged with its
            share of the error (Bonferroni). None for each candidate by itself.
        **bounds: The requirements; one or more. By `output=` they are about one of several outputs; without it about
            the one where each is worst.

    Returns:
        The check, whose `measurement` holds all metrics, also by output.

    Raises:
        OutputsNotPreservedError: If a requirement does not hold.
        NothingComparedError: If model and data are the same on both sides.
        ObservationError: If the models cannot be run on the data, or give outputs of other names or shapes.
        InvalidArgumentError: If no requirement is given, or an argument is not as described.
    """
    __tracebackhide__ = True
    requirements = build_requirements(_ASSERTION, METRICS["outputs"].values(), bounds, confidence, family)
    asked = {one.metric for one in requirements}
    if "within_tolerance" in asked and tolerance is None:
        reject(_ASSERTION, "tolerance", None, "say which relative error is within the tolerance, such as 0.01")
    if "own_error" in asked and metric is None:
        reject(_ASSERTION, "metric", None, "give the distance that max_own_error bounds, a function of two tensors")
    return assert_behaviour(
        COMPARISONS["outputs"],
        (compressed, reference, dataset, compressed_dataset),
        requirements,
        _ASSERTION,
        OutputsNotPreservedError,
        {"metric": metric, "tolerance": tolerance, "clusters": clusters},
    )


check_outputs_preserved = returning_twin(assert_outputs_preserved)
