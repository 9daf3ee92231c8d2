"""A release gate for a causal language model: `pytest examples/language_model`. Copy the folder, and name your own."""

import copy

import pytest
from subjects import tokenizer

from pytest_cp import (
    assert_footprint,
    assert_generation_preserved,
    assert_language_preserved,
    check_language_preserved,
)

INT8, INT4 = "quantize(int8)", "quantize(int4, group_size=32)"
# of the layers in the middle, one in twenty hidden neurons; the first and the last ones bear no cut without training
PRUNED = 'structure_prune(density=0.95, include=("model.layers.1[0-9].*",))'


@pytest.mark.compress_model(INT8)
def test_int8_predicts_the_same_tokens(compressed_model, reference_model, dataset):
    bounds = {"max_perplexity_ratio": 1.02, "max_token_kl": 0.02, "min_token_agreement": 0.93}
    assert_language_preserved(compressed_model, reference_model, dataset, tokenizer=tokenizer(), **bounds)
    assert_footprint(compressed_model, reference_model, min_compression=3)


@pytest.mark.compress_model(INT8)
def test_int8_writes_nearly_the_same(compressed_model, reference_model, dataset):
    prompts = [document[:24] for document in dataset[:6]]
    bounds = {"min_common_prefix": 0.5, "max_damaged_generations": 0.2}
    options = {"max_new_tokens": 16, "tokenizer": tokenizer(), "tie_margin": 0.25}
    assert_generation_preserved(compressed_model, reference_model, prompts, **options, **bounds)


@pytest.mark.compress_model(INT4)
def test_int4_is_half_as_large_and_predicts_worse(compressed_model, reference_model, dataset):
    bounds = {"max_perplexity_ratio": 1.5, "min_token_agreement": 0.6}
    assert_language_preserved(compressed_model, reference_model, dataset, tokenizer=tokenizer(), **bounds)
    assert_footprint(compressed_model, reference_model, min_compression=5)


@pytest.mark.compress_model(PRUNED)
def test_pruned_has_fewer_neurons(compressed_model, reference_model, dataset):
    bounds = {"max_perplexity_ratio": 1.6, "min_token_agreement": 0.6}
    assert_language_preserved(compressed_model, reference_model, dataset, tokenizer=tokenizer(), **bounds)
    widths = {layer.mlp.down_proj.in_features for layer in compressed_model.model.layers}
    assert len(widths) == 2


def test_a_group_of_heads_in_another_place_is_caught(reference_model, dataset):
    faulty = copy.deepcopy(reference_model)
    attention = faulty.model.layers[0].self_attn
    attention.v_proj.weight.data = attention.v_proj.weight.data.roll(attention.head_dim, 0)
    check = check_language_preserved(faulty, reference_model, dataset, max_perplexity_ratio=1.02, max_token_kl=0.02)
    assert not check.passed
