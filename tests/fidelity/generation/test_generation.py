"""Two models that write: what is measured, what is refused, and what each fault and no fault gives."""

import copy
import math
import random

import pytest
import torch

from cp_compress import GenerationData, Quantize, compare_generation
from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.generation.distances import common_length, edit_distance
from cp_compress.fidelity.generation.transcripts import normalized, word_errors
from cp_compress.inputs.tokens import pad

transformers = pytest.importorskip("transformers")
VOCABULARY, LENGTH = 120, 12


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=7,
        pad_token_id=0,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    model.lm_head.weight.data[7] *= 1.5  # so that some generations end
    return model


@pytest.fixture(scope="module")
def prompts():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(8, VOCABULARY, (length,), generator=generator) for length in [5, 9, 5, 7, 9, 5] * 5]


@pytest.fixture(scope="module")
def compressed(reference):
    return Quantize("int8").compress(reference)


def greedy(model, ids):
    """Return the tokens that follow ids, and the lead of each over the second, one forward pass a token."""
    written, margins = [], []
    with torch.no_grad():
        for _ in range(LENGTH):
            scores = model(torch.cat([ids, torch.tensor(written, dtype=torch.int64)])[None]).logits[0, -1]
            best = scores.topk(2)
            written.append(int(best.indices[0]))
            margins.append(float(best.values[0] - best.values[1]))
            if written[-1] == 7:
                break
    return written, margins


def levenshtein(first, second):
    """Return the edit distance by the recursion of its definition."""
    table = {(row, 0): row for row in range(len(first) + 1)} | {
        (0, column): column for column in range(len(second) + 1)
    }
    for row, one in enumerate(first, start=1):
        for column, other in enumerate(second, start=1):
            steps = table[row - 1, column] + 1, table[row, column - 1] + 1, table[row - 1, column - 1] + (one != other)
            table[row, column] = min(steps)
    return table[len(first), len(second)]


def test_agrees_with_a_loop_of_forward_passes(reference, compressed, prompts):
    found = compare_generation(
        compressed, reference, prompts, max_new_tokens=LENGTH, slices={"few": [0, 1], "all": range(30)}
    )
    before, after = ([greedy(model, ids) for ids in prompts] for model in (reference, compressed))
    pairs = [(old, new) for (old, _), (new, _) in zip(before, after, strict=True)]
    places = [
        next(
            (place for place, (one, other) in enumerate(zip(*pair, strict=False)) if one != other), min(map(len, pair))
        )
        for pair in pairs
    ]
    exact = [old == new for old, new in pairs]
    apart = [row[1][place] for row, place, same in zip(before, places, exact, strict=True) if not same]
    assert 0.1 < sum(exact) / 30 < 0.9
    assert any(len(old) < LENGTH for old, _ in pairs)
    longer = [max(map(len, pair)) for pair in pairs]
    expected = {
        "exact_generations": sum(exact) / 30,
        "common_prefix": sum(place / most for place, most in zip(places, longer, strict=True)) / 30,
        "edit_distance": sum(levenshtein(*pair) / most for pair, most in zip(pairs, longer, strict=True)) / 30,
        "damaged_generations": sum(margin > 0.1 for margin in apart) / 30,
        "mean_parting_margin": sum(apart) / len(apart),
        "min_slice_exact_generations": min(sum(exact) / 30, sum(exact[:2]) / 2),
    }
    measured = {name: found[name] for name in expected}
    assert measured == pytest.approx(expected, abs=1e-4)
    assert found.per_example["first_difference"].tolist() == places
    claims = {metric.name for metric in COMPARISONS["generation"].metrics if metric.claims}
    assert {*found.evidence} == claims
    strict = compare_generation(compressed, reference, prompts, max_new_tokens=LENGTH, tie_margin=max(apart) + 1e-3)
    assert strict["damaged_generations"] == 0


def test_a_generation_without_a_difference_is_censored(reference, compressed, prompts):
    def answering(rows):
        return lambda batch: [rows[int(one[0])] for one in batch]

    ids = torch.arange(4)[:, None].expand(-1, 2)
    rows = [[1, 2, 3, 4], [2, 2, 3, 4], [3, 2, 3, 4], [4, 2, 3, 4]]
    changed = [[1, 9, 3, 4], [2, 2, 3, 4], [3, 2, 3, 9, 5], [4, 2, 3, 4]]
    same = compare_generation(answering(rows), answering(rows), ids)
    assert same["exact_generations"] == 1
    assert same["median_first_difference"] == math.inf
    found = compare_generation(answering(changed), answering(rows), ids)
    assert found.per_example["first_difference"].tolist() == [1, 4, 3, 4]
    assert found["median_first_difference"] == 3  # one of four after 1, and of the three left one after 3
    assert found["common_prefix"] == (1 / 4 + 1 + 3 / 5 + 1) / 4
    assert found["edit_distance"] == (1 / 4 + 2 / 5) / 4
    assert "damaged_generations" not in found
    assert str(found.examples[0]).endswith("'4' → '9 5' (parts after 3, edit distance 0.4)")
    equal = compare_generation(copy.deepcopy(reference), reference, prompts[:4], max_new_tokens=4)
    assert equal["exact_generations"] == 1
    assert equal["damaged_generations"] == 0
    assert equal.details["equal_outputs"]
    quiet = compare_generation(compressed, reference, prompts[:4], max_new_tokens=1)
    assert not quiet.details["equal_outputs"]  # other margins show that it is another model


def test_the_form_of_the_data_the_padding_and_the_batches_change_nothing(reference, compressed, prompts):
    expected = compare_generation(compressed, reference, prompts, max_new_tokens=6)
    forms = [
        dict(zip(("input_ids", "attention_mask"), pad(prompts), strict=True)),
        dict(zip(("input_ids", "attention_mask"), pad(prompts, left=True), strict=True)),
        [{"input_ids": ids.tolist(), "attention_mask": [1] * len(ids)} for ids in prompts],
    ]
    for data in forms:
        found = compare_generation(compressed, reference, data, max_new_tokens=6, batch_size=4)
        assert found.metrics == pytest.approx(expected.metrics, abs=1e-4)
    deployed = compare_generation(compressed, reference, prompts, max_new_tokens=6, deployed_batch_size=8)
    assert deployed["exact_generations"] == pytest.approx(expected["exact_generations"], abs=0.1)
    twice = compare_generation(compressed, reference, prompts * 2, max_new_tokens=6)
    assert twice.evidence["exact_generations"].count == len(prompts)


def scaled(model):
    model.model.layers[0].mlp.down_proj.weight.data *= 1.3


def headless(model):
    model.model.layers[1].self_attn.o_proj.weight.data[:, :8] = 0


def swapped(model):
    weight = model.model.layers[0].self_attn.v_proj.weight
    weight.data = weight.data.roll(8, 0)


@pytest.mark.parametrize("fault", [scaled, headless, swapped])
def test_faults_are_told_from_harmless_changes(reference, prompts, fault):
    faulty = copy.deepcopy(reference)
    fault(faulty)
    worst = compare_generation(faulty, reference, prompts, max_new_tokens=8)
    twin = compare_generation(copy.deepcopy(reference).bfloat16(), reference, prompts, max_new_tokens=8)
    assert worst["exact_generations"] < 0.7 < twin["exact_generations"]
    assert worst["damaged_generations"] > 0.2 > twin["damaged_generations"]


def test_texts_and_word_error_rates():
    pytest.importorskip("jiwer")
    truth = ["The cat, it sat.", "a dog ran", "one two three four", "so it is"]
    right = ["the cat it sat", "a dog ran", "one two tree four", "so it is"]
    wrong = ["the cat it sat", "dog run", "one two tree four five", "so it is"]
    reference, candidate = (
        lambda batch, texts=texts: [texts[int(one)] for one in batch[:, 0]] for texts in (right, wrong)
    )
    data = {"prompts": torch.arange(4.0)[:, None], "targets": truth}
    found = compare_generation(candidate, reference, data)
    assert found["reference_word_error_rate"] == 1 / 14
    assert found["word_error_rate"] == (2 + 2) / 14
    assert found["word_error_rate_rise"] == 3 / 14
    assert found["exact_generations"] == 0.5
    assert found["edit_distance"] == (2 / 3 + 1 / 5) / 4
    generator = random.Random(0)
    words = ["a", "b", "c", "d"]
    for _ in range(30):
        one, true = (generator.choices(words, k=generator.randint(1, 9)) for _ in range(2))
        assert word_errors([" ".join(one)], [" ".join(true)]).rate == levenshtein(one, true) / len(true)
    assert normalized("Ｈｅｌｌｏ,  World!") == "hello world"
    with pytest.raises(ObservationError, match="word error rate is"):
        compare_generation(candidate, reference, GenerationData(data["prompts"], ["zz yy"] * 4))


def test_an_encoder_with_a_decoder():
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=60,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
        initializer_factor=3.0,
    )
    reference = transformers.T5ForConditionalGeneration(config).eval()
    ids = [torch.randint(2, 60, (length,)) for length in (4, 6, 4, 5)]
    found = compare_generation(Quantize("int8").compress(reference), reference, ids, max_new_tokens=5)
    with torch.no_grad():
        whole = reference.generate(ids[0][None], max_new_tokens=5, do_sample=False)[0, 1:]
    end = (whole == 1).nonzero()
    tokens = whole[: int(end[0]) + 1] if len(end) else whole
    first = compare_generation(lambda batch: [tokens] * len(batch), reference, ids[:1], max_new_tokens=5)
    assert first["exact_generations"] == 1
    assert "damaged_generations" in found


def test_recordings_and_settings_that_would_sample():
    torch.manual_seed(0)
    sizes = {
        f"{part}_{name}": size
        for part in ("encoder", "decoder")
        for name, size in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))
    }
    limits = {
        "max_source_positions": 20,
        "max_target_positions": 20,
        "num_mel_bins": 8,
        "vocab_size": 60,
        "d_model": 16,
    }
    ids = {"decoder_start_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1}
    config = transformers.WhisperConfig(**sizes, **limits, **ids, begin_suppress_tokens=None, init_std=0.5)
    reference = transformers.WhisperForConditionalGeneration(config).eval()
    reference.generation_config.update(do_sample=True, temperature=0.7)
    features = torch.randn(5, 8, 40)
    candidate = Quantize("int4", group_size=16).compress(reference)
    found = [
        compare_generation(candidate, reference, data, max_new_tokens=6)
        for data in (
            features,
            list(features),
            {"input_features": features},
            [{"input_features": one} for one in features],
        )
    ]
    assert 0 < found[0]["edit_distance"] < 1
    assert found[0]["mean_parting_margin"] > 0
    assert all(one.metrics == found[0].metrics for one in found)


def test_what_tells_nothing_or_cannot_be_compared_is_refused(reference, prompts):
    sampling = lambda batch: reference.generate(batch, do_sample=True, max_new_tokens=6, pad_token_id=0)  # noqa: E731
    cases = {
        "random": sampling,
        "returned a? ?Tensor|returned 3 rows": lambda batch: [[1]] * 3 if len(batch) != 3 else [[1]] * 2,
        "returned int for": lambda batch: 3,
        "of shape": lambda batch: torch.ones(len(batch), 2, 2),
        "cannot take a batch": lambda batch: batch @ torch.ones(2, 2),
    }
    for told, model in cases.items():
        with pytest.raises(ObservationError, match=told):
            compare_generation(model, reference, prompts)
    with pytest.raises(ObservationError, match="generates nothing for all"):
        compare_generation(reference, lambda batch: [""] * len(batch), prompts[:3])
    with pytest.raises(ObservationError, match="the same for all 30 prompts"):
        compare_generation(reference, lambda batch: [[3, 4]] * len(batch), prompts)
    with pytest.raises(ObservationError, match="hold no word"):
        compare_generation(reference, reference, GenerationData(prompts, [""] * 30))
    with pytest.raises(ObservationError, match="a text for each of 30 prompts"):
        compare_generation(reference, reference, {"prompts": prompts, "targets": ["one"]})
    for name, wrong in {
        "max_new_tokens": {"max_new_tokens": 0},
        "has no effect": {"max_new_tokens": 3, "generate": sampling},
        "generate": {"generate": 3},
        "eos_token_id": {"eos_token_id": "end"},
        "tie_margin": {"tie_margin": -1},
        "tokenizer": {"tokenizer": 3},
        "slices": {"slices": {"none": []}},
    }.items():
        with pytest.raises(InvalidArgumentError, match=name):
            compare_generation(copy.deepcopy(reference), reference, prompts, **wrong)
    with pytest.raises(InvalidArgumentError, match="true texts are given and the models write tokens"):
        compare_generation(
            copy.deepcopy(reference), reference, GenerationData(prompts[:2], ["a", "b"]), max_new_tokens=2
        )


def test_distances_of_random_rows():
    generator = random.Random(0)
    for _ in range(200):
        one, other = ([generator.randrange(4) for _ in range(generator.randrange(12))] for _ in range(2))
        left, right = torch.tensor(one, dtype=torch.int64), torch.tensor(other, dtype=torch.int64)
        assert edit_distance(left, right) == edit_distance(right, left) == levenshtein(one, other)
        start = common_length(left, right)
        assert one[:start] == other[:start]
        assert start == min(len(one), len(other)) or one[start] != other[start]
