"""Level C with masks as an assertion: the model looks where it must, and not where it must not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import Unpack

from cp_compress.base.arguments import reject
from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.observing.runner import Model
from pytest_cp.assertions.bounds import PointingBounds
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import Family, assert_behaviour, build_requirements, returning_twin
from pytest_cp.errors import PointingNotPreservedError


@taking_bounds(METRICS["pointing"].values())
def assert_pointing(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    compressed_dataset: Any = None,
    must_look: Any = None,
    must_not_look: Any = None,
    method: Any = "saliency",
    examples: int | Sequence[int] | None = None,
    confidence: float | None = None,
    family: Family | None = None,
    **bounds: Unpack[PointingBounds],
) -> Check:
    """Level C: assert that the compressed model looks where it must, and not where it must not.

    A mask is a boolean tensor (h, w) or (n, h, w), the name of an attribute of the data set that holds one, or a
    function of (inputs, labels).

    Args:
        compressed: The candidate: a `torch.nn.Module`, or anything that maps a batch to logits.
        reference: The model that it is compared with.
        dataset: The labelled examples that both models read.
        compressed_dataset: What the candidate reads instead of `dataset`, such as the same examples after a codec.
        must_look: The mask of the places where the model must look.
        must_not_look: The mask of the places where it must not look.
        method: An attribution method or its expression.
        examples: A number of examples, spread evenly over the data set, or their indices; None for all.
        confidence: The confidence of claims about the population, in [0.5, 1); None compares the values on the given
            data with their bounds.
        family: "candidates" makes the confidence one of all candidates of the test together: each is judged with its
            share of the error (Bonferroni). None for each candidate by itself.
        **bounds: The requirements; one or more.

    Returns:
        The check, whose `measurement` holds all metrics.

    Raises:
        PointingNotPreservedError: If a requirement does not hold.
        NothingComparedError: If model and data are the same on both sides.
        InvalidArgumentError: If no requirement is given, or an argument is not as described.
    """
    __tracebackhide__ = True
    assertion = "assert_pointing"
    requirements = build_requirements(assertion, METRICS["pointing"].values(), bounds, confidence, family)
    masks = {"must_look": must_look, "must_not_look": must_not_look}
    for requirement in requirements:
        needed = "must_not_look" if requirement.metric == "forbidden_mass" else "must_look"
        if masks[needed] is None:
            reject(assertion, needed, None, f"{requirement.metric} is the share inside this mask: give it")
    return assert_behaviour(
        COMPARISONS["pointing"],
        (compressed, reference, dataset, compressed_dataset),
        requirements,
        assertion,
        PointingNotPreservedError,
        {"method": method, "examples": examples, "must_look": must_look, "must_not_look": must_not_look},
    )


check_pointing = returning_twin(assert_pointing)
