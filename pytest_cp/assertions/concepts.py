"""Level C by concepts as an assertion: the model's answers rest on the same concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cp_compress.fidelity.attributions.concepts import compare_concepts
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.observing.runner import Model
from pytest_cp.checks.call_options import keeping_options
from pytest_cp.checks.conclusion import assert_pair, build_requirements, returning_twin
from pytest_cp.checks.execution import current_execution
from pytest_cp.errors import ConceptsNotPreservedError


@keeping_options
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
    max_concept_change: float | None = None,
    max_mean_concept_change: float | None = None,
    min_concept_agreement: float | None = None,
    confidence: float | None = None,
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
    requirements = build_requirements(
        "assert_concepts_preserved",
        confidence,
        at_least={"concept_agreement": min_concept_agreement},
        at_most={"max_concept_change": max_concept_change, "mean_concept_change": max_mean_concept_change},
    )

    def compare(candidate: Observation, original: Observation) -> Measurement:
        return compare_concepts(
            candidate,
            original,
            layer,
            concepts,
            random_sets=random_sets,
            examples=examples,
            min_class_examples=min_class_examples,
            seed=current_execution().seed,
        )

    return assert_pair(
        (compressed, reference, dataset, compressed_dataset),
        compare,
        requirements,
        "assert_concepts_preserved",
        ConceptsNotPreservedError,
    )


check_concepts_preserved = returning_twin(assert_concepts_preserved)
