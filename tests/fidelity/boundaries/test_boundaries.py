"""Level D as a whole: metrics against hand-made boundaries, censoring, evidence, and what is refused."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.fidelity import observe
from cp_compress.fidelity.boundaries.comparison import boundary_distances, compare_boundaries
from cp_compress.fidelity.judging.intervals import BoundedMean, Quantile
from cp_compress.fidelity.judging.judgement import judge
from cp_compress.fidelity.judging.requirement import Requirement


class Box(nn.Module):
    """Class 0 inside |x_i| < size_i, class 1 + i where coordinate i leaves first."""

    def __init__(self, *sizes):
        super().__init__()
        self.register_buffer("sizes", torch.tensor(sizes, dtype=torch.float64))
        self._calls = 0

    def forward(self, x):
        self._calls += 1
        excess = x.abs() / self.sizes - 1
        return torch.cat([torch.zeros(len(x), 1, dtype=x.dtype), excess], dim=1)


def data(count=4, shift=0.0):
    return torch.zeros(count, 3, dtype=torch.float64) + shift, torch.zeros(count, dtype=torch.int64)


def compare(candidate, reference, examples=None, other=None, **options):
    examples = examples or data()
    options = {"directions": torch.eye(3, dtype=torch.float64), "max_distance": 8.0} | options
    return compare_boundaries(observe(candidate, other or examples), observe(reference, examples), **options)


def test_metrics_of_boundaries_made_by_hand():
    found = compare(Box(1.0, 2.2, 6.0), Box(1.0, 2.0, 3.0), tolerance=0.15)
    assert found.metrics["median_change"] == pytest.approx(0.1, abs=1e-3)
    assert found.metrics["mean_abs_log_ratio"] == pytest.approx((math.log(1.1) + math.log(2)) / 3, abs=1e-3)
    assert found.metrics["preserved_fraction"] == pytest.approx(2 / 3)
    assert found.metrics["censored_fraction"] == 0
    assert set(found.counts.values()) == {4}
    assert found.per_example["reference_distance"][0].tolist() == pytest.approx([1, 2, 3], abs=1e-3)
    assert found.per_example["candidate_distance"][0].tolist() == pytest.approx([1, 2.2, 6], abs=1e-3)
    assert found.details["median_ratio"] == pytest.approx(1.1, abs=1e-3)
    assert found.examples[0].before == "boundary at 3 along direction 2"
    assert found.examples[0].after == "at 6"
    json.dumps(found.details)


def test_a_boundary_that_came_nearer_counts_like_one_that_went_away():
    nearer = compare(Box(0.5, 1.0, 1.5), Box(1.0, 2.0, 3.0))
    assert nearer.metrics["median_change"] == pytest.approx(0.5, abs=1e-3)
    assert judge(nearer, [Requirement("median_change", "max", 0.1)]).outcome == "fail"


def test_censored_rays_are_never_numbers():
    found = compare(Box(1.0, 20.0, 20.0), Box(1.0, 2.0, 20.0))
    assert found.details["rays"] == {
        "compared": 12,
        "reached_by_both": 4,
        "reached_by_reference_only": 4,
        "reached_by_candidate_only": 0,
        "reached_by_neither": 4,
    }
    assert found.metrics["preserved_fraction"] == pytest.approx(1 / 2)
    assert found.metrics["censored_fraction"] == pytest.approx(2 / 3)
    assert found.metrics["median_change"] == pytest.approx(0, abs=1e-3)
    assert torch.isinf(found.per_example["candidate_distance"][:, 1]).all()
    assert found.examples[0].before == "boundary at 2 along direction 1"
    assert found.examples[0].after == "not within 8"
    assert any("4 by the reference only" in note for note in found.notes)


def test_a_boundary_that_only_the_candidate_has_is_not_preserved():
    found = compare(Box(1.0, 2.0, 20.0), Box(1.0, 20.0, 20.0))
    assert found.metrics["preserved_fraction"] == pytest.approx(1 / 2)
    assert found.details["rays"]["reached_by_candidate_only"] == 4


def test_nothing_reached_is_an_error_and_not_a_pass():
    found = compare(Box(20.0, 20.0, 20.0), Box(30.0, 30.0, 30.0))
    for metric in ("median_change", "mean_abs_log_ratio", "preserved_fraction"):
        assert math.isnan(found.metrics[metric])
        assert found.counts[metric] == 0
    assert found.metrics["censored_fraction"] == 1
    assert judge(found, [Requirement("median_change", "max", 0.5)]).outcome == "error"
    assert judge(found, [Requirement("preserved_fraction", "min", 0.0)]).outcome == "error"


def test_no_agreement_is_an_error_and_not_a_pass():
    class Other(Box):
        def forward(self, x):
            return super().forward(x).flip(1)

    found = compare(Other(1.0, 1.0, 1.0), Box(1.0, 1.0, 1.0))
    assert set(found.counts.values()) == {0}
    assert judge(found, [Requirement("censored_fraction", "max", 1.0)]).outcome == "error"
    assert [change.index for change in found.examples] == [0, 1, 2, 3]
    assert torch.isnan(found.per_example["candidate_distance"]).all()


def test_only_examples_on_which_both_agree_are_compared():
    inputs = torch.tensor([[0.0, 0, 0], [1.5, 0, 0], [0, 0.5, 0]], dtype=torch.float64)
    examples = (inputs, torch.zeros(3, dtype=torch.int64))
    found = compare(Box(1.0, 2.0, 3.0), Box(2.0, 2.0, 3.0), examples)
    assert found.details["examples"] == {"asked": 3, "compared": 2, "disagree": [1]}
    assert found.counts["preserved_fraction"] == 2
    assert torch.isnan(found.per_example["candidate_distance"][1]).all()
    assert torch.isfinite(found.per_example["reference_distance"]).all()
    assert any("1 of 3 examples were left out" in note for note in found.notes)
    assert any(change.index == 1 and "left out" in change.after for change in found.examples)


def test_examples_and_not_rays_are_the_sample():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(30, 3, generator=generator, dtype=torch.float64) - 0.5
    directions = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    examples = (inputs, torch.zeros(30, dtype=torch.int64))
    found = compare_boundaries(
        observe(Box(1.1, 2.5, 2.0), examples),
        observe(Box(1.0, 2.0, 3.0), examples),
        directions,
        max_distance=3.0,
        examples=None,
    )
    before, after = found.per_example["reference_distance"], found.per_example["candidate_distance"]
    both = torch.isfinite(before) & torch.isfinite(after)
    change = [((a - b).abs() / b)[row].numpy() for a, b, row in zip(after, before, both, strict=True)]
    logs = [(a / b).log().abs()[row].numpy() for a, b, row in zip(after, before, both, strict=True)]
    assert found.metrics["median_change"] == pytest.approx(np.median([np.median(part) for part in change]))
    assert found.metrics["mean_abs_log_ratio"] == pytest.approx(np.mean([np.mean(part) for part in logs]))
    either = torch.isfinite(before) | torch.isfinite(after)
    kept = both & ((after - before).abs() <= 0.1 * before)
    shares = kept.sum(dim=1) / either.sum(dim=1)
    assert found.metrics["preserved_fraction"] == pytest.approx(float(shares.double().mean()), abs=1e-6)
    assert {type(kind) for kind in found.evidence.values()} == {BoundedMean, Quantile}
    assert "mean_abs_log_ratio" not in found.evidence
    for metric, evidence in found.evidence.items():
        assert evidence.count == found.counts[metric] == 30
        interval = evidence.interval(0.9)
        assert interval.low <= found.metrics[metric] <= interval.high


def test_the_reference_is_searched_once_for_all_candidates():
    reference = Box(1.0, 2.0, 3.0)
    compare(Box(1.1, 2.0, 3.0), reference)
    calls = reference._calls
    compare(Box(1.2, 2.0, 3.0), reference)
    assert reference._calls == calls
    compare(Box(1.2, 2.0, 3.0), reference, steps=16)
    assert reference._calls > calls


def test_compressed_data_starts_from_its_own_inputs():
    model = Box(1.0, 2.0, 3.0)
    found = compare(model, model, data(), data(shift=0.5))
    assert found.per_example["reference_distance"][0].tolist() == pytest.approx([1, 2, 3], abs=1e-3)
    assert found.per_example["candidate_distance"][0].tolist() == pytest.approx([0.5, 1.5, 2.5], abs=1e-3)


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))


def images(count=20):
    inputs = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return inputs, torch.zeros(count, dtype=torch.int64)


def nudged(model, size=0.01):
    other = network(0)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9)))
    return other


def test_the_gate_needs_no_arguments_and_serves_every_candidate():
    reference = network(0)
    first, second = (
        compare_boundaries(observe(nudged(reference, size), images()), observe(reference, images()), examples=6)
        for size in (0.001, 0.01)
    )
    assert first.details["directions_digest"] == second.details["directions_digest"]
    families = [row["family"] for row in first.details["families"]]
    assert families == ["class gradient", "low frequency", "Gaussian"]
    median = torch.pdist(images()[0][[0, 4, 8, 11, 15, 19]].flatten(1).double()).median()
    assert first.details["max_distance"] == pytest.approx(float(median))
    assert first.metrics["mean_abs_log_ratio"] < second.metrics["mean_abs_log_ratio"]
    other_seed = compare_boundaries(
        observe(nudged(reference, 0.001), images()), observe(reference, images()), examples=6, seed=1
    )
    assert other_seed.details["directions_digest"] != first.details["directions_digest"]


def test_bounds_reach_the_search():
    reference = network(0)
    candidate = nudged(reference)
    found = compare_boundaries(
        observe(candidate, images()), observe(reference, images()), examples=4, max_distance=6.0, bounds=(0.0, 1.0)
    )
    chosen = found.per_example["example"]
    free = compare_boundaries(observe(candidate, images()), observe(reference, images()), examples=4, max_distance=6.0)
    assert not torch.equal(found.per_example["reference_distance"], free.per_example["reference_distance"])
    assert chosen.tolist() == [0, 6, 13, 19]


def test_distances_are_those_of_the_search():
    reference = network(0)
    inputs, _ = images()
    directions = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    found = compare_boundaries(
        observe(nudged(reference), images()),
        observe(reference, images()),
        directions,
        max_distance=5.0,
        examples=[3, 1],
    )
    expected = boundary_distances(reference, inputs[[3, 1]], directions, max_distance=5.0)
    assert torch.allclose(found.per_example["reference_distance"], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": "all"}, "gate"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"tolerance": 1.0}, "tolerance"),
        ({"examples": 0}, "examples=0"),
        ({"max_distance": -1.0}, "max_distance"),
        ({"seed": -1}, "seed"),
        ({"bounds": 3.0}, "low, high"),
        ({"directions": torch.ones(2, 2)}, "made for inputs"),
        ({"directions": torch.ones(7, 1, 3, dtype=torch.float64)}, "one set of directions for each"),
        ({"max_distance": None}, "at least half of the examples are equal"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        compare_boundaries(
            observe(Box(1.0, 2.0, 3.0), data()),
            observe(Box(1.5, 2.0, 3.0), data()),
            **({"directions": torch.eye(3, dtype=torch.float64), "max_distance": 8.0} | options),
        )


def test_other_shapes_and_integer_inputs_are_refused():
    class Mean(nn.Module):
        def forward(self, x):
            return torch.stack([x.double().flatten(1).mean(dim=1), x.double().flatten(1).std(dim=1)], dim=1)

    labels = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ObservationError, match="no direction fits both"):
        compare(Mean(), Mean(), data(), (torch.zeros(4, 5), labels))
    pixels = (torch.randint(0, 255, (4, 3), dtype=torch.uint8), labels)
    with pytest.raises(ObservationError, match="floating-point"):
        compare(Mean(), Mean(), pixels, max_distance=None)


def test_large_inputs_are_compared_at_fewer_examples_along_fewer_directions():
    seen = []

    class Bands(nn.Module):
        """The mean of each third of the columns, so that class gradients are known and cheap."""

        def __init__(self, scale):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([1.0, 1.0, scale]))

        def forward(self, images):
            seen.append(len(images))
            return torch.stack([part.mean(dim=(1, 2, 3)) for part in images.chunk(3, dim=3)], dim=1) * self.scale

    inputs = torch.rand(40, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    data = inputs, torch.arange(40) % 3
    candidate, reference = observe(Bands(1.01), data), observe(Bands(1.0), data)
    found = compare_boundaries(candidate, reference)
    assert found.details["examples"]["asked"] == 18  # 32 · 2¹⁴ / (3 · 96 · 96)
    assert found.details["directions"] == 2 + 4 + 2  # of three classes there are two gradients
    assert max(seen) == 2**20 // (3 * 96 * 96) == 37
    few = compare_boundaries(candidate, reference, examples=3)
    assert few.details["examples"]["asked"] == 3
    with pytest.raises(InvalidArgumentError, match="examples='some'"):
        compare_boundaries(candidate, reference, examples="some")
