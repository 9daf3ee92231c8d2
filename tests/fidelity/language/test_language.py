"""Two language models, token by token: what is measured, what is refused, and what each fault and no fault gives."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cp_compress import Quantize, compare_language
from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.base.largest import largest_by_block
from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.judging.metrics import find_metric
from cp_compress.fidelity.judging.units import ClusteredMean, ClusteredQuantile, Units
from cp_compress.fidelity.language.folding import _largest, fold
from cp_compress.inputs.tokens import TokenData

transformers = pytest.importorskip("transformers")
VOCABULARY = 300


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, VOCABULARY, (length,), generator=generator) for length in (40, 9, 25, 17, 2, 33)]


@pytest.fixture(scope="module")
def compressed(reference):
    return Quantize("int4", group_size=32).compress(reference)


def by_document(model, texts):
    """Return the log-probabilities of each document's next tokens, one document a call, in float64."""
    with torch.no_grad():
        return [model(ids[None]).logits[0, :-1].double().log_softmax(-1) for ids in texts]


def test_agrees_with_transformers_and_with_torch(reference, compressed, texts):
    found = compare_language(compressed, reference, texts, top_k=3, quantiles=(0.9,), slices={"two": [0, 3]})
    before, after = by_document(reference, texts), by_document(compressed, texts)
    targets = [ids[1:, None] for ids in texts]
    old, new = (
        torch.cat([-each.gather(1, true)[:, 0] for each, true in zip(seen, targets, strict=True)])
        for seen in (before, after)
    )
    joined_before, joined_after = torch.cat(before), torch.cat(after)
    kl = F.kl_div(joined_after, joined_before, log_target=True, reduction="none").sum(1)
    shared = [
        len(set(one.topk(3).indices.tolist()) & set(other.topk(3).indices.tolist())) / 3
        for one, other in zip(joined_before, joined_after, strict=True)
    ]
    within = torch.cat([torch.full((len(ids) - 1,), place in (0, 3)) for place, ids in enumerate(texts)])
    expected = {
        "perplexity_ratio": (new.mean() - old.mean()).exp(),
        "reference_perplexity": old.mean().exp(),
        "perplexity": new.mean().exp(),
        "token_kl": kl.mean(),
        "kl_quantile_0.9": np.quantile(kl.numpy(), 0.9, method="inverted_cdf"),
        "token_agreement": (joined_before.argmax(1) == joined_after.argmax(1)).double().mean(),
        "top_k_overlap": np.mean(shared),
        "worst_slice_perplexity_ratio": (new[within].mean() - old[within].mean()).exp(),
    }
    assert found.metrics == pytest.approx({name: float(value) for name, value in expected.items()}, rel=2e-5)
    tokens = sum(map(len, texts)) - len(texts)
    assert found.counts == {**dict.fromkeys(expected, tokens), "worst_slice_perplexity_ratio": 55}
    ids = torch.stack([texts[0][:20], texts[2][:20]])
    alone = compare_language(compressed, reference, ids)
    with torch.no_grad():
        assert alone.metrics["perplexity"] == pytest.approx(float(compressed(ids, labels=ids).loss.exp()), rel=1e-5)


def test_gives_what_is_declared(reference, compressed, texts):
    found = compare_language(compressed, reference, texts, slices={"two": [0, 3]})
    comparison = COMPARISONS["language"]
    assert {find_metric(name).name for name in found.metrics} == {metric.name for metric in comparison.metrics}
    claims = {metric.name for metric in comparison.metrics if metric.claims}
    assert {find_metric(name).name for name in found.evidence} == claims
    assert sum(row["count"] for row in found.details["positions"]) == found.counts["token_kl"]
    assert found.details["positions"][0]["first"] == 1
    assert found.details["positions"][-1]["last"] == 39
    worst = found.details["tokens"][0]
    assert worst["token"] == int(texts[worst["document"]][worst["position"]])
    assert worst["kl"] == pytest.approx(max(row["kl"] for row in found.details["tokens"]))


class Tokenizer:
    def decode(self, ids):
        return " ".join(f"<{one}>" for one in ids)


def test_the_form_of_the_data_the_padding_and_the_batches_change_nothing(reference, compressed, texts):
    longest = max(map(len, texts))
    right, left = torch.full((2, len(texts), longest), 7), torch.full((2, len(texts), longest), 7)
    right[1], left[1] = 0, 0
    for row, ids in enumerate(texts):
        right[0, row, : len(ids)], right[1, row, : len(ids)] = ids, 1
        left[0, row, longest - len(ids) :], left[1, row, longest - len(ids) :] = ids, 1
    expected = compare_language(compressed, reference, texts).metrics
    forms = {
        "pair": tuple(right),
        "left": tuple(left),
        "mapping": {"input_ids": right[0], "attention_mask": right[1]},
        "rows": [{"input_ids": ids.tolist(), "attention_mask": [1] * len(ids)} for ids in texts],
        "data set": torch.utils.data.TensorDataset(*right),
    }
    for form, data in forms.items():
        found = compare_language(compressed, reference, data, batch_size=4, tokenizer=Tokenizer())
        assert found.metrics == pytest.approx(expected, rel=1e-4), form
        assert TokenData(data).digest() == TokenData(texts).digest(), form
    assert found.details["tokens"][0]["text"].startswith("'<")


def scaled(model):
    model.model.layers[0].mlp.down_proj.weight.data *= 1.02


def headless(model):
    model.model.layers[1].self_attn.o_proj.weight.data[:, :8] = 0


def swapped(model):
    weight = model.model.layers[0].self_attn.v_proj.weight
    weight.data = weight.data.roll(8, 0)


@pytest.mark.parametrize("fault", [scaled, headless, swapped])
def test_faults_are_told_from_harmless_changes(reference, texts, fault):
    faulty = copy.deepcopy(reference)
    fault(faulty)
    worst = compare_language(faulty, reference, texts).metrics
    twins = {
        dtype: compare_language(copy.deepcopy(reference).to(dtype), reference, texts).metrics
        for dtype in (torch.float16, torch.bfloat16)
    }
    assert worst["token_kl"] > 3 * twins[torch.float16]["token_kl"]
    assert all(twin["perplexity_ratio"] == pytest.approx(1, abs=0.01) for twin in twins.values())
    assert all(twin["token_kl"] < 0.002 for twin in twins.values())


class Bigrams(nn.Module):
    """Logits of the next token from the last one alone, which takes no mask."""

    def __init__(self, vocabulary=50, seed=0):
        super().__init__()
        table = torch.randn(vocabulary, vocabulary, generator=torch.Generator().manual_seed(seed))
        self.table = nn.Parameter(table)

    def forward(self, ids):
        return self.table[ids]


def test_what_cannot_be_compared_is_refused():
    model, ids = Bigrams(), torch.randint(0, 50, (4, 6), generator=torch.Generator().manual_seed(3))
    broken = Bigrams(seed=1)
    broken.table.data[int(ids[2, 3])] = torch.nan
    padded = torch.ones_like(ids)
    padded[0, 0] = 0
    cases = {
        "vocabular": (Bigrams(60), ids),
        "NaN": (broken, ids),
        "1 token:": (Bigrams(seed=1), [ids[0], ids[1][:1]]),
        "no document": (Bigrams(seed=1), ids[:0]),
        "token id 50": (Bigrams(seed=1), ids.clone().index_fill_(1, torch.tensor([5]), 50)),
        "is no attention mask": (Bigrams(seed=1), (ids, ids)),
        "takes no attention_mask": (Bigrams(seed=1), (ids, padded)),
        "a 0 between two 1": (Bigrams(seed=1), (ids, torch.tensor([1, 1, 0, 1, 1, 1]).expand(4, 6))),
        "of shape": (Bigrams(seed=1), ids[0]),
        "integer dtype": (Bigrams(seed=1), ids.float()),
        "returned shape": (lambda some: F.one_hot(some[:, -1], 50).float(), ids),
        "random": (lambda some: torch.rand(*some.shape, 50), ids),
        "who else is in the batch": (
            lambda some: model(some) + some.float().mean() * torch.arange(50),
            ids * torch.tensor([[0], [1], [1], [1]]),
        ),
    }
    for told, (candidate, data) in cases.items():
        with pytest.raises(ObservationError, match=told):
            compare_language(candidate, model, data)
    for wrong in ({"top_k": 50}, {"quantiles": (1.0,)}, {"tokenizer": 3}, {"slices": {"none": []}}, {"batch_size": 0}):
        with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
            compare_language(Bigrams(seed=1), model, ids, **wrong)


def test_a_candidate_that_ignores_its_mask_is_told(reference, texts):
    class Deaf(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Quantize("int8").compress(reference)

        def forward(self, input_ids, attention_mask=None):
            return self.inner(input_ids)

    def sees_all(ids):
        return Bigrams(VOCABULARY)(ids) + ids.double().mean(1).float()[:, None, None] * torch.arange(VOCABULARY)

    (note,) = (one for one in compare_language(Deaf(), reference, texts).notes if "padding" in one)
    assert "candidate's answers depend on padding before the first token" in note
    assert not any(
        "padding" in one for one in compare_language(Quantize("int8").compress(reference), reference, texts).notes
    )
    notes = compare_language(sees_all, Bigrams(VOCABULARY), [ids[:9] for ids in texts if len(ids) > 8]).notes
    assert any("candidate's answers depend on padding after the last token" in one for one in notes)


def test_claims_are_about_documents_and_equal_ones_are_one(reference, compressed, texts):
    once, thrice = (compare_language(compressed, reference, data) for data in (texts, texts * 3))
    assert once.evidence["token_agreement"].count == thrice.evidence["token_agreement"].count == len(texts)
    assert isinstance(thrice.evidence["token_agreement"], ClusteredMean)
    assert any("12 documents are equal to others" in note for note in thrice.notes)
    pairs = compare_language(compressed, reference, texts, clusters=[0, 0, 1, 1, 2, 2])
    assert pairs.details["clusters"]["count"] == 3


def test_a_quantile_of_clusters_holds_at_its_confidence():
    generator = np.random.default_rng(0)
    missed = [0, 0]
    for _ in range(200):
        shift = generator.normal(size=(40, 1))
        values = torch.tensor((shift + 0.3 * generator.normal(size=(40, 5))).ravel())
        units = Units(torch.arange(40).repeat_interleave(5))
        interval = ClusteredQuantile.of(values, units, 0.8).interval(0.9)
        true = 0.8416 * np.sqrt(1.09)
        missed[0] += interval.high < true
        missed[1] += interval.low > true
        assert interval.low <= np.quantile(values, 0.8) <= interval.high
    assert max(missed) <= 30
    assert ClusteredQuantile.of(torch.tensor([1.0, 2.0]), Units(), 0.9).interval(0.95).high == np.inf


@pytest.mark.parametrize("size", [40, 1300, 5 * 512, 9 * 512 + 3])
def test_the_largest_values_are_those_of_a_whole_sort(size):
    rows = torch.randn(7, size, generator=torch.Generator().manual_seed(size))
    rows[3, [5, size - 1]] = 9.0  # the first of two that are equal
    rows[4] = 1.0
    found, expected = _largest(rows, torch.arange(7), largest_by_block(rows), 4), rows.topk(4)
    assert torch.equal(found.first, rows.argmax(1))
    assert torch.equal(found.values, expected.values)
    assert torch.equal(found.indices.sort().values[[0, 1, 2]], expected.indices.sort().values[[0, 1, 2]])


@pytest.mark.parametrize("noise", [1e-6, 1e-3, 0.1, 3.0])
@pytest.mark.parametrize("size", [40, 9 * 512 + 3])
def test_what_is_folded_in_float32_is_that_of_float64(size, noise):
    generator = torch.Generator().manual_seed(size)
    before = 6 * torch.randn(3, 30, size, generator=generator)
    before[0] += 200.0
    after = before + noise * torch.randn(3, 30, size, generator=generator)
    after[1] -= 50.0
    ids = torch.randint(0, size, (3, 30), generator=generator)
    mask = torch.ones_like(ids)
    mask[2, 5:] = 0
    for pair in ((before, after), (before.bfloat16(), after.bfloat16()), (before.bfloat16(), after)):
        found = fold(*pair, ids, mask, 3)
        likely = [torch.log_softmax(each.double(), dim=2)[:, :-1] for each in pair]
        counted = (mask[:, 1:] != 0).flatten()
        kl = (likely[0].exp() * (likely[0] - likely[1])).sum(dim=2).flatten()[counted]
        torch.testing.assert_close(found.kl.double(), kl, rtol=2e-6, atol=2e-6)
        for nll, each in zip((found.reference_nll, found.nll), likely, strict=True):
            expected = -each.gather(2, ids[:, 1:, None]).flatten()[counted]
            torch.testing.assert_close(nll.double(), expected, rtol=2e-6, atol=2e-6)
        answers = pair[1][:, :-1].argmax(dim=2).flatten()[counted]
        assert torch.equal(found.answer.long(), answers)


def test_what_is_kept_of_a_token_does_not_grow_with_the_vocabulary():
    before, after = torch.randn(2, 9, 4000), torch.randn(2, 9, 4000)
    ids = torch.randint(0, 4000, (2, 9))
    found = fold(before, after, ids, torch.ones_like(ids), 5)
    assert sum(each.element_size() for each in vars(found).values()) <= 40
    assert all(len(each) == 16 for each in vars(found).values())
