"""Level D as an assertion: decision boundaries keep their distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from typing_extensions import Unpack

from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.observing.runner import Model
from pytest_cp.assertions.bounds import BoundariesBounds
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import Family, assert_behaviour, build_requirements, returning_twin
from pytest_cp.errors import BoundariesNotPreservedError


@taking_bounds(METRICS["boundaries"].values())
def assert_boundary_distance(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    compressed_dataset: Any = None,
    directions: Any = "gate",
    examples: int | Sequence[int] | Literal["auto"] = "auto",
    max_distance: float | None = None,
    bounds: Any = None,
    tolerance: float = 0.1,
    input: str | int | None = None,
    at_layer: str | None = None,
    confidence: float | None = None,
    family: Family | None = None,
    **limits: Unpack[BoundariesBounds],
) -> Check:
    """Level D: assert that decision boundaries lie as far from the inputs as before.

    Distances are L2, in units of the input. A ray along which a model meets no other class is censored: it is counted,
    and never taken for a number.

    Args:
        compressed: The candidate: a `torch.nn.Module`, or anything that maps a batch to logits.
        reference: The model that it is compared with.
        dataset: The labelled examples that both models read.
        compressed_dataset: What the candidate reads instead of `dataset`, such as the same examples after a codec.
        directions: "gate" (class gradients of the reference, low frequencies, Gaussian, and residuals of JPEG for
            images in [0, 1]: fixed by the seed, the same for every candidate), "worst" (each model along its own worst
            case), "benign" (along changes that should not matter), a family that a hook adds, a `Directions` value such
            as Hypothesis draws from `direction_batches`, or a tensor (directions, *input).
        examples: A number of examples, spread evenly over the data set, or their indices. "auto" are 32 of up to 16,384
            values, such as images of 3 × 64 × 64, and fewer of more, but at least 8.
        max_distance: How far to search; by default the median distance between two of the examples.
        bounds: A range such as (0, 1) to which moved inputs are clipped.
        tolerance: By what share a distance may change for its ray to be preserved.
        input: Which of several inputs is moved, by its name or its place in a tuple; the others stay as they are, as
            places of padding do. By default the only floating-point tensor, or else the only one, that is no mask.
        at_layer: The path of a layer whose outputs are moved instead of the input, such as one that embeds token ids;
            distances are then in units of these outputs, each model's own.
        confidence: The confidence of claims about the population, in [0.5, 1); None compares the values on the given
            data with their bounds.
        family: "candidates" makes the confidence one of all candidates of the test together: each is judged with its
            share of the error (Bonferroni). None for each candidate by itself.
        **limits: The requirements; one or more.

    Returns:
        The check, whose `measurement` holds all metrics.

    Raises:
        BoundariesNotPreservedError: If a requirement does not hold.
        NothingComparedError: If model and data are the same on both sides.
        InvalidArgumentError: If no requirement is given, or an argument is not as described.
    """
    __tracebackhide__ = True
    assertion = "assert_boundary_distance"
    requirements = build_requirements(assertion, METRICS["boundaries"].values(), limits, confidence, family)
    return assert_behaviour(
        COMPARISONS["boundaries"],
        (compressed, reference, dataset, compressed_dataset),
        requirements,
        assertion,
        BoundariesNotPreservedError,
        {
            "directions": directions,
            "examples": examples,
            "max_distance": max_distance,
            "bounds": bounds,
            "tolerance": tolerance,
            "input": input,
            "at_layer": at_layer,
        },
    )


check_boundary_distance = returning_twin(assert_boundary_distance)
