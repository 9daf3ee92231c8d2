"""Retrieval as an assertion: the documents that are found are those that the reference finds."""

from __future__ import annotations

from typing import Any

from typing_extensions import Unpack

from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.predictions.tables import Slices
from cp_compress.fidelity.retrieval.comparison import Index
from cp_compress.fidelity.retrieval.encoding import Encode, Score
from cp_compress.fidelity.retrieval.ranking import Similarity
from cp_compress.inputs.clusters import Clusters
from pytest_cp.assertions.bounds import RetrievalBounds
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import Family, build_requirements, returning_twin
from pytest_cp.checks.streamed import assert_streamed
from pytest_cp.errors import RetrievalNotPreservedError


@taking_bounds(METRICS["retrieval"].values())
def assert_retrieval_preserved(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    similarity: Similarity,
    k: int = 10,
    index: Index = "candidate",
    encode: Encode | None = None,
    encode_documents: Encode | None = None,
    score: Score | None = None,
    slices: Slices | None = None,
    clusters: Clusters | None = None,
    confidence: float | None = None,
    family: Family | None = None,
    **bounds: Unpack[RetrievalBounds],
) -> Check:
    """Assert that the compressed encoder, or reranker, finds the documents that the reference finds.

    Both encode queries and documents, and of each query the k best documents are compared: with those of the
    reference, and with judgements of relevance where `dataset` has them. A `confidence` is about queries.

    Args:
        compressed: The candidate: a `torch.nn.Module` or any callable from a batch of inputs to embeddings (n, d); of
            `similarity` "model" from a batch of queries and one of documents to scores (n,).
        reference: The model that it is compared with.
        dataset: `cp_compress.RetrievalData`, or a mapping or tuple of queries, corpus and, where they are judged,
            relevant.
        similarity: How a query is compared with a document: "cosine" (embeddings are normalised by the check), "dot"
            (the inner product of what the models give), "euclidean", or "model" for a reranker, which scores pairs.
        k: How many documents of each query are looked at.
        index: "candidate" if the documents are encoded anew, or "reference" if the old index is kept and the candidate
            encodes queries only.
        encode: What turns (model, batch) into embeddings, such as a function that tokenizes, pools and normalises.
        encode_documents: The same for documents, where it differs.
        score: What turns (model, queries, documents) into scores of a reranker.
        slices: Named subsets of the queries, as masks (n,) or indices.
        clusters: Which queries are not independent of each other: one whole number or text a query.
        confidence: The confidence of claims about the population of queries, in [0.5, 1); None compares the values on
            the given data with their bounds.
        family: "candidates" makes the confidence one of all candidates of the test together: each is judged with its
            share of the error (Bonferroni). None for each candidate by itself.
        **bounds: The requirements; one or more. Those on recall, reciprocal rank and nDCG need judgements.

    Returns:
        The check, whose `measurement` holds all metrics and the queries whose documents changed most.

    Raises:
        RetrievalNotPreservedError: If a requirement does not hold.
        NothingComparedError: If both models are the same.
        ObservationError: If the models give no embeddings or scores, only one normalises its embeddings, or the
            reference is no better than chance by the judgements.
        InvalidArgumentError: If no requirement is given, or an argument is not as described.
        MissingExtraError: If there are judgements and `ir-measures` is not installed.
    """
    __tracebackhide__ = True
    assertion = "assert_retrieval_preserved"
    requirements = build_requirements(assertion, METRICS["retrieval"].values(), bounds, confidence, family)
    options = {
        "similarity": similarity,
        "k": k,
        "index": index,
        "encode": encode,
        "encode_documents": encode_documents,
        "score": score,
        "slices": slices,
        "clusters": clusters,
    }
    subjects = compressed, reference, dataset
    return assert_streamed(
        COMPARISONS["retrieval"], subjects, requirements, assertion, RetrievalNotPreservedError, options
    )


check_retrieval_preserved = returning_twin(assert_retrieval_preserved)
