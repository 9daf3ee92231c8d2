"""Corrupted images as an assertion: the compressed model stands them as the reference does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import Unpack

from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.observing.runner import Model
from pytest_cp.assertions.bounds import RobustnessBounds
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import Family, assert_behaviour, build_requirements, returning_twin
from pytest_cp.errors import RobustnessNotPreservedError


@taking_bounds(METRICS["robustness"].values())
def assert_robustness(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    compressed_dataset: Any = None,
    corruptions: Sequence[str] | str = "all",
    severities: Sequence[int] = (1, 3, 5),
    examples: int | Sequence[int] | None = None,
    confidence: float | None = None,
    family: Family | None = None,
    **bounds: Unpack[RobustnessBounds],
) -> Check:
    """Level D: assert that the compressed model answers corrupted images as the reference does.

    Only `min_corrupted_agreement` takes a `confidence`.

    Args:
        compressed: The candidate: a `torch.nn.Module`, or anything that maps a batch to logits.
        reference: The model that it is compared with.
        dataset: The labelled examples that both models read.
        compressed_dataset: What the candidate reads instead of `dataset`, such as the same examples after a codec.
        corruptions: Names of corruptions of Hendrycks and Dietterich, or "all".
        severities: Severities of 1 to 5.
        examples: A number of examples, spread evenly over the data set, or their indices; None for all.
        confidence: The confidence of claims about the population, in [0.5, 1); None compares the values on the given
            data with their bounds.
        family: "candidates" makes the confidence one of all candidates of the test together: each is judged with its
            share of the error (Bonferroni). None for each candidate by itself.
        **bounds: The requirements; one or more.

    Returns:
        The check, whose `measurement` holds all metrics.

    Raises:
        RobustnessNotPreservedError: If a requirement does not hold.
        NothingComparedError: If model and data are the same on both sides.
        InvalidArgumentError: If no requirement is given, or an argument is not as described.
    """
    __tracebackhide__ = True
    assertion = "assert_robustness"
    requirements = build_requirements(assertion, METRICS["robustness"].values(), bounds, confidence, family)
    return assert_behaviour(
        COMPARISONS["robustness"],
        (compressed, reference, dataset, compressed_dataset),
        requirements,
        assertion,
        RobustnessNotPreservedError,
        {"corruptions": corruptions, "severities": severities, "examples": examples},
    )


check_robustness = returning_twin(assert_robustness)
