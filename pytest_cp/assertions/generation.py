"""Generation as an assertion: what is written is what the reference writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import Unpack

from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.generation.generating import Generate
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.predictions.tables import Slices
from cp_compress.inputs.clusters import Clusters
from cp_compress.inputs.tokens import Tokenizer
from pytest_cp.assertions.bounds import GenerationBounds
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import Family, build_requirements, returning_twin
from pytest_cp.checks.streamed import assert_streamed
from pytest_cp.errors import GenerationNotPreservedError


@taking_bounds(METRICS["generation"].values())
def assert_generation_preserved(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    max_new_tokens: int | None = None,
    generate: Generate | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    tie_margin: float = 0.1,
    tokenizer: Tokenizer | None = None,
    slices: Slices | None = None,
    clusters: Clusters | None = None,
    confidence: float | None = None,
    family: Family | None = None,
    **bounds: Unpack[GenerationBounds],
) -> Check:
    """Assert that the compressed model generates, greedily, what the reference generates.

    Generations of the same prompts are compared token by token; where they part, the reference's margin tells a tie
    from damage; with true texts in `dataset`, word error rates are compared, too. A `confidence` is about prompts.

    Args:
        compressed: The candidate: a model of `transformers` with a method `generate`, or any callable from a batch of
            inputs to token ids (n, length), rows of token ids, or texts.
        reference: The model that it is compared with.
        dataset: `cp_compress.GenerationData`, prompts, or a mapping of prompts and targets.
        max_new_tokens: How many tokens a model of `transformers` writes at most; 64 without it.
        generate: What turns (model, batch) into token ids or texts, greedily.
        eos_token_id: The token or tokens that end a generation, where the model does not say.
        tie_margin: The margin of the reference, in logits, up to which another token is a tie.
        tokenizer: Has a method `decode(ids)`: what changed is then shown as text.
        slices: Named subsets of the prompts, as masks (n,) or indices.
        clusters: Which prompts are not independent of each other: one whole number or text a prompt.
        confidence: The confidence of claims about the population of prompts, in [0.5, 1); None compares the values on
            the given data with their bounds.
        family: "candidates" makes the confidence one of all candidates of the test together: each is judged with its
            share of the error (Bonferroni). None for each candidate by itself.
        **bounds: The requirements; one or more. Those on word errors need true texts, and that on damaged generations a
            reference that says how sure it is.

    Returns:
        The check, whose `measurement` holds all metrics and the generations that changed most.

    Raises:
        GenerationNotPreservedError: If a requirement does not hold.
        NothingComparedError: If both models are the same.
        ObservationError: If the models give no tokens or texts or write at random, or the reference writes nothing, the
            same for all prompts, or nothing of the true texts.
        InvalidArgumentError: If no requirement is given, or an argument is not as described.
        MissingExtraError: If there are true texts and `jiwer` is not installed.
    """
    __tracebackhide__ = True
    assertion = "assert_generation_preserved"
    requirements = build_requirements(assertion, METRICS["generation"].values(), bounds, confidence, family)
    options = {
        "max_new_tokens": max_new_tokens,
        "generate": generate,
        "eos_token_id": eos_token_id,
        "tie_margin": tie_margin,
        "tokenizer": tokenizer,
        "slices": slices,
        "clusters": clusters,
    }
    subjects = compressed, reference, dataset
    return assert_streamed(
        COMPARISONS["generation"], subjects, requirements, assertion, GenerationNotPreservedError, options
    )


check_generation_preserved = returning_twin(assert_generation_preserved)
