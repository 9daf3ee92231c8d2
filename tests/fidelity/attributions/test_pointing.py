"""Pointing against brute force on maps that are known, and what is refused."""

import json

import numpy as np
import pytest
import torch
from attribution_networks import WithFunctions, images
from torch import nn

from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.fidelity import compare_pointing, observe, parse_attribution_method
from cp_compress.fidelity.attributions.maps import attribution_maps
from cp_compress.fidelity.judging.judgement import judge
from cp_compress.fidelity.judging.requirement import Requirement


class Weighted(nn.Module):
    """Logits whose gradient is a known map at every input: class 0 is always predicted."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(torch.as_tensor(weights, dtype=torch.float32))

    def forward(self, inputs):
        first = (inputs * self.weights).flatten(1).sum(dim=1)
        return torch.stack([first, first * 0 - 1e6], dim=1)


def examples(count=3, shape=(2, 4, 4)):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)), torch.zeros(count, dtype=torch.int64)


def corner(size=2):
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:size, :size] = True
    return mask


def brute_force(maps, masks):
    masses, hits = [], []
    for values, mask in zip(maps.double().numpy(), masks.numpy(), strict=True):
        inside = total = 0.0
        strongest = {True: -1.0, False: -1.0}
        for row in range(mask.shape[0]):
            for column in range(mask.shape[1]):
                strength = sum(abs(float(channel[row, column])) for channel in values)
                total += strength
                inside += strength if mask[row, column] else 0.0
                strongest[bool(mask[row, column])] = max(strongest[bool(mask[row, column])], strength)
        masses.append(inside / total)
        hits.append(strongest[True] > strongest[False])
    return masses, hits


def test_metrics_are_their_definitions():
    before, after = WithFunctions(), WithFunctions()
    with torch.no_grad():
        noise = torch.randn(after.second.weight.shape, generator=torch.Generator().manual_seed(3))
        after.second.weight.add_(0.1 * noise)
    masks = torch.rand(7, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.3
    forbidden = torch.rand(7, 8, 8, generator=torch.Generator().manual_seed(2)) < 0.2
    reference, candidate = observe(before, images()), observe(after, images())
    found = compare_pointing(candidate, reference, must_look=masks, must_not_look=forbidden)
    saliency = parse_attribution_method("saliency")
    was, now = (
        attribution_maps(seen, saliency, torch.arange(7), reference.predictions).maps for seen in (reference, candidate)
    )
    mass, hits = brute_force(now, masks)
    mass_before, _ = brute_force(was, masks)
    assert found.per_example["pointing_mass"].tolist() == pytest.approx(mass)
    assert found.per_example["pointing_hits"].tolist() == hits
    assert found.metrics["pointing_mass"] == pytest.approx(np.mean(mass))
    assert found.metrics["pointing_hits"] == pytest.approx(np.mean(hits))
    assert found.metrics["pointing_mass_drop"] == pytest.approx(np.mean(mass_before) - np.mean(mass))
    assert found.metrics["forbidden_mass"] == pytest.approx(np.mean(brute_force(now, forbidden)[0]))
    assert found.details["must_look"]["share_of_places"] == pytest.approx(float(masks.double().mean()))
    worst = found.per_example["forbidden_mass"] - found.per_example["pointing_mass"]
    assert found.examples[0].index == int(worst.argmax())
    json.dumps(found.to_json())
    some = compare_pointing(candidate, reference, must_look=masks, examples=[5, 2])
    assert some.per_example["pointing_mass"].tolist() == pytest.approx([mass[5], mass[2]])
    assert "forbidden_mass" not in some.metrics


def test_a_model_that_looks_at_the_border_is_told_from_one_that_does_not():
    inside, border = torch.zeros(2, 4, 4), torch.ones(2, 4, 4)
    inside[:, 1:3, 1:3] = 1
    border[:, 1:3, 1:3] = 0
    mask = inside[0].bool()
    good, bad = observe(Weighted(inside), examples()), observe(Weighted(border), examples())
    kept = compare_pointing(observe(Weighted(-2 * inside), examples()), good, must_look=mask, must_not_look=~mask)
    assert kept.metrics == {"pointing_mass": 1, "pointing_hits": 1, "pointing_mass_drop": 0, "forbidden_mass": 0}
    lost = compare_pointing(bad, good, must_look=mask, must_not_look=~mask)
    assert lost.metrics == {"pointing_mass": 0, "pointing_hits": 0, "pointing_mass_drop": 1, "forbidden_mass": 1}
    check = judge(lost, [Requirement("pointing_mass", "min", 0.5), Requirement("forbidden_mass", "max", 0.1, 0.95)])
    assert check.outcome == "fail"


def test_a_tie_is_no_hit():
    found = compare_pointing(observe(Weighted(torch.ones(2, 4, 4)), examples()), must_look=corner())
    assert found.metrics == {"pointing_mass": 0.25, "pointing_hits": 0}


def test_masks_in_all_their_forms():
    candidate, reference = observe(WithFunctions(), images()), observe(WithFunctions().double().float(), images())
    masks = torch.rand(7, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.3
    expected = compare_pointing(candidate, reference, must_look=masks).per_example["pointing_mass"]

    class Held(torch.utils.data.TensorDataset):
        places = masks

    held = observe(WithFunctions(), Held(*images()))
    given = {
        "numbers": masks.to(torch.uint8),
        "array": masks.numpy(),
        "function": lambda inputs, labels: torch.stack([masks[_row(x)] for x in inputs]),
    }
    for name, mask in given.items():
        found = compare_pointing(candidate, reference, must_look=mask, batch_size=3).per_example["pointing_mass"]
        assert torch.allclose(found, expected), name
    assert torch.allclose(compare_pointing(held, must_look="places").per_example["pointing_mass"], expected)
    one = compare_pointing(candidate, must_look=masks[0]).per_example["pointing_mass"]
    assert float(one[0]) == pytest.approx(float(expected[0]))


def _row(example):
    return int((images()[0] == example).flatten(1).all(dim=1).nonzero())


def test_layers_are_enlarged_to_the_mask():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.AvgPool2d(2)
            self.head = Weighted([[1.0, 0.0], [2.0, 1.0]])

        def forward(self, x):
            return self.head(self.pool(x))

    found = compare_pointing(
        observe(Pooled(), examples()), None, "saliency(layer='pool')", must_look=corner(), must_not_look=~corner()
    )
    assert found.metrics["pointing_mass"] == pytest.approx(0.25)
    assert found.metrics["forbidden_mass"] == pytest.approx(0.75)
    with pytest.raises(ObservationError, match="has no places"):
        compare_pointing(observe(Linear(), examples()), None, "saliency(layer='layer')", must_look=corner())


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(32, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.layer(x.flatten(1)))


def test_features_without_space():
    found = compare_pointing(
        observe(Weighted([1.0, -3.0, 0.0]), examples(shape=(3,))), must_look=torch.tensor([False, True, False])
    )
    assert found.metrics == {"pointing_mass": 0.75, "pointing_hits": 1}


class Gated(nn.Module):
    """No gradient where the first value is small."""

    def forward(self, x):
        on = (x.flatten(1)[:, :1] > 0.5).float()
        return torch.cat([x.flatten(1).sum(dim=1, keepdim=True) * on, x.flatten(1)[:, :1] * 0 - 1], dim=1)


def test_a_map_that_looks_nowhere_fails_both_ways():
    inputs = torch.ones(2, 1, 4, 4)
    inputs[1] = 0.1
    seen = observe(Gated(), (inputs, torch.zeros(2, dtype=torch.int64)))
    found = compare_pointing(seen, must_look=corner(), must_not_look=~corner())
    assert found.per_example["pointing_mass"].tolist() == [0.25, 0]
    assert found.per_example["forbidden_mass"].tolist() == [0.75, 1]
    assert any("all-zero maps of the candidate" in note for note in found.notes)
    with pytest.raises(ObservationError, match="all-zero maps for the candidate on every example"):
        compare_pointing(seen, must_look=corner(), examples=[1])


def test_the_largest_and_the_smallest_gradients_give_the_same_shares():
    for scale in (1e-37, 1.0, 1e37):
        found = compare_pointing(observe(Weighted(scale * torch.ones(2, 4, 4)), examples()), must_look=corner())
        assert found.metrics["pointing_mass"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "must_look or must_not_look"),
        ({"must_look": torch.zeros(4, 4)}, "holds no place"),
        ({"must_not_look": torch.ones(4, 4)}, "holds every place"),
        ({"must_look": torch.ones(3, 3)}, r"shape \(4, 4\) or \(3, 4, 4\)"),
        ({"must_look": torch.ones(2, 4, 4)}, r"shape \(4, 4\) or \(3, 4, 4\)"),
        ({"must_look": torch.full((4, 4), 0.5)}, "0 and 1"),
        ({"must_look": 3}, "a mask is"),
        ({"must_look": "places"}, "no such attribute"),
        ({"must_look": lambda inputs, labels: torch.ones(4, 4)}, r"shape \(4, 4\) for 3"),
        ({"must_look": corner(), "method": "lime"}, "known are"),
        ({"must_look": corner(), "examples": 0}, "1 or more"),
        ({"must_look": corner(), "max_completeness_gap": 0}, "positive"),
    ],
)
def test_refusals(options, message):
    seen = observe(Weighted(torch.ones(2, 4, 4)), examples())
    with pytest.raises(InvalidArgumentError, match=message):
        compare_pointing(seen, **options)
