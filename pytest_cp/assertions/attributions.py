"""Level C as an assertion: the model looks at the same places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import Unpack

from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.observing.runner import Model
from pytest_cp.assertions.bounds import AttributionsBounds
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import Family, assert_behaviour, build_requirements, returning_twin
from pytest_cp.errors import AttributionsNotPreservedError


@taking_bounds(METRICS["attributions"].values())
def assert_attribution_iou(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    compressed_dataset: Any = None,
    method: Any = "saliency",
    input: str | int | None = None,
    examples: int | Sequence[int] | None = None,
    top_fraction: float = 0.1,
    confidence: float | None = None,
    family: Family | None = None,
    **bounds: Unpack[AttributionsBounds],
) -> Check:
    """Level C: assert that the compressed model looks at the same parts of its inputs.

    `min_iou_quantile=(0.1, 0.3)` requires the 10 % quantile over examples to be 0.3 or more.

    Args:
        compressed: The candidate: a `torch.nn.Module`, or anything that maps a batch to logits.
        reference: The model that it is compared with.
        dataset: The labelled examples that both models read.
        compressed_dataset: What the candidate reads instead of `dataset`, such as the same examples after a codec.
        method: An attribution method or its expression, such as "integrated_gradients(steps=50)".
        input: Which of several inputs the maps explain, by its name or its place in a tuple; the others stay as they
            are. By default the only floating-point tensor, or else the only one, that is no mask.
        examples: A number of examples, spread evenly over the data set, or their indices; None for all.
        top_fraction: The share of all places that count as the strongest, for `top_fraction_iou`.
        confidence: The confidence of claims about the population, in [0.5, 1); None compares the values on the given
            data with their bounds.
        family: "candidates" makes the confidence one of all candidates of the test together: each is judged with its
            share of the error (Bonferroni). None for each candidate by itself.
        **bounds: The requirements; one or more.

    Returns:
        The check, whose `measurement` holds all metrics.

    Raises:
        AttributionsNotPreservedError: If a requirement does not hold.
        NothingComparedError: If model and data are the same on both sides.
        InvalidArgumentError: If no requirement is given, or an argument is not as described.
    """
    __tracebackhide__ = True
    assertion = "assert_attribution_iou"
    requirements = build_requirements(assertion, METRICS["attributions"].values(), bounds, confidence, family)
    return assert_behaviour(
        COMPARISONS["attributions"],
        (compressed, reference, dataset, compressed_dataset),
        requirements,
        assertion,
        AttributionsNotPreservedError,
        {"method": method, "input": input, "examples": examples, "top_fraction": top_fraction},
    )


check_attribution_iou = returning_twin(assert_attribution_iou)
