"""Level C as a whole: metrics against their definitions, strata, floors, and what is refused."""

import json

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.fidelity import observe
from cp_compress.fidelity.attributions.comparison import compare_attributions
from cp_compress.fidelity.attributions.jaccard import split_jaccard
from cp_compress.fidelity.attributions.pairs import CorrectedMean
from cp_compress.fidelity.judging.intervals import BoundedMean
from cp_compress.fidelity.judging.judgement import judge
from cp_compress.fidelity.judging.requirement import Requirement

CLASSES = 4


def network(seed=0, scale=0.0):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) / 3)
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def data(count=40, seed=1):
    inputs = torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))
    return inputs, torch.arange(count) % CLASSES


def gradients(model, inputs, target):
    leaf = inputs.clone().requires_grad_()
    return torch.autograd.grad(model(leaf).gather(1, target[:, None]).sum(), leaf)[0]


def compare(model, other, examples=None, candidate_data=None, **options):
    examples = examples or data()
    return compare_attributions(observe(other, candidate_data or examples), observe(model, examples), **options)


def test_metrics_are_their_definitions():
    before, after = network(), network(1, 0.2)
    inputs, _ = data()
    target = before(inputs).argmax(dim=1)
    maps = [gradients(model, inputs, target) for model in (before, after)]
    index = split_jaccard(*maps)
    found = compare(before, after, quantiles=(0.1, 0.9))
    assert torch.allclose(found.per_example["iou"], index)
    assert found.per_example["example"].tolist() == list(range(40))
    assert found.metrics["mean_iou"] == pytest.approx(float(index.mean()))
    assert found.metrics["median_iou"] == pytest.approx(float(index.median()), abs=0.02)
    assert found.metrics["iou_quantile_0.1"] == pytest.approx(np.quantile(index, 0.1))
    assert found.metrics["iou_quantile_0.9"] == pytest.approx(np.quantile(index, 0.9))
    every_pair = torch.stack([split_jaccard(maps[0], maps[1].roll(shift, 0)).mean() for shift in range(1, 40)])
    assert found.metrics["chance_iou"] == pytest.approx(float(every_pair.mean()), abs=0.05)
    chance = found.metrics["chance_iou"]
    assert found.metrics["corrected_iou"] == pytest.approx((found.metrics["mean_iou"] - chance) / (1 - chance))
    agreeing = int((before(inputs).argmax(dim=1) == after(inputs).argmax(dim=1)).sum())
    assert found.counts.pop("agreeing_mean_iou") == agreeing
    assert set(found.counts.values()) == {40}
    json.dumps(found.details)


def test_order_and_strongest_places_beside_the_index():
    before, after = network(), network(1, 0.2)
    inputs, _ = data()
    target = before(inputs).argmax(dim=1)
    maps = [gradients(model, inputs, target) for model in (before, after)]
    found = compare(before, after, top_fraction=0.25)
    ranks = torch.tensor([stats.spearmanr(*pair).statistic for pair in zip(*maps, strict=True)])
    strongest = [[set(row.abs().topk(3).indices.tolist()) for row in part] for part in maps]
    shares = torch.tensor([len(a & b) / len(a | b) for a, b in zip(*strongest, strict=True)])
    assert torch.allclose(found.per_example["rank_correlation"], ranks)
    assert torch.allclose(found.per_example["top_fraction_iou"].float(), shares)
    assert found.metrics["rank_correlation"] == pytest.approx(float(ranks.mean()))
    assert found.metrics["top_fraction_iou"] == pytest.approx(float(shares.mean()))
    for name, values, low in (("rank_correlation", ranks, -1.0), ("top_fraction_iou", shares, 0.0)):
        interval = found.evidence[name].interval(0.95)
        assert low <= interval.low < float(values.mean()) < interval.high <= 1
    chance = found.details["chance"]
    every = [
        (stats.spearmanr(maps[0][i], maps[1][j]).statistic, len(a & b) / len(a | b))
        for i, a in enumerate(strongest[0])
        for j, b in enumerate(strongest[1])
        if i != j
    ]
    assert chance["rank_correlation"] == pytest.approx(np.mean([rank for rank, _ in every]), abs=0.15)
    assert chance["top_fraction_iou"] == pytest.approx(np.mean([share for _, share in every]), abs=0.1)
    assert chance["top_fraction_iou of random places"] == pytest.approx(0.25 / 1.75)


def test_many_examples_and_few_have_as_many_pairs_of_chance():
    few, many = compare(network(), network(1, 0.2)), compare(network(), network(1, 0.2), data(3000))
    assert few.metrics["chance_iou"] == pytest.approx(many.metrics["chance_iou"], abs=0.03)
    assert many.counts["chance_iou"] == 3000


def test_models_are_asked_for_the_references_class():
    before, after = network(), network(3, 0.5)
    inputs, _ = data()
    agree = before(inputs).argmax(dim=1) == after(inputs).argmax(dim=1)
    assert 0 < int(agree.sum()) < 40
    found = compare(before, after)
    strata = {row["predictions"]: row for row in found.details["strata"]}
    assert strata["agree"]["count"] == int(agree.sum())
    assert strata["disagree"]["count"] == int((~agree).sum())
    assert strata["agree"]["mean_iou"] == pytest.approx(float(found.per_example["iou"][agree].mean()))
    assert any("predictions differ on" in note for note in found.notes)
    assert strata["disagree"]["rank_correlation"] == pytest.approx(
        float(found.per_example["rank_correlation"][~agree].mean())
    )
    assert strata["agree"]["top_fraction_iou"] == pytest.approx(
        float(found.per_example["top_fraction_iou"][agree].mean())
    )
    assert found.metrics["agreeing_mean_iou"] == pytest.approx(strata["agree"]["mean_iou"])
    assert found.counts["agreeing_mean_iou"] == found.evidence["agreeing_mean_iou"].count == int(agree.sum())
    worst = found.examples[0]
    assert worst.index == int(found.per_example["iou"].argmin())
    now = int(after(inputs[worst.index : worst.index + 1]).argmax())
    assert worst.after == f"{now}, IoU of the maps {float(found.per_example['iou'].min()):.2f}"


def test_equal_models_score_one_and_unrelated_ones_about_the_floor():
    other = network(seed=5, scale=0.0)
    same = compare(network(), other)
    assert same.metrics["mean_iou"] == 1
    assert same.metrics["corrected_iou"] == pytest.approx(1)
    unrelated = compare(network(), network(7, 30.0))
    assert abs(unrelated.metrics["corrected_iou"]) < 0.3


def test_the_chance_floor_is_seeded_and_never_pairs_an_example_with_itself():
    first = compare(network(), network(1, 0.1), seed=3)
    again = compare(network(), network(1, 0.1), seed=3)
    other = compare(network(), network(1, 0.1), seed=4)
    assert first.metrics == again.metrics
    assert first.metrics["chance_iou"] != other.metrics["chance_iou"]
    # maps with one place each have nothing in common unless an example meets itself
    inputs, labels = torch.eye(12) * 3, torch.zeros(12, dtype=torch.int64)

    class Squares(nn.Module):
        def forward(self, x):
            return torch.stack([x.square().sum(dim=1), x.sum(dim=1) * 0], dim=1)

    class Cubes(nn.Module):
        def forward(self, x):
            return torch.stack([x.pow(3).sum(dim=1), x.sum(dim=1) * 0], dim=1)

    for count in (2, 3, 12):
        found = compare(Squares(), Cubes(), (inputs[:count], labels[:count]))
        assert found.metrics["mean_iou"] == pytest.approx(1)
        assert found.metrics["chance_iou"] == 0


def test_without_agreement_there_is_nothing_to_say_of_those_who_agree():
    turned = network()
    with torch.no_grad():
        turned[2].weight.neg_()
        turned[2].bias.neg_()
    found = compare(network(), turned)
    assert found.details["strata"][0]["count"] == 0
    assert found.details["strata"][0]["mean_iou"] is None
    assert judge(found, [Requirement("agreeing_mean_iou", "min", 0.0)]).outcome == "error"
    json.dumps(found.to_json())


def test_one_example_has_no_floor_and_cannot_be_judged_by_it():
    single = compare_attributions(observe(network(1, 0.1), data()), observe(network(), data()), examples=1)
    assert single.counts["corrected_iou"] == 0
    check = judge(single, [Requirement("corrected_iou", "min", 0.1)])
    assert check.outcome == "error"
    assert judge(single, [Requirement("mean_iou", "min", 0.0)]).outcome == "pass"


def test_examples_are_a_number_or_indices():
    model, other = observe(network(), data()), observe(network(1, 0.1), data())
    everything = compare_attributions(other, model).per_example["iou"]
    some = compare_attributions(other, model, examples=[7, 3, 30])
    assert some.per_example["example"].tolist() == [7, 3, 30]
    assert torch.allclose(some.per_example["iou"], everything[[7, 3, 30]])
    spread = compare_attributions(other, model, examples=5)
    assert spread.per_example["example"].tolist() == [0, 10, 20, 29, 39]
    assert spread.counts["mean_iou"] == 5
    assert compare_attributions(other, model, examples=100).counts["mean_iou"] == 40


def test_compressed_data_is_attributed_on_its_own_inputs():
    model = network()
    inputs, labels = data()
    decoded = inputs + 0.1 * torch.randn(inputs.shape, generator=torch.Generator().manual_seed(5))
    found = compare(model, model, candidate_data=(decoded, labels))
    target = model(inputs).argmax(dim=1)
    expected = split_jaccard(gradients(model, inputs, target), gradients(model, decoded, target))
    assert torch.allclose(found.per_example["iou"], expected)


def test_zero_maps_are_counted():
    class Gated(nn.Module):
        def __init__(self, threshold):
            super().__init__()
            self.threshold = threshold

        def forward(self, x):
            return torch.stack([torch.relu(x - self.threshold).sum(dim=1), x.sum(dim=1) * 0 - 1], dim=1)

    inputs = torch.tensor([[0.5], [1.5], [2.5]])
    labels = torch.zeros(3, dtype=torch.int64)
    found = compare(Gated(1.0), Gated(2.0), (inputs, labels))
    assert found.per_example["iou"].tolist() == [1, 0, 1]
    assert found.details["zero_maps"] == {"both": 1, "reference": 0, "candidate": 1}
    assert any("1 of 3 pairs in both" in note for note in found.notes)
    with pytest.raises(ObservationError, match="nothing was compared"):
        compare(Gated(3.0), Gated(4.0), (inputs, labels))


def test_completeness_is_reported_and_enforced():
    sharp = network(1, 3.0)
    with pytest.raises(ObservationError, match=r"misses .*more than the 0\.1% allowed.*steps=4\)"):
        compare(network(), sharp, method="integrated_gradients(steps=2)", max_completeness_gap=0.001)
    found = compare(network(), network(1, 0.1), method="integrated_gradients(steps=20)")
    gaps = found.details["completeness_gap"]
    assert 0 <= gaps["reference"] < 0.01
    assert 0 <= gaps["candidate"] < 0.01
    assert any("completeness gap" in note for note in found.notes)


def test_other_sizes_are_refused():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 3))
    labels = torch.zeros(3, dtype=torch.int64)
    small, large = torch.rand(3, 1, 8, 8), torch.rand(3, 1, 16, 16)
    with pytest.raises(ObservationError, match="the sizes must be equal"):
        compare(model, model, (small, labels), candidate_data=(large, labels))
    other = nn.Sequential(nn.Sequential(nn.AdaptiveAvgPool2d(2)), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(ObservationError, match="maps of different sizes"):
        compare(model, other, (small, labels), method="grad_cam(layer='0')")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "lime"}, "known are"),
        ({"quantiles": (0.0,)}, "quantiles"),
        ({"quantiles": 0.5}, "sequence"),
        ({"examples": 0}, "1 or more"),
        ({"examples": [1, 1]}, "once"),
        ({"examples": [40]}, r"0\.\.39"),
        ({"examples": []}, "examples"),
        ({"examples": 2.5}, "indices"),
        ({"top_fraction": 1.0}, "share of the places"),
        ({"max_completeness_gap": 0.0}, "max_completeness_gap"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
    ],
)
def test_refusals(options, message):
    model, other = observe(network(), data()), observe(network(1, 0.1), data())
    with pytest.raises(InvalidArgumentError, match=message):
        compare_attributions(other, model, **options)


def test_claims_about_the_corrected_index_hold_together():
    evidence = compare(network(), network(1, 0.2), data(400)).evidence["corrected_iou"]
    assert isinstance(evidence, CorrectedMean)
    low, high = evidence.interval(0.95).low, evidence.interval(0.95).high
    centre = (evidence.index.mean - evidence.floor.mean) / (1 - evidence.floor.mean)
    assert low < centre < high
    wide = evidence.scaled(0.1).interval(0.95)
    assert wide.low < low
    assert wide.high > high
    assert evidence.count == 400
    certain = CorrectedMean(BoundedMean(1.0, 0.0, 10), BoundedMean(1.0, 0.0, 10)).interval(0.95)
    assert certain.low < certain.high
