"""Which layers are restored together: folded normalisations and shared parameters, against restoration by hand."""

import copy
import math

import pytest
import torch
from origin_subjects import vectors
from torch import nn
from torch.ao.nn.intrinsic import ConvReLU2d
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cp_compress.fidelity import find_origin, observe


def images(count=120):
    inputs = torch.randn(count, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    return inputs, torch.arange(count) % 4


def with_statistics(model, seed=0):
    """Give every normalisation something to do."""
    generator = torch.Generator().manual_seed(seed)
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            for tensor, low in (
                (part.running_mean, -1),
                (part.running_var, 1),
                (part.weight.data, 1),
                (part.bias.data, -1),
            ):
                tensor.copy_(low + 2 * torch.rand(tensor.shape, generator=generator))
    return model.eval()


def convolutional():
    torch.manual_seed(0)
    parts = (nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    return with_statistics(nn.Sequential(*parts))


def folded(model, style):
    """The same function, with the normalisation folded into the convolution."""
    candidate = copy.deepcopy(model)
    candidate[0] = fuse_conv_bn_eval(candidate[0], candidate[1])
    candidate[1] = nn.BatchNorm2d(8).eval() if style == "neutral" else nn.Identity()
    if style == "fused class":
        candidate[0], candidate[2] = ConvReLU2d(candidate[0], nn.ReLU()), nn.Identity()
    return candidate.eval()


def scaled(parameter, seed=3):
    with torch.no_grad():
        parameter.add_(
            parameter.abs().mean() * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        )


def in_decibels(before, after):
    return 10 * math.log10(float(before.double().square().sum() / (before.double() - after.double()).square().sum()))


STYLES = {"identity": ("0", "1"), "neutral": ("0", "1"), "fused class": ("0", "1", "2")}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("damaged", ["fold", "elsewhere"])
def test_a_folded_normalisation_is_restored_with_its_convolution(style, damaged):
    model, data, together = convolutional(), images(), STYLES[style]
    candidate = folded(model, style)
    torch.testing.assert_close(candidate(data[0]), model(data[0]), rtol=1e-4, atol=1e-4)
    inner = candidate[0][0] if style == "fused class" else candidate[0]
    scaled(inner.bias if damaged == "fold" else candidate[4].weight)
    found = find_origin(observe(candidate, data), observe(model, data), flips=1000, examples=1000)
    layers = {layer.layers: layer for layer in found.layers}
    assert found.exact
    assert set(layers) == {together} | ({("4",)} if damaged == "elsewhere" else set())
    unit = layers[together]
    assert unit.name == " and ".join(together)
    assert unit.flips > 5
    patched = copy.deepcopy(candidate)
    for path in together:
        patched[int(path)] = model[int(path)]
    with torch.no_grad():
        before = model(data[0]).argmax(1)
        changed = candidate(data[0]).argmax(1) != before
        assert unit.restored == int((patched(data[0]).argmax(1) == before)[changed].sum())
        last = int(together[-1]) + 1
        noise = in_decibels(model[:last](data[0]), candidate[:last](data[0]))
    assert unit.share == (1 if damaged == "fold" else pytest.approx(0, abs=0.05))
    assert unit.added_snr == unit.arriving_snr == pytest.approx(noise, abs=0.01 if damaged == "fold" else 3)
    assert (unit.added_snr < 20) is (damaged == "fold")


def test_a_normalisation_folded_into_the_layer_behind_is_restored_with_it():
    torch.manual_seed(0)
    model, data = with_statistics(nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 4))), vectors()
    candidate = copy.deepcopy(model)
    norm, linear = candidate
    with torch.no_grad():
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        linear.bias += linear.weight @ (norm.bias - norm.running_mean * scale)
        linear.weight *= scale
    candidate[0] = nn.Identity()
    scaled(linear.bias)
    (layer,) = find_origin(observe(candidate, data), observe(model, data)).layers
    assert (layer.layers, layer.kind, layer.share) == (("0", "1"), "BatchNorm1d and Linear", 1)


def test_a_damaged_normalisation_is_told_from_its_convolution():
    model, data = convolutional(), images()
    candidate = copy.deepcopy(model)
    scaled(candidate[0].weight)
    with torch.no_grad():
        candidate[1].weight.fill_(0.1)
    found = find_origin(observe(candidate, data), observe(model, data))
    assert {layer.layers for layer in found.layers} == {("0",), ("1",)}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4, bias=False)
        self.second.weight = self.first.weight
        self.idle = nn.Linear(12, 12)  # holds the parameter, and never runs

    def forward(self, inputs):
        hidden = nn.functional.gelu(self.second(nn.functional.gelu(self.first(inputs))))
        return self.head(hidden @ self.idle.weight)


@pytest.mark.parametrize("idle", [False, True])
def test_layers_that_share_a_parameter_are_restored_together(idle):
    model, data = Tied().eval(), vectors()
    if idle:
        model.idle.weight = model.first.weight
    candidate = copy.deepcopy(model)
    scaled(candidate.first.weight)
    found = find_origin(observe(candidate, data), observe(model, data), flips=1000)
    (layer,) = found.layers
    assert layer.layers == (("first", "second", "idle") if idle else ("first", "second"))
    assert (layer.share, found.exact, found.runs) == (1, True, 1)
    assert layer.flips > 5
    assert math.isfinite(layer.added_snr)
    assert not any("could not be restored" in note for note in found.notes)


def test_what_tied_layers_do_not_share_is_restored_alone():
    model, data = Tied().eval(), vectors()
    candidate = copy.deepcopy(model)
    scaled(candidate.first.bias)
    scaled(candidate.second.bias)
    found = find_origin(observe(candidate, data), observe(model, data))
    assert {layer.layers for layer in found.layers} == {("first",), ("second",)}


class Holder(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        return torch.tanh(self.inner(inputs))


def test_a_module_that_two_parts_hold_is_restored_and_no_note_says_otherwise():
    torch.manual_seed(0)
    shared = nn.Linear(12, 12)
    model, data = nn.Sequential(Holder(shared), Holder(shared), nn.Linear(12, 4)).eval(), vectors()
    candidate = copy.deepcopy(model)
    scaled(candidate[0].inner.weight)
    found = find_origin(observe(candidate, data), observe(model, data), flips=1000)
    (layer,) = found.layers
    assert (layer.layers, layer.share, layer.flips > 5) == (("0.inner",), 1, True)
    assert found.notes == ()
