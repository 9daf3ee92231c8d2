"""Observations in files: the same numbers as live ones to the bit, of examples that must be those that were frozen."""

import dataclasses
import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import Pairs
from torch import nn

import cp_compress
from cp_compress import (
    ArtifactError,
    InvalidArgumentError,
    NothingComparedError,
    ObservationError,
    TaskDataset,
    compare,
    compare_embeddings,
    compare_predictions,
    load_observation,
    observe,
    save_observation,
)
from cp_compress.fidelity.frozen.matching import other_examples
from cp_compress.fidelity.frozen.top_logits import divergence_bounds, top_logits
from pytest_cp import assert_embeddings_preserved, assert_preserved_predictions, check_preserved_predictions


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4)).eval()


REFERENCE = network()
CANDIDATE = cp_compress.compress(REFERENCE, "quantize(int8)")
INPUTS = torch.rand(60, 6, generator=torch.Generator().manual_seed(1))
LABELS = REFERENCE(INPUTS).argmax(1)
DATA = (INPUTS, LABELS)


def freeze(tmp_path, model, data=DATA, name="frozen.obs", **options):
    save_observation(observe(model, data), tmp_path / name, **options)
    return load_observation(tmp_path / name)


@pytest.fixture
def reference(tmp_path):
    return freeze(tmp_path, REFERENCE, name="reference.obs", layers=["default:", "0"])


def same(one, other):
    """Whether two measurements are equal to the bit, notes and examples included."""
    fields = [field.name for field in dataclasses.fields(one) if field.name != "per_example"]
    return all(repr(getattr(one, name)) == repr(getattr(other, name)) for name in fields) and all(
        torch.equal(one.per_example[name], other.per_example[name]) for name in one.per_example
    )


def test_frozen_and_live_subjects_give_the_same_numbers_to_the_bit(tmp_path, reference):
    candidate = freeze(tmp_path, CANDIDATE, layers=["default:", "0"])
    live = observe(CANDIDATE, DATA), observe(REFERENCE, DATA)
    slices = {"first": torch.arange(20), "rest": torch.arange(20, 60)}
    for measure in (
        lambda *pair: compare_predictions(*pair, slices=slices),
        compare_embeddings,
        lambda *pair: compare_embeddings(*pair, layer="0", examples=30),
    ):
        expected = measure(*live)
        for pair in ((candidate, live[1]), (live[0], reference), (candidate, reference)):
            assert same(measure(*pair), expected)


def test_of_many_answers_an_example(tmp_path):
    """Segmentation with ignored places, and labels that are not exclusive."""
    torch.manual_seed(0)
    inputs = torch.rand(12, 3, 4, 4)
    dense = nn.Conv2d(3, 5, 1).eval()
    targets = dense(inputs).argmax(1)
    targets[:, 0, 0] = -100
    many = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval()
    cases = (
        (dense, TaskDataset((inputs, targets), "dense")),
        (many, TaskDataset((inputs, (many(inputs) > 0).long()), "multi_label", classes=("a", "b", "c"))),
    )
    for model, data in cases:
        smaller = cp_compress.compress(model, "quantize(int4)")
        live = compare_predictions(observe(smaller, data), observe(model, data))
        frozen = freeze(tmp_path, model, data)
        assert frozen.class_names == observe(model, data).class_names
        assert same(compare_predictions(observe(smaller, data), frozen), live)
        assert same(compare_predictions(freeze(tmp_path, smaller, data, "other.obs"), frozen), live)


def test_it_stands_for_a_model_in_assertions(tmp_path, reference):
    """With the data it is checked against them; where both are frozen there need be no data."""
    live = assert_preserved_predictions(CANDIDATE, REFERENCE, DATA, min_agreement=0.5)
    candidate = freeze(tmp_path, CANDIDATE, layers="default:")
    for subjects in ((CANDIDATE, reference, DATA), (candidate, reference, DATA), (candidate, reference, None)):
        found = assert_preserved_predictions(*subjects, min_agreement=0.5)
        assert found.to_json()["requirements"] == live.to_json()["requirements"]
        assert found.record["subjects"]["reference"] == live.record["subjects"]["reference"]
    assert_embeddings_preserved(candidate, reference, None, min_cka=0.9)
    assert compare(CANDIDATE, reference, DATA, levels="predictions").metrics["agreement"] > 0.5


def test_what_a_live_pair_is_refused_for_is_refused_of_a_frozen_one(tmp_path, reference):
    """The same model, the wrong order, another source: what is needed to tell them is frozen."""
    again = freeze(tmp_path, REFERENCE, name="again.obs")
    with pytest.raises(NothingComparedError, match="same content"):
        check_preserved_predictions(REFERENCE, reference, DATA, min_agreement=0.5)
    with pytest.raises(NothingComparedError, match="same content"):
        check_preserved_predictions(again, reference, None, min_agreement=0.5)
    with pytest.raises(NothingComparedError, match="in another wrapper"):
        check_preserved_predictions(lambda batch: REFERENCE(batch), reference, DATA, min_agreement=0.5)
    candidate = freeze(tmp_path, CANDIDATE)
    with pytest.raises(InvalidArgumentError, match="must be the first argument"):
        check_preserved_predictions(reference, candidate, None, min_agreement=0.5)
    with pytest.raises(InvalidArgumentError, match="other weights"):
        check_preserved_predictions(
            cp_compress.compress(network(3), "quantize(int8)"), reference, DATA, min_agreement=0.5
        )
    with pytest.raises(InvalidArgumentError, match="must be a model, or an observation that was read"):
        observe(observe(REFERENCE, DATA), DATA)


def test_what_was_not_frozen_is_told(tmp_path, reference):
    with pytest.raises(ObservationError, match=r"reference.obs is a frozen .*holds .*input:2 \(mean\), 0 \(mean\)"):
        compare_embeddings(observe(CANDIDATE, DATA), reference, layer="1")
    with pytest.raises(ObservationError, match="no model to run"):
        cp_compress.compare_attributions(observe(CANDIDATE, DATA), reference.on(DATA))
    with pytest.raises(ObservationError, match="not their inputs"):
        cp_compress.compare_attributions(observe(CANDIDATE, DATA), reference)
    with pytest.raises(ObservationError, match="no model to run"):
        reference(INPUTS)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x, y: (x * 2 - 1, y), r"none of the 60 .*frozen were float32 \(6,\) in \[0.*given are .*\[-"),
        (lambda x, y: (x.flip(0), y.flip(0)), "another order, from #0 on: it is the one that was frozen as #59"),
        (lambda x, y: (x[:-2], y[:-2]), r"2 of 60 frozen examples are missing \(#58, #59\)"),
        (lambda x, y: (x.index_fill(0, torch.tensor([7]), 0.5), y), r"1 of 60 examples is another one .*\(#7\)"),
        (lambda x, y: (x, (y + (torch.arange(60) == 4)) % 4), r"1 of 60 labels are others \(#4\): #4 has"),
        (lambda x, y: (x[:, :5], y), r"none of the 60 .*float32 \(5,\)"),
        (lambda x, y: TaskDataset((x, y[:, None]), "multi_label"), "frozen was a single_label task"),
    ],
)
def test_other_examples_are_an_error_that_says_which(reference, change, told):
    data = change(*DATA)
    with pytest.raises(ObservationError, match=told):
        len(reference.on(data).predictions)
    with pytest.raises(ObservationError):
        check_preserved_predictions(CANDIDATE, reference, data, min_agreement=0.5)
    with pytest.raises(ObservationError):
        compare_predictions(observe(CANDIDATE, data), reference)


def test_labels_may_be_left_out_and_values_may_have_another_dtype(tmp_path, reference):
    alone = observe(CANDIDATE, INPUTS)
    found = compare_predictions(alone, reference.on(INPUTS))
    assert found["agreement"] == compare_predictions(alone, observe(REFERENCE, INPUTS))["agreement"]
    assert "accuracy" not in found.metrics
    wide = reference.on((INPUTS.double(), LABELS))
    assert torch.equal(wide.predictions, REFERENCE(INPUTS).argmax(1))
    bare = freeze(tmp_path, REFERENCE, INPUTS)
    assert torch.equal(bare.on(DATA).labels, LABELS)


def test_data_is_read_once_for_the_candidate_alone(reference):
    """The candidate's own pass tells what the frozen examples are held against."""
    read = Counter()

    class Counting(Pairs):
        def __getitem__(self, index):
            read[index] += 1
            return super().__getitem__(index)

    data = Counting(list(zip(INPUTS, LABELS.tolist(), strict=True)))
    assert len(observe(network(5), data).predictions) == 60
    alone = sum(read.values())
    read.clear()
    model = network(6)
    check_preserved_predictions(model, reference, data, min_agreement=0.1)
    assert sum(read.values()) < alone + 60  # a second pass would read each once more


def test_compressed_data_belongs_to_its_originals_by_digest(tmp_path):
    """A candidate that was frozen on stored data is compared without data: what it was stored from is frozen too."""
    from cp_compress.data import CompressedDataset, parse_codec
    from cp_compress.examples import digits, digits_cnn

    model, data = digits_cnn(), torch.utils.data.Subset(digits(), range(12))
    stored = CompressedDataset(data, parse_codec("zfp(precision=8)"))
    live = compare_predictions(observe(model, stored), observe(model, data))
    reference, candidate = freeze(tmp_path, model, data), freeze(tmp_path, model, stored, "candidate.obs")
    assert candidate.data.source.codec == "zfp(precision=8)"
    assert same(compare_predictions(candidate, reference), live)
    assert same(compare_predictions(observe(model, stored), reference.on(data)), live)
    other = freeze(tmp_path, model, torch.utils.data.Subset(digits(), [*range(11), 50]), "other.obs")
    with pytest.raises(ObservationError, match=r"different labels|1 of 12 examples \(#11\) of the candidate are not"):
        compare_predictions(candidate, other)


WIDE = 40


def wide(seed, peak=4.0):
    torch.manual_seed(seed)
    model = nn.Linear(6, WIDE).eval()
    model.weight.data *= peak
    return model


@pytest.mark.parametrize("probabilities", [False, True])
def test_the_largest_logits_tell_answers_and_bound_the_divergence(tmp_path, probabilities):
    """All that rests on answers and their confidence is as with all logits; the divergence has bounds that close."""
    reference, candidate = wide(1), wide(1)
    candidate.weight.data += 0.05 * torch.randn(WIDE, 6)
    if probabilities:
        reference, candidate = (nn.Sequential(one, nn.Softmax(1)) for one in (reference, candidate))
    data = (INPUTS, reference(INPUTS).argmax(1))
    live = compare_predictions(observe(candidate, data), observe(reference, data), top_k=3)
    highest = []
    for kept in (5, 20, WIDE - 1):
        frozen = freeze(tmp_path, reference, data, f"{kept}.obs", top_k=kept)
        found = compare_predictions(observe(candidate, data), frozen, top_k=3)
        exact = set(live.metrics) - {"mean_kl", "mean_logit_distance"}
        assert {name: found[name] for name in exact} == pytest.approx({name: live[name] for name in exact}, abs=1e-12)
        assert found.examples == live.examples
        assert "mean_logit_distance" not in found.metrics
        assert found["mean_kl"] >= live["mean_kl"] - 1e-9
        assert bool((found.per_example["kl"] >= live.per_example["kl"] - 1e-6).all())
        assert any(f"the {kept} largest logits" in note for note in found.notes)
        highest.append(found["mean_kl"])
    assert highest == sorted(highest, reverse=True)
    assert highest[-1] == pytest.approx(live["mean_kl"], abs=1e-5)
    few = freeze(tmp_path, candidate, data, "candidate.obs", top_k=5)
    both = compare_predictions(few, frozen, top_k=3)
    assert both["agreement"] == live["agreement"]
    assert not {"mean_kl", "mean_logit_distance"} & set(both.metrics)
    with pytest.raises(InvalidArgumentError, match=r"its value is not known: all logits of both .* 5 largest alone"):
        check_preserved_predictions(few, frozen, None, max_mean_kl=0.1)
    with pytest.raises(ObservationError, match="the 5 largest logits of each example, and 9 are asked"):
        compare_predictions(few, frozen, top_k=9)
    with pytest.raises(ObservationError, match="needs all logits"):
        few.logits.sum()
    with pytest.raises(NothingComparedError):
        check_preserved_predictions(lambda batch: candidate(batch), few, data, min_agreement=0.5)


@given(
    st.integers(3, 9).flatmap(lambda classes: st.tuples(st.just(classes), st.integers(1, classes - 1))),
    st.integers(0, 2**31),
    st.floats(0.1, 20),
)
@settings(max_examples=40, deadline=None)
def test_the_divergence_lies_within_its_bounds_and_the_upper_one_is_reached(sizes, seed, scale):
    """No sharing out of what is not known of the reference gives more, or less, than the bounds say."""
    classes, kept = sizes
    generator = torch.Generator().manual_seed(seed)
    one, other = (scale * torch.randn(1, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    top = top_logits(one, kept)
    low, high = divergence_bounds(top, other, lambda block: block)[0].tolist()
    ours, shares = other.log_softmax(1)[0], one.softmax(1)[0]
    rest = [place for place in range(classes) if place not in top.places[0].tolist()]
    total, most = float(shares[rest].sum()), float(shares[top.places[0, -1]])
    slack = 1e-9 * max(1.0, abs(high))

    def divergence(others):
        whole = shares.clone()
        whole[rest] = others
        return float((torch.xlogy(whole, whole) - whole * ours).sum())

    def filled(order):
        left, found = total, torch.zeros(len(rest), dtype=torch.float64)
        for place in order:
            found[place] = min(most, left)
            left -= float(found[place])
        return found

    assert low - slack <= divergence(shares[rest]) <= high + slack
    orders = [torch.randperm(len(rest), generator=generator).tolist() for _ in range(5)]
    assert max(divergence(filled(order)) for order in orders) <= high + slack
    assert divergence(filled(sorted(range(len(rest)), key=lambda place: float(ours[rest[place]])))) == pytest.approx(
        high, abs=slack
    )


def test_the_noise_among_references_is_frozen(tmp_path):
    """It is what comparisons of all pairs give, the compressed one first."""
    other = cp_compress.compress(REFERENCE, "quantize(bfloat16)")
    seen = {"quantize(bfloat16)": observe(other, DATA), "seed": observe(network(1), DATA)}
    frozen = freeze(tmp_path, REFERENCE, noise=seen, layers="default:")
    pairs = [(other, REFERENCE), (other, network(1)), (REFERENCE, network(1)), (network(1), REFERENCE)]
    for level, compare_pair in (("predictions", compare_predictions), ("embeddings", compare_embeddings)):
        found = [compare_pair(observe(one, DATA), observe(another, DATA)).metrics for one, another in pairs]
        for metric, values in frozen.noise[level].items():
            assert sorted(values) == sorted(each[metric] for each in found)
    assert {"agreement", "mean_kl"} <= set(frozen.noise["predictions"])
    assert frozen.content.facts["noise"]["references"] == [*seen]
    assert freeze(tmp_path, REFERENCE).noise == {}


def test_equal_logits_are_in_the_order_of_the_classes():
    found = top_logits(torch.tensor([[1.0, 3.0, 3.0, 3.0, 3.0, 2.0]]), 2)
    assert found.places[0, 0] == 1
    assert found.values.tolist() == [[3.0, 3.0]]


@given(
    st.lists(st.sampled_from("abcdef"), min_size=1, max_size=7),
    st.lists(st.sampled_from("abcdef"), min_size=1, max_size=7),
)
@settings(max_examples=120, deadline=None)
def test_matching_finds_every_difference(frozen, given_ones):
    """None exactly for equal lists; the order is blamed exactly where the same examples are there."""
    told = other_examples(frozen, given_ones)
    assert (told is None) == (frozen == given_ones)
    if told is not None:
        assert ("another order" in told) == (sorted(frozen) == sorted(given_ones))
        assert ("none of the" in told) == (not set(frozen) & set(given_ones))
        missing, foreign = Counter(frozen) - Counter(given_ones), Counter(given_ones) - Counter(frozen)
        if sum(missing.values()) != sum(foreign.values()) and "none" not in told:
            assert str(max(sum(missing.values()), sum(foreign.values()))) in told


def test_every_transposition_of_examples_is_noticed(reference):
    digests = reference.content.example_digests()
    assert len(set(digests)) == 60
    for first, second in itertools.islice(itertools.combinations(range(60), 2), 0, None, 97):
        swapped = list(digests)
        swapped[first], swapped[second] = swapped[second], swapped[first]
        assert f"from #{first} on: it is the one that was frozen as #{second}" in other_examples(digests, swapped)


def test_a_digest_pins_the_file(tmp_path):
    digest = save_observation(observe(REFERENCE, DATA), tmp_path / "a.obs")
    assert save_observation(observe(REFERENCE, DATA), tmp_path / "b.obs") == digest
    assert load_observation(tmp_path / "a.obs", digest=f"sha256:{digest}").digest == digest
    save_observation(observe(network(9), DATA), tmp_path / "b.obs")
    with pytest.raises(ArtifactError, match=r"b.obs: has the digest \w+, and .* is required"):
        load_observation(tmp_path / "b.obs", digest=digest[:12])
    with pytest.raises(InvalidArgumentError, match="first 12 or more"):
        load_observation(tmp_path / "a.obs", digest="abc")
    with pytest.raises(InvalidArgumentError, match="copy that"):
        save_observation(load_observation(tmp_path / "a.obs"), tmp_path / "c.obs")


def test_normalised_inputs_are_judged_without_data(tmp_path):
    data = INPUTS - 0.5, REFERENCE(INPUTS - 0.5).argmax(1)
    frozen = [freeze(tmp_path, model, data, name) for model, name in ((CANDIDATE, "a.obs"), (REFERENCE, "b.obs"))]
    live = check_preserved_predictions(CANDIDATE, REFERENCE, data, min_agreement=0.5)
    assert check_preserved_predictions(*frozen, None, min_agreement=0.5).metrics == live.metrics


class Heads(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.near, self.far = network(seed), network(seed + 1)

    def forward(self, inputs):
        return {"near": self.near(inputs), "far": self.far(inputs)}


def test_another_part_or_batch_than_was_frozen_is_refused(tmp_path):
    save_observation(observe(Heads(0), DATA, output="near", batch_size=8, deployed_batch_size=8), tmp_path / "near.obs")
    frozen = load_observation(tmp_path / "near.obs")
    assert observe(frozen, DATA, output="near", deployed_batch_size=8).predictions.equal(LABELS)
    assert observe(frozen, DATA).predictions.equal(LABELS)
    with pytest.raises(ObservationError, match="'near' was frozen, and output='far' is asked for"):
        observe(frozen, DATA, output="far")
    with pytest.raises(ObservationError, match="'near' was frozen, and output=<function"):
        observe(frozen, DATA, output=lambda outputs: outputs["near"])
    with pytest.raises(ObservationError, match="batches of exactly 8, and deployed_batch_size=4"):
        observe(frozen, DATA, deployed_batch_size=4)
