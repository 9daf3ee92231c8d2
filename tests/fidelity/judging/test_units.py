"""Clusters as the unit of claims: against simulation at every dependence and size, and how they are named."""

import numpy as np
import pytest
import torch

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.fidelity import Requirement, compare_predictions, judge, observe
from cp_compress.fidelity.judging.intervals import Interval, PairedDrop, Proportion
from cp_compress.fidelity.judging.units import ClusteredMean, ClusteredQuantile, FoundSizes, Units
from cp_compress.inputs.clusters import joined_clusters, read_clusters
from cp_compress.inputs.metadata import Metadata
from cp_compress.inputs.tasks import TaskDataset


def drawn(generator, clusters, mean, correlation):
    """Return the means of clusters whose members agree with this correlation, and their unequal sizes."""
    sizes = generator.integers(1, 100, clusters)
    if correlation == 1:
        return (generator.random(clusters) < mean).astype(float), sizes.astype(float)
    scale = (1 - correlation) / correlation
    shares = generator.beta(mean * scale, (1 - mean) * scale, clusters)
    return generator.binomial(sizes, shares) / sizes, sizes.astype(float)


@pytest.mark.parametrize("correlation", [0.05, 0.5, 1])
@pytest.mark.parametrize(("clusters", "true", "bound"), [(5, 0.3, 0.32), (20, 0.95, 0.97), (200, 0.9, 0.91)])
def test_a_false_claim_is_proven_in_no_more_than_the_error(correlation, clusters, true, bound):
    generator = np.random.default_rng(0)
    wrong = sum(
        ClusteredMean(*drawn(generator, clusters, true, correlation)).p_values(bound)[1] <= 0.05 for _ in range(400)
    )
    assert wrong / 400 <= 0.05


def test_claims_are_proven_with_enough_clusters_that_differ_little():
    generator = np.random.default_rng(0)
    found = [ClusteredMean(*drawn(generator, 400, 0.995, 0.1)).interval(0.95) for _ in range(20)]
    assert np.mean([interval.low >= 0.97 for interval in found]) > 0.5


def test_bounds_are_those_of_the_test_and_mirror_each_other():
    generator = np.random.default_rng(1)
    means, sizes = drawn(generator, 40, 0.6, 0.2)
    one, other = ClusteredMean(means, sizes), ClusteredMean(-means, sizes, -1.0, 0.0)
    interval = one.interval(0.9)
    assert (interval.low, interval.high) == pytest.approx((-other.interval(0.9).high, -other.interval(0.9).low))
    assert interval.low < one.value < interval.high
    assert one.p_values(interval.high)[0] == pytest.approx(0.1, rel=1e-3)
    assert one.p_values(interval.low)[1] == pytest.approx(0.1, rel=1e-3)
    assert one.scaled(4.0).interval(0.9).high < interval.high


def rarely_crowded(generator, images):
    """Return what images lose of their objects: one in twenty has 20 and loses a fifth, others have one and keep it."""
    crowded = generator.random(images) < 0.05
    return np.where(crowded, 0.2, 0.0), np.where(crowded, 20.0, 1.0)


def test_of_sizes_that_are_found_few_clusters_prove_nothing_and_enough_are_seldom_wrong():
    generator, true = np.random.default_rng(0), 0.05 * 20 * 0.2 / (0.05 * 20 + 0.95)
    found = FoundSizes("images", "objects")
    few = ClusteredMean(*rarely_crowded(generator, 71), found=found)
    assert few.interval(0.95) == Interval(0.0, 1.0)
    assert few.p_values(0.9) == (1.0, 1.0)
    assert few.scaled(2.0).interval(0.95).high < 1
    values, places = torch.zeros(71), torch.arange(71)
    assert ClusteredQuantile.of(values, Units(places, found), 0.5).interval(0.95) == Interval(-np.inf, np.inf)
    samples = [ClusteredMean(*rarely_crowded(generator, 72), found=found) for _ in range(400)]
    assert sum(sample.interval(0.95).high < true for sample in samples) <= 20
    told = samples[0].scope(0.95)
    assert "those with up to 20 objects" in told
    assert "4.1% or fewer" in told
    assert Units(places, found).among(values == 0).found == found


def test_examples_that_are_clusters_of_their_own_are_examples():
    right = torch.tensor([True, False, True, True])
    units = Units(torch.tensor([3, 1, 0, 2]))
    assert units.share(right) == Proportion(3, 4)
    assert units.drop(right, ~right) == PairedDrop(3, 1, 4)
    assert isinstance(Units(torch.tensor([0, 0, 1, 2])).share(right), ClusteredMean)


@pytest.fixture
def pair():
    torch.manual_seed(0)
    inputs = torch.randn(240, 6)
    inputs[:, 0] += torch.arange(240) % 2
    labels = inputs.argmax(1)
    return inputs, labels


def test_every_claim_about_predictions_is_about_clusters(pair):
    names = [f"patient {index // 12}" for index in range(240)]
    changed = lambda batch: batch + 0.05 * batch.flip(1)  # noqa: E731
    candidate, reference = observe(changed, pair), observe(torch.nn.Identity(), pair)
    slices = {"first": range(120), "last": range(120, 240)}
    with_clusters = compare_predictions(candidate, reference, clusters=names, slices=slices)
    without = compare_predictions(candidate, reference, slices=slices)
    assert with_clusters.metrics == pytest.approx(without.metrics, nan_ok=True)
    for name, evidence in with_clusters.evidence.items():
        wide, narrow = evidence.interval(0.95), without.evidence[name].interval(0.95)
        assert wide.high - wide.low > narrow.high - narrow.low, name
    result = judge(with_clusters, [Requirement("agreement", "min", 0.99, 0.95)]).results[0]
    assert (result.clusters, result.outcome) == (20, "inconclusive")
    assert with_clusters.details["clusters"] == {"count": 20, "smallest": 12, "largest": 12}
    # the data set may say it, too: by a column of its metadata, also from behind a subset
    metadata = Metadata({"patient": tuple(names)})
    told = TaskDataset(pair, "single_label", metadata=metadata, clusters="patient")
    seen = [observe(model, told) for model in (changed, torch.nn.Identity())]
    assert compare_predictions(*seen).details["clusters"]["count"] == 20
    half = torch.utils.data.Subset(told, range(1, 240, 2))
    numbers = read_clusters("test", None, half, 120)
    expected = torch.arange(1, 240, 2) // 12
    assert torch.equal(numbers[:, None] == numbers, expected[:, None] == expected)


@pytest.mark.parametrize(
    ("clusters", "told"),
    [
        ([0, 1], "each of 3 examples"),
        ([0.5, 1.0, 2.0], "whole number or text"),
        (["a", "", "b"], "no entry"),
        ("patient", "has no metadata"),
    ],
)
def test_other_clusters_are_refused(clusters, told):
    with pytest.raises(InvalidArgumentError, match=told):
        read_clusters("compare_predictions", clusters, None, 3)


def test_clusters_are_joined_where_either_keeps_examples_together():
    first, second = torch.tensor([0, 0, 1, 2, 3]), torch.tensor([5, 6, 6, 7, 7])
    assert joined_clusters(first, second).tolist() == [0, 0, 0, 1, 1]
    assert joined_clusters(None, second) is second


def test_an_input_that_is_repeated_in_several_clusters_makes_them_one(pair):
    inputs, labels = pair
    model = torch.nn.Linear(6, 6).eval()
    clusters = torch.arange(240) // 8
    repeated = inputs.clone()
    repeated[16:24] = repeated[:8]  # the examples of cluster 2 are those of cluster 0
    data = repeated, labels
    reference, candidate = observe(model, data), observe(torch.nn.Linear(6, 6).eval(), data)
    assert compare_predictions(candidate, reference, clusters=clusters).details["clusters"]["count"] == 29
