"""Language models as an assertion: the next token is predicted as the reference does."""

from __future__ import annotations

from typing import Any

from typing_extensions import Unpack

from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.language.next_tokens import require_known
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.predictions.tables import Slices
from cp_compress.inputs.clusters import Clusters
from cp_compress.inputs.tokens import Tokenizer
from pytest_cp.assertions.bounds import LanguageBounds
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import Family, build_requirements, returning_twin
from pytest_cp.checks.streamed import assert_streamed
from pytest_cp.errors import LanguageNotPreservedError


@taking_bounds(METRICS["language"].values())
def assert_language_preserved(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    slices: Slices | None = None,
    clusters: Clusters | None = None,
    top_k: int = 5,
    tokenizer: Tokenizer | None = None,
    confidence: float | None = None,
    family: Family | None = None,
    **bounds: Unpack[LanguageBounds],
) -> Check:
    """Assert that the compressed language model predicts the next token as the reference does.

    Both models run batch by batch, and no more than 25 bytes a token are kept. A `confidence` is about documents, and
    is taken by `min_token_agreement`, `min_top_k_overlap` and `max_kl_quantile`: perplexities and mean divergences are
    means without a largest value, of which no bound holds at the sample sizes of a gate.

    Args:
        compressed: The candidate: a `torch.nn.Module`, such as a causal language model of `transformers`, or any
            callable from token ids (n, length), and a mask if it has a parameter `attention_mask` or `mask`, to logits
            (n, length, vocabulary); or a `cp_compress.ServedModel`, of which no divergence is known.
        reference: The model that it is compared with.
        dataset: Documents of token ids: a tensor (n, length), a pair or mapping with a mask, a list of 1-D tensors, or
            a map-style data set of such rows. There are no labels: the targets are the ids, shifted by one place.
        slices: Named subsets of the documents, as masks (n,) or indices.
        clusters: Which documents are not independent of each other: one whole number or text a document, equal within a
            cluster, or a column of the data set's metadata.
        top_k: How many of the most likely tokens count for `min_top_k_overlap`.
        tokenizer: Has a method `decode(ids)`: the tokens that changed most are then shown as text.
        confidence: The confidence of claims about the population, in [0.5, 1); None compares the values on the given
            data with their bounds.
        family: "candidates" makes the confidence one of all candidates of the test together: each is judged with its
            share of the error (Bonferroni). None for each candidate by itself.
        **bounds: The requirements; one or more.

    Returns:
        The check, whose `measurement` holds all metrics, and results by position, document and token.

    Raises:
        LanguageNotPreservedError: If a requirement does not hold.
        NothingComparedError: If both models are the same.
        ObservationError: If the models cannot be run on the documents, or have two vocabularies.
        InvalidArgumentError: If no requirement is given, or an argument is not as described.
    """
    __tracebackhide__ = True
    assertion = "assert_language_preserved"
    requirements = build_requirements(assertion, METRICS["language"].values(), bounds, confidence, family)
    require_known(assertion, (compressed, reference), [one.metric for one in requirements])
    return assert_streamed(
        COMPARISONS["language"],
        (compressed, reference, dataset),
        requirements,
        assertion,
        LanguageNotPreservedError,
        {"slices": slices, "clusters": clusters, "top_k": top_k, "tokenizer": tokenizer},
    )


check_language_preserved = returning_twin(assert_language_preserved)
