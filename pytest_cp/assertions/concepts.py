"""Level C by concepts as an assertion: the model's answers rest on the same concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import Unpack

from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.observing.runner import Model
from pytest_cp.assertions.bounds import ConceptsBounds
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import Family, assert_behaviour, build_requirements, returning_twin
from pytest_cp.errors import ConceptsNotPreservedError


@taking_bounds(METRICS["concepts"].values())
def assert_concepts_preserved(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    layer: str,
    concepts: Mapping[str, Any],
    compressed_dataset: Any = None,
    random_sets: int | Sequence[Any] = 5,
    examples: int | Sequence[int] | None = None,
    min_class_examples: int = 10,
    confidence: float | None = None,
    family: Family | None = None,
    **bounds: Unpack[ConceptsBounds],
) -> Check:
    """Level C: assert that concepts play the same part for each class (TCAV).

    A class's score for a concept is the share of its examples whose logit grows along the concept.

    Args:
        compressed: The candidate: a `torch.nn.Module`, or anything that maps a batch to logits.
        reference: The model that it is compared with.
        dataset: The labelled examples that both models read.
        layer: The path of the layer in which concepts and random inputs are told apart.
        concepts: Inputs (k, *input) that show each concept, by its name.
        compressed_dataset: What the candidate reads instead of `dataset`, such as the same examples after a codec.
        random_sets: Tensors of inputs that show nothing in particular, or the number of sets to draw from the data.
        examples: A number of examples, spread evenly over the data set, or their indices; None for all.
        min_class_examples: How many examples a class needs to have scores.
        confidence: The confidence of claims about the population, in [0.5, 1); None compares the values on the given
            data with their bounds.
        family: "candidates" makes the confidence one of all candidates of the test together: each is judged with its
            share of the error (Bonferroni). None for each candidate by itself.
        **bounds: The requirements; one or more.

    Returns:
        The check, whose `measurement` holds all metrics.

    Raises:
        ConceptsNotPreservedError: If a requirement does not hold.
        NothingComparedError: If model and data are the same on both sides.
        InvalidArgumentError: If no requirement is given, or an argument is not as described.
    """
    __tracebackhide__ = True
    assertion = "assert_concepts_preserved"
    requirements = build_requirements(assertion, METRICS["concepts"].values(), bounds, confidence, family)
    return assert_behaviour(
        COMPARISONS["concepts"],
        (compressed, reference, dataset, compressed_dataset),
        requirements,
        assertion,
        ConceptsNotPreservedError,
        {
            "layer": layer,
            "concepts": concepts,
            "random_sets": random_sets,
            "examples": examples,
            "min_class_examples": min_class_examples,
        },
    )


check_concepts_preserved = returning_twin(assert_concepts_preserved)
