"""Worst-case and benign directions, and medians with censoring: closed forms, statsmodels, real networks."""

import math

import cifar_resnet
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.data import JPEG
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import (
    benign_directions,
    compare_boundaries,
    kaplan_meier_median,
    observe,
    search_boundaries,
    worst_case_directions,
)
from cp_compress.fidelity.boundaries.gate_directions import standard_directions
from cp_compress.fidelity.varying.layers import vary
from cp_compress.model import parse_scheme


def linear(classes=4, width=6, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(width, classes).eval()


def vectors(count=30, width=6):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1)), torch.zeros(count, dtype=torch.int64)


def nearest_boundary(model, inputs):
    """The distance to, and the direction of, the nearest class boundary of a linear model."""
    weight, bias = model.weight.detach().double(), model.bias.detach().double()
    logits = inputs.double() @ weight.t() + bias
    own = logits.argmax(1)
    distances, moves = [], []
    for row, place in enumerate(own.tolist()):
        normals = weight - weight[place]
        gaps = (logits[row, place] - logits[row]) / normals.norm(dim=1)
        gaps[place] = torch.inf
        nearest = int(gaps.argmin())
        distances.append(float(gaps[nearest]))
        moves.append(normals[nearest] / normals[nearest].norm())
    return torch.tensor(distances), torch.stack(moves)


def test_deepfool_of_a_linear_model_is_exact():
    model, data = linear(), vectors()
    found = worst_case_directions(observe(model, data), methods=["deepfool"])
    distances, moves = nearest_boundary(model, data[0])
    torch.testing.assert_close(found.tensor[:, 0].double(), moves, atol=1e-4, rtol=0)
    along = search_boundaries(model, data[0], found, max_distance=20.0).distances[:, 0]
    torch.testing.assert_close(along.float(), distances.float(), atol=2e-3, rtol=1e-3)


def test_the_gradient_is_that_towards_the_runner_up():
    model, data = linear(), vectors()
    found = worst_case_directions(observe(model, data), methods=["gradient"]).tensor[:, 0]
    order = model(data[0]).argsort(dim=1, descending=True)
    expected = nn.functional.normalize((model.weight[order[:, 1]] - model.weight[order[:, 0]]).detach(), dim=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_each_model_walks_its_own_way():
    first, second = linear(seed=0), linear(seed=0)
    with torch.no_grad():
        second.weight.add_(0.2 * torch.randn(4, 6, generator=torch.Generator().manual_seed(5)))
    seen = observe(second, vectors()), observe(first, vectors())
    found = compare_boundaries(*seen, "worst", examples=None, max_distance=20.0)
    agreeing = seen[0].predictions == seen[1].predictions
    deepfool = found.per_example["candidate_distance"][agreeing][:, 1]
    expected, _ = nearest_boundary(second, vectors()[0])
    torch.testing.assert_close(deepfool.float(), expected[agreeing].float(), atol=2e-3, rtol=1e-3)
    along_reference = compare_boundaries(
        *seen, worst_case_directions(seen[1]), examples=None, max_distance=20.0
    ).per_example["candidate_distance"][agreeing][:, 1]
    assert bool((along_reference >= deepfool - 1e-6).all())
    assert float(along_reference.median()) > float(deepfool.median())


def test_deepfool_finds_nearer_boundaries_than_noise():
    seen = observe(digits_cnn(), digits())
    directions = worst_case_directions(seen, 24)
    inputs = seen.data.select(torch.linspace(0, len(seen) - 1, 24).round().long())[0]
    worst = search_boundaries(seen.model, inputs, directions, max_distance=8.0).distances
    noise = search_boundaries(seen.model, inputs, torch.randn(6, 1, 8, 8), max_distance=8.0).distances
    assert bool(torch.isfinite(worst[:, 1]).all())
    assert bool((worst.amin(dim=1) < noise.amin(dim=1)).all())


def test_a_constant_model_has_no_worst_case():
    model = nn.Linear(6, 3)
    nn.init.zeros_(model.weight)
    with pytest.raises(ObservationError, match="zero, NaN or infinite"):
        worst_case_directions(observe(model, vectors()))


def images(count=5, size=12):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(2))


def colours():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 2)).eval()


def test_benign_changes_are_what_they_say():
    inputs = images()
    seen = observe(colours(), (inputs, torch.zeros(5, dtype=torch.int64)))
    kinds = ["brighter", "less contrast", "shifted right by a pixel", "shifted down by a pixel"]
    found = benign_directions(seen, kinds=kinds).tensor

    def unit(move):
        return move / move.flatten(1).norm(dim=1).view(-1, 1, 1, 1)

    mean = inputs.mean(dim=(1, 2, 3), keepdim=True)
    right, down = inputs.clone(), inputs.clone()
    right[..., 1:], down[:, :, 1:] = inputs[..., :-1], inputs[:, :, :-1]
    expected = [torch.ones_like(inputs), mean - inputs, right - inputs, down - inputs]
    for column, move in enumerate(expected):
        torch.testing.assert_close(found[:, column], unit(move), atol=1e-4, rtol=0)


def test_turning_keeps_the_middle_and_the_range():
    from cp_compress.fidelity.boundaries.benign import _turn

    rows = torch.linspace(-1, 1, 13)
    inputs = (rows[:, None].square() + rows[None].square()).expand(1, 3, 13, 13).contiguous()  # round: nothing changes
    assert float((_turn(inputs, 5.0) - inputs)[..., 3:10, 3:10].abs().max()) < 0.02
    flat = torch.full((1, 3, 13, 13), 0.7)
    torch.testing.assert_close(_turn(flat, 5.0), flat)  # no black corners


def test_the_same_class_direction_goes_to_the_nearest_of_the_class():
    seen = observe(digits_cnn(), digits())
    found = benign_directions(seen, 6, kinds=["towards another example of its class"]).tensor[:, 0].double()
    inputs = seen.data.select(range(len(seen)))[0].double()
    chosen = torch.linspace(0, len(seen) - 1, 6).round().long().tolist()
    for row, index in enumerate(chosen):
        others = [
            (float((inputs[other] - inputs[index]).norm()), other)
            for other in range(len(seen))
            if other != index and seen.predictions[other] == seen.predictions[index]
        ]
        move = inputs[min(others)[1]] - inputs[index]
        torch.testing.assert_close(found[row], move / move.norm(), atol=1e-5, rtol=0)


def blank_among_others():
    inputs = images()
    inputs[2] = 0.5
    return inputs, torch.zeros(5, dtype=torch.int64)


def test_a_blank_image_alone_lacks_what_does_not_change_it():
    seen = observe(colours(), blank_among_others())
    found = benign_directions(seen)
    for name, absent in (("brighter", []), ("blurred", [2]), ("shifted down by a pixel", [2])):
        column = found.names.index(name)
        assert found.absent[:, column].nonzero().flatten().tolist() == absent
        lengths = found.tensor[:, column].flatten(1).norm(dim=1)
        assert lengths.round(decimals=4).tolist() == [0.0 if row in absent else 1.0 for row in range(5)]
    with pytest.raises(ObservationError, match="first #2"):
        benign_directions(seen, kinds=["blurred"])
    with pytest.raises(InvalidArgumentError, match="known for inputs"):
        benign_directions(seen, kinds=["upside down"])


def test_rays_that_do_not_exist_are_not_compared():
    data = blank_among_others()
    reference, candidate = colours(), colours()
    with torch.no_grad():
        candidate[1].weight.mul_(1 + 0.05 * torch.randn(2, 432, generator=torch.Generator().manual_seed(4)))
    options = {"examples": None, "max_distance": 100.0}
    found = compare_boundaries(observe(candidate, data), observe(reference, data), "benign", **options)
    names = benign_directions(observe(reference, data)).names
    missing = int(benign_directions(observe(reference, data)).absent.sum())
    assert missing > 3
    assert found.details["rays"]["compared"] == 5 * len(names) - missing
    assert found.details["censored_medians"]["rays"] == 5 * len(names) - missing
    assert any(f"{missing} rays do not exist" in note for note in found.notes)
    before, after = (found.per_example[f"{who}_distance"] for who in ("reference", "candidate"))
    assert int(before.isnan().sum()) == int(after.isnan().sum()) == missing
    censored = [
        float((~(torch.isfinite(b) & torch.isfinite(a)))[~b.isnan()].double().mean())
        for b, a in zip(before, after, strict=True)
    ]
    assert found.metrics["censored_fraction"] == pytest.approx(sum(censored) / 5)


def test_the_gate_keeps_residuals_beside_a_blank_image():
    images_ = torch.stack([digits()[index][0] for index in range(8)])
    images_[3] = 0.0
    seen = observe(digits_cnn(), (images_, torch.zeros(8, dtype=torch.int64)))
    found = standard_directions(vary(seen, torch.arange(8), owner="test", purpose="a test"), 0)
    assert found.families[-1] == "residual"
    assert found.absent.nonzero().tolist() == [[3, len(found.names) - 1]]


def test_jpeg_is_a_benign_change_of_photographs_only():
    inputs = images()
    seen = observe(colours(), (inputs, torch.zeros(5, dtype=torch.int64)))
    kind = "stored as JPEG of quality 75"
    found = benign_directions(seen, kinds=[kind]).tensor[:, 0]
    move = JPEG(quality=75).roundtrip(inputs) - inputs
    torch.testing.assert_close(found, move / move.flatten(1).norm(dim=1).view(-1, 1, 1, 1), atol=1e-5, rtol=0)
    assert kind in benign_directions(seen).names
    scaled = observe(colours(), (4 * inputs, torch.zeros(5, dtype=torch.int64)))
    assert kind not in benign_directions(scaled).names


class Lazy(torch.utils.data.Dataset):
    """Large images that are made when they are read, and the number of them in one read."""

    def __init__(self):
        self.largest = 0

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return self.__getitems__([index])[0]

    def __getitems__(self, indices):
        self.largest = max(self.largest, len(indices))
        return [(torch.full((3, 224, 224), index / 60), 0) for index in indices]


def test_neighbours_are_looked_for_in_blocks_of_the_data():
    data = Lazy()
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    seen = observe(model, data, batch_size=4)
    found = benign_directions(seen, [0, 30], kinds=["towards another example of its class"])
    assert found.tensor[0].mean() > 0
    assert data.largest < 30


def test_every_family_serves_the_comparison():
    model, data = digits_cnn(), digits()
    candidate = parse_scheme("prune(density=0.5)").compress(model)
    for family in ("gate", "worst", "benign"):
        found = compare_boundaries(observe(candidate, data), observe(model, data), family, examples=8)
        assert 0 < found.metrics["preserved_fraction"] < 1
        if family == "worst":
            assert 0.5 < found.metrics["median_distance_ratio"] < 1.5
    with pytest.raises(InvalidArgumentError, match="directions"):
        compare_boundaries(observe(candidate, data), observe(model, data), "lucky")


@settings(max_examples=80)
@given(st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=2, max_size=40))
def test_medians_are_those_of_statsmodels(rays):
    survfunc = pytest.importorskip("statsmodels.duration.survfunc", reason="statsmodels is not installed (extra: test)")
    times, events = np.array([time for time, _ in rays], dtype=float), np.array([seen for _, seen in rays])
    expected = math.nan
    if events.any():
        found = survfunc.SurvfuncRight(times, events.astype(int))
        below = np.nonzero(found.surv_prob <= 0.5 + 1e-12)[0]
        expected = float(found.surv_times[below[0]]) if len(below) else math.nan
    ours = kaplan_meier_median(torch.from_numpy(times), torch.from_numpy(events))
    assert ours == expected or (math.isnan(ours) and math.isnan(expected))


def test_a_median_that_the_rays_do_not_reach_is_no_number():
    model, data = linear(), vectors()
    other = linear()
    with torch.no_grad():
        other.weight.mul_(1.1)
    found = compare_boundaries(
        observe(other, data), observe(model, data), torch.randn(20, 6), examples=None, max_distance=1e-3
    )
    assert math.isnan(found.metrics["median_distance_ratio"])
    assert found.counts["median_distance_ratio"] == 0
    medians = found.details["censored_medians"]
    assert medians["rays"] == 20 * found.details["examples"]["compared"]
    assert medians["reference"]["reached"] < medians["rays"] / 2


@pytest.mark.cifar10
def test_pruning_brings_the_worst_case_of_a_real_network_nearer():
    model, data = cifar_resnet.resnet20(), cifar_resnet.images(64)
    reference = observe(model, data)
    ratios = []
    for scheme in ("quantize(float16)", "quantize(int8)", "prune(density=0.3)"):
        candidate = parse_scheme(scheme).compress(model)
        found = compare_boundaries(observe(candidate, data), reference, "worst", examples=8, max_distance=4.0)
        ratios.append(found.metrics["mean_abs_log_ratio"])
    assert ratios == sorted(ratios)
    assert ratios[0] < 0.01 < ratios[2]
