"""Filters zeroed or removed: both give the same outputs, in plain, residual and padded networks."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
import torchvision
from model_networks import (
    CifarResNet,
    Depthwise,
    SmallCNN,
    Waves,
    bits,
    cifar_resnet20,
    inputs_for,
    make,
    same_bits,
    shake_norms,
    widened,
)
from torch import nn

from cp_compress.base.errors import CompressionError, InvalidArgumentError, MissingExtraError
from cp_compress.model import FilterPrune, Prune, Quantize, compression_report, footprint
from cp_compress.model.structure.units import zero_units


def norms(layer, power=1):
    return layer.weight.detach().flatten(1).abs().pow(power).sum(1)


def skipped(reference, candidate):
    return {skip.name: skip.reason for skip in compression_report(reference, candidate).skipped}


def actions(reference, candidate):
    return {layer.name: "; ".join(layer.actions) for layer in compression_report(reference, candidate).layers}


def masked_like(reference, shrunk, groups):
    """The reference with those filters at zero that `shrunk` lacks, told by their remaining weights."""
    masked = copy.deepcopy(reference)
    for layers, norm_layers in groups:
        kept = kept_filters(reference.get_submodule(layers[0]), shrunk.get_submodule(layers[0]))
        zero_units(map(masked.get_submodule, [*layers, *norm_layers]), ~kept)
    return masked


def kept_filters(before, after):
    # the first input channel's centre identifies a filter, as long as input channels keep their order
    known = before.weight.detach().flatten(1).sum(1)
    if after.weight.shape[1] == before.weight.shape[1]:
        found = after.weight.detach().flatten(1).sum(1)
        return torch.isin(known, found)
    raise AssertionError("inputs of this layer were removed too")


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_zeroed_filters_are_the_weakest_and_their_channels_are_zero(norm):
    model = make(SmallCNN)
    pruned = FilterPrune(0.5, norm=norm, shrink=False).compress(model)
    for index in (0, 3):
        layer, kept = pruned.features[index], norms(pruned.features[index]) > 0
        strength = norms(model.features[index], 1 if norm == "l1" else 2)
        assert torch.equal(kept, strength >= strength.topk(layer.out_channels // 2).values[-1])
        following = pruned.features[index + 1]
        assert not following.weight[~kept].any()
        assert not following.bias[~kept].any()
        assert layer.bias is None or not layer.bias[~kept].any()
        hidden = pruned.features[: index + 2](inputs_for(SmallCNN))
        assert not hidden[:, ~kept].any()
        assert hidden[:, kept].any()
    assert torch.equal(pruned.classifier.weight, model.classifier.weight)


@pytest.mark.parametrize("round_to", [1, 4])
def test_removed_equals_zeroed(round_to):
    model, images = make(SmallCNN), inputs_for(SmallCNN)
    zeroed = FilterPrune(0.4, round_to=round_to, shrink=False).compress(model)
    shrunk = FilterPrune(0.4, round_to=round_to).compress(model)
    widths = [layer.out_channels for layer in (shrunk.features[0], shrunk.features[3])]
    assert widths == ([3, 5] if round_to == 1 else [4, 4])
    assert shrunk.classifier.in_features == 4 * shrunk.features[3].out_channels
    torch.testing.assert_close(shrunk(images), zeroed(images), rtol=1e-5, atol=1e-6)
    before, after = footprint(model, images), footprint(shrunk, images)
    assert after.parameters < before.parameters
    assert after.flops < 0.5 * before.flops


@pytest.mark.parametrize(
    ("filters", "density", "round_to", "kept"),
    [
        (4, 0.5, 4, 4),
        (8, 0.01, 4, 4),
        (12, 0.4, 4, 4),
        (12, 0.5, 4, 8),
        (10, 0.25, 1, 3),
        (10, 0.01, 1, 1),
        (6, 0.5, 4, 4),
    ],
)
def test_counts_are_rounded_and_never_below_one_aligned_group(filters, density, round_to, kept):
    model = nn.Sequential(nn.Conv2d(3, filters, 3), nn.ReLU(), nn.Conv2d(filters, 2, 1), nn.Flatten())
    if kept == filters:
        with pytest.raises(CompressionError, match="changes nothing"):
            FilterPrune(density, round_to=round_to).compress(model)
    else:
        assert FilterPrune(density, round_to=round_to).compress(model)[0].out_channels == kept


def test_equal_filters_are_kept_first_by_index():
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1), nn.Flatten())
    model[0].weight.data.fill_(1)
    assert (
        FilterPrune(0.5, shrink=False).compress(model)[0].weight.flatten(1).any(1).tolist() == [True] * 3 + [False] * 3
    )


def test_depthwise_convolutions_follow_the_layer_before():
    model, images = make(Depthwise), inputs_for(Depthwise)
    shrunk = FilterPrune(0.5).compress(model)
    assert (shrunk.depthwise.groups, shrunk.depthwise.in_channels, shrunk.depthwise.out_channels) == (4, 4, 4)
    assert shrunk(images).shape == (4, 4)
    kept = kept_filters(model.stem, shrunk.stem)
    strength = norms(model.stem) + norms(model.depthwise)
    assert torch.equal(kept, strength >= strength.topk(4).values[-1])


def test_residual_streams_are_shrunk_together():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = shake_norms(torchvision.models.resnet18(num_classes=10)).eval()
    shrunk = FilterPrune(0.5).compress(model)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    smaller = [module for module in shrunk.modules() if isinstance(module, nn.Conv2d)]
    assert [layer.out_channels for layer in smaller] == [layer.out_channels // 2 for layer in convolutions]
    assert skipped(model, shrunk) == {"fc.weight": "Linear has no filters"}
    images = torch.randn(2, 3, 64, 64)
    # one group checked end to end against a mask made here: the stem and the stream of the first stage
    stream = (["conv1", "layer1.0.conv2", "layer1.1.conv2"], ["bn1", "layer1.0.bn2", "layer1.1.bn2"])
    kept = kept_filters(model.conv1, shrunk.conv1)
    strength = sum(norms(model.get_submodule(path)) for path in stream[0])
    assert torch.equal(kept, strength >= strength.topk(32).values[-1])
    assert shrunk(images).shape == (2, 10)
    assert footprint(shrunk, images).flops < 0.3 * footprint(model, images).flops


def test_padded_shortcuts_are_named_and_the_inside_of_blocks_shrinks():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = shake_norms(CifarResNet()).eval()
    shrunk = FilterPrune(0.5).compress(model)
    inner = [f"layer{stage}.{row}.conv1" for stage in (1, 2, 3) for row in range(3)]
    outer = ["conv1", *[f"layer{stage}.{row}.conv2" for stage in (1, 2, 3) for row in range(3)]]
    for path in inner:
        assert shrunk.get_submodule(path).out_channels == model.get_submodule(path).out_channels // 2
    for path in outer:
        assert shrunk.get_submodule(path).out_channels == model.get_submodule(path).out_channels
    done = actions(model, shrunk)
    for path in outer:
        assert "filters zeroed, not removed: " in done[f"{path}.weight"]
        assert "shortcut" in done[f"{path}.weight"]
        layer = shrunk.get_submodule(path)
        assert int(layer.weight.flatten(1).any(1).sum()) == layer.out_channels // 2
    assert skipped(model, shrunk) == {"linear.weight": "Linear has no filters"}
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(shrunk(images), widened(model, shrunk)(images), rtol=1e-4, atol=1e-4)


@pytest.mark.cifar10
def test_the_real_resnet20_shrinks():
    model = cifar_resnet20()
    shrunk = FilterPrune(0.75).compress(model)
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(shrunk(images), widened(model, shrunk)(images), rtol=1e-4, atol=1e-4)


class Concatenated(nn.Module):
    """Branches that are concatenated, normalised together and read by one layer."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 6, 1)
        self.norm = nn.BatchNorm2d(14)
        self.mix = nn.Conv2d(14, 10, 1)
        self.head = nn.Linear(10, 4)

    def forward(self, images):
        hidden = torch.relu(self.norm(torch.cat([self.left(images), self.right(images)], 1)))
        return self.head(torch.relu(self.mix(hidden)).mean((2, 3)))


def test_concatenated_branches_are_shrunk_together():
    model = make(Concatenated)
    shrunk = FilterPrune(0.5).compress(model)
    assert (shrunk.left.out_channels, shrunk.right.out_channels, shrunk.norm.num_features) == (4, 3, 7)
    left, right = kept_filters(model.left, shrunk.left), kept_filters(model.right, shrunk.right)
    masked = masked_like(model, shrunk, [(["left"], []), (["right"], [])])
    zero_units([masked.norm], ~torch.cat([left, right]))
    strength = norms(model.mix)
    zero_units([masked.mix], strength < strength.topk(5).values[-1])
    images = torch.randn(3, 3, 9, 9)
    torch.testing.assert_close(shrunk(images), masked(images), rtol=1e-5, atol=1e-6)


def test_one_dimension_and_three():
    model = make(Waves)
    shrunk = FilterPrune(0.5).compress(model)
    assert (shrunk.layers[0].out_channels, shrunk.layers[3].in_channels) == (3, 3)
    volumes = nn.Sequential(nn.Conv3d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 2))
    assert FilterPrune(0.5, example_shape=(1, 4, 5, 6)).compress(volumes)[4].in_features == 3


def test_what_is_not_zero_at_zero_is_not_removed():
    # sigmoid(0) is not 0: taking the channel away would change the output
    model = nn.Sequential(
        *[nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 8, 3), nn.ReLU()],
        *[nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)],
    ).eval()
    shrunk = FilterPrune(0.5).compress(model)
    assert [shrunk[index].out_channels for index in (0, 2)] == [8, 4]
    assert "2.weight" in actions(model, shrunk)
    assert "4 of 8 filters zeroed, not removed: removing them would change" in actions(model, shrunk)["0.weight"]
    assert not shrunk[0].weight[~shrunk[0].weight.flatten(1).any(1)].any()
    assert int(shrunk[0].weight.flatten(1).any(1).sum()) == 4


def test_the_layer_that_gives_the_output_is_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for shrink in (True, False):
        pruned = FilterPrune(0.5, shrink=shrink).compress(model)
        assert pruned(torch.randn(1, 3, 8, 8)).shape == (1, 6)
        assert norms(pruned[2]).all()
        assert skipped(model, pruned)["2.weight"] == "it gives the model's output"


def test_grouped_and_tied_convolutions_are_named():
    first, second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    second.weight = first.weight
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3), first, second, nn.Conv2d(8, 8, 3, groups=2), *head)
    shrunk = FilterPrune(0.5).compress(model)
    assert "share this weight" in actions(model, shrunk)["2.weight"]
    assert shrunk[2].weight is shrunk[3].weight
    assert [shrunk[4].out_channels, shrunk[4].groups, shrunk[6 + 1].in_features] == [4, 2, 4]
    zeroed = FilterPrune(0.5, shrink=False).compress(model)
    assert zeroed[2].weight is zeroed[3].weight
    assert int((norms(zeroed[2]) > 0).sum()) == 4
    assert (norms(zeroed[4]) > 0).view(2, 4).sum(1).tolist() == [2, 2]


def test_a_layer_called_twice_and_a_frozen_model_without_gradients():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.again, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 6, 1)
            self.head = nn.Linear(6, 2)

        def forward(self, images):
            hidden = torch.relu(self.again(torch.relu(self.again(torch.relu(self.stem(images))))))
            return self.head(torch.relu(self.last(hidden)).mean((2, 3)))

    model = make(Twice).requires_grad_(False)
    with torch.no_grad():
        shrunk = FilterPrune(0.5).compress(model)
    assert shrunk.last.out_channels == 3
    assert shrunk.stem.out_channels == shrunk.again.out_channels == shrunk.again.in_channels
    assert shrunk(torch.randn(2, 3, 6, 6)).shape == (2, 2)
    assert not any(parameter.requires_grad for parameter in shrunk.parameters())


def test_flags_of_the_model_survive():
    model = make(SmallCNN).train()
    model.features[1].eval()
    model.features[0].weight.requires_grad_(False)
    before = bits(model)
    shrunk = FilterPrune(0.5).compress(model)
    assert [module.training for module in shrunk.modules()] == [module.training for module in model.modules()]
    assert not shrunk.features[0].weight.requires_grad
    assert shrunk.features[3].weight.requires_grad
    assert same_bits(bits(model), before)


def test_torch_pruning_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(MissingExtraError, match=r"pytest-cp\[shrink\]"):
        FilterPrune(0.5).compress(make(SmallCNN))
    FilterPrune(0.5, shrink=False).compress(make(SmallCNN))


def test_an_example_that_cannot_be_guessed_is_asked_for():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 15 * 9, 2))
    with pytest.raises(CompressionError, match=r"example_shape=\(3, 32, 32\)"):
        FilterPrune(0.5).compress(model)
    assert FilterPrune(0.5, example_shape=[3, 17, 11]).compress(model)[3].in_features == 2 * 15 * 9
    with pytest.raises(CompressionError, match=r"shape \(3, 5, 5\) the model fails"):
        FilterPrune(0.5, example_shape=(3, 5, 5)).compress(model)


def test_nothing_to_prune_and_nothing_changed_are_errors():
    with pytest.raises(CompressionError, match="Linear has no filters"):
        FilterPrune(0.5).compress(nn.Linear(3, 3))
    with pytest.raises(CompressionError, match="no filters to prune"):
        FilterPrune(0.5).compress(nn.Sequential(nn.Conv2d(3, 4, 3)))
    for shrink in (True, False):
        with pytest.raises(CompressionError, match="changes nothing"):
            FilterPrune(0.5, round_to=64, shrink=shrink).compress(make(SmallCNN))


def test_what_cannot_be_checked_is_not_removed():
    class Constant(SmallCNN):
        def forward(self, images):
            return 0 * super().forward(images)

    with pytest.raises(CompressionError, match="does not depend on its input"):
        FilterPrune(0.5).compress(make(Constant))
    FilterPrune(0.5, shrink=False).compress(make(Constant))


def test_a_head_of_zeros_hides_nothing_from_the_check():
    model = make(SmallCNN)
    model.classifier.weight.data.zero_()
    shrunk = FilterPrune(0.5).compress(model)
    assert shrunk.classifier.in_features == 24
    assert not shrunk.classifier.weight.any()


def test_it_follows_pruning_and_float16_but_not_int8():
    model, images = make(SmallCNN), inputs_for(SmallCNN)
    half = (Prune(0.5) | Quantize("float16") | FilterPrune(0.5)).compress(model)
    assert half.features[0].out_channels == 4
    assert half(images).dtype == torch.float32
    with pytest.raises(CompressionError, match="int8 must be the last step"):
        (Quantize("int8") | FilterPrune(0.5)).compress(model)


@pytest.mark.parametrize(
    "arguments",
    [
        {"density": 0},
        {"density": 0.5, "norm": "l3"},
        {"density": 0.5, "round_to": 0},
        {"density": 0.5, "shrink": 1},
        {"density": 0.5, "example_shape": "3"},
        {"density": 0.5, "example_shape": (3, 0)},
    ],
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(InvalidArgumentError, match=f"FilterPrune\\({list(arguments)[-1]}="):
        FilterPrune(**arguments)
