"""A release gate for a model that writes: `pytest examples/generation`. Copy the folder, and name your own in it."""

import copy
import os

from subjects import tokenizer

from pytest_cp import assert_generation_preserved, check_generation_preserved

TOLD = {} if "CP_LM" in os.environ else {"max_word_error_rate_rise": 0.01}


def test_what_is_written_stays(compressed_model, reference_model, dataset):
    assert_generation_preserved(
        compressed_model,
        reference_model,
        dataset,
        tokenizer=tokenizer(),
        max_new_tokens=24,
        min_exact_generations=0.7,
        max_damaged_generations=0.2,
        max_edit_distance=0.2,
        **TOLD,
    )


def test_it_stays_for_other_prompts_too(compressed_model, reference_model, dataset):
    options = {"tokenizer": tokenizer(), "max_new_tokens": 24, "confidence": 0.9}
    assert_generation_preserved(compressed_model, reference_model, dataset, **options, max_edit_distance=0.3)


def test_a_layer_that_is_off_is_caught(reference_model, dataset):
    faulty = copy.deepcopy(reference_model)
    for layer in faulty.model.layers:
        layer.self_attn.v_proj.weight.data = layer.self_attn.v_proj.weight.data.roll(16, 0)  # heads change places
    options = {"tokenizer": tokenizer(), "max_new_tokens": 24}
    check = check_generation_preserved(faulty, reference_model, dataset, **options, min_exact_generations=0.7)
    assert not check.passed
