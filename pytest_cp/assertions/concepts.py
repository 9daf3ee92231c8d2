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
from pytest_cp.checks.conclusion import assert_behaviour, build_requirements, returning_twin
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
    **bounds: Unpack[ConceptsBounds],
) -> Check:
    """Level C: assert that concepts play the same part for each class (TCAV).

    `concepts` maps names to inputs (k, *input) that show them, `random_sets` are tensors of inputs that show nothing
    in particular or the number of sets to draw from the data set, and `layer` is the path of the layer in which both
    are told apart. A class's score for a concept is the share of its examples whose logit grows along the concept,
    in [0, 1]: `max_concept_change` bounds the largest change of a score, `max_mean_concept_change` the mean one, and
    `min_concept_agreement` the share of examples and concepts that keep their sign. Raises ConceptsNotPreservedError,
    and NothingComparedError when model and data are the same on both sides.
    """
    __tracebackhide__ = True
    assertion = "assert_concepts_preserved"
    requirements = build_requirements(assertion, METRICS["concepts"].values(), bounds, confidence)
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
