"""A release gate for the encoder of a search: `pytest examples/retrieval`. Copy the folder, and name your own in it."""

import pytest
from subjects import encode

from pytest_cp import assert_retrieval_preserved, check_retrieval_preserved


def test_what_is_found_stays(compressed_model, reference_model, dataset):
    assert_retrieval_preserved(
        compressed_model,
        reference_model,
        dataset,
        similarity="cosine",
        encode=encode,
        min_result_overlap=0.9,
        min_first_result_agreement=0.95,
        max_ndcg_drop=0.02,
        max_recall_drop=0.02,
    )


def test_it_stays_for_other_queries_too(compressed_model, reference_model, dataset):
    options = {"similarity": "cosine", "encode": encode, "confidence": 0.95}
    assert_retrieval_preserved(compressed_model, reference_model, dataset, **options, min_result_overlap=0.8)


def test_the_old_index_can_be_kept(compressed_model, reference_model, dataset):
    options = {"similarity": "cosine", "encode": encode, "index": "reference"}
    assert_retrieval_preserved(compressed_model, reference_model, dataset, **options, max_ndcg_drop=0.02)


@pytest.mark.compress_model("prune(density=0.02)")
def test_what_is_ruined_is_caught(compressed_model, reference_model, dataset):
    options = {"similarity": "cosine", "encode": encode}
    check = check_retrieval_preserved(compressed_model, reference_model, dataset, **options, min_result_overlap=0.9)
    assert not check.passed
