"""Subclasses whose own forward uses the weight: rounded as the plain layer they compute, or refused by name."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cp_compress.base.errors import CompressionError
from cp_compress.model import CalibrationData, Quantize, load, lower, measure_coverage, save
from cp_compress.model.quantization.lowering import has_integer_kernels


class SameConv(nn.Conv2d):
    def forward(self, inputs):
        return F.conv2d(F.pad(inputs, (1, 1, 1, 1)), self.weight, self.bias, self.stride)


class CircularConv(nn.Conv2d):
    def forward(self, inputs):
        return F.conv2d(F.pad(inputs, (1, 1, 1, 1), mode="circular"), self.weight, self.bias)


class PaddedConv(nn.Conv2d):
    def forward(self, inputs):
        return super().forward(F.pad(inputs, (1, 1, 1, 1)))


class StandardisedConv(nn.Conv2d):
    def forward(self, inputs):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(inputs, weight, self.bias, padding=1)


class Added(nn.Linear):
    def forward(self, inputs):
        return torch.addmm(self.bias, inputs, self.weight.t())


class Multiplied(nn.Linear):
    def forward(self, inputs):
        return inputs @ self.weight.T + self.bias


class CastLinear(nn.Linear):
    def forward(self, inputs):
        return F.linear(inputs, self.weight.to(inputs.dtype), self.bias)


class Unused(nn.Linear):
    def forward(self, inputs):
        return F.linear(inputs, torch.ones(self.out_features, self.in_features))


class Adapted(nn.Linear):
    """A linear layer with a second path of low rank beside its weight."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)

    def forward(self, inputs):
        return F.linear(inputs, self.weight, self.bias) + self.up(self.down(inputs))


class TwoInputs(nn.Linear):
    def forward(self, inputs, factor):
        return F.linear(inputs * factor, self.weight, self.bias)


class Scaling(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = TwoInputs(8, 16), nn.Linear(16, 4)

    def forward(self, inputs):
        return self.head(self.layer(inputs, 2.0))


def convolutions(kind, **settings):
    torch.manual_seed(0)
    first, second = kind(3, 8, 3, **settings), kind(8, 8, 3, **settings)
    return nn.Sequential(first, nn.ReLU6(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def dense(kind):
    torch.manual_seed(0)
    return nn.Sequential(kind(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def scheme(mode, inputs):
    return Quantize("int8", mode, calibration=CalibrationData(inputs) if mode == "static" else None)


IMAGES, ROWS = torch.randn(6, 3, 9, 9), torch.randn(6, 8)


@pytest.mark.parametrize("mode", ["dynamic", "static"])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [(SameConv, {}), (CircularConv, {"padding_mode": "circular"}), (PaddedConv, {})],
    ids=lambda value: getattr(value, "__name__", ""),
)
@torch.no_grad()
def test_a_convolution_that_pads_is_the_plain_one_to_the_bit(mode, kind, settings, tmp_path):
    own = convolutions(kind)
    plain = convolutions(nn.Conv2d, padding=1, **settings)
    compress = scheme(mode, IMAGES).compress
    candidate, expected = compress(own), compress(plain)
    assert measure_coverage(candidate, own).share == 1
    assert torch.equal(candidate(IMAGES), expected(IMAGES))
    assert not torch.equal(candidate(IMAGES), own(IMAGES))
    assert candidate(IMAGES[:0]).shape == (0, 4)
    save(candidate, tmp_path / "model.cp")
    for again in (load(tmp_path / "model.cp", own), copy.deepcopy(candidate)):
        assert torch.equal(again(IMAGES), candidate(IMAGES))
    alone = torch.cat([candidate(image[None]) for image in IMAGES])
    assert torch.equal(alone, candidate(IMAGES))


@pytest.mark.parametrize("mode", ["dynamic", "static"])
@pytest.mark.parametrize("kind", [Added, Multiplied, CastLinear])
@torch.no_grad()
def test_a_linear_layer_in_other_words_is_the_plain_one_to_the_bit(mode, kind):
    compress = scheme(mode, ROWS).compress
    assert torch.equal(compress(dense(kind))(ROWS), compress(dense(nn.Linear))(ROWS))


@pytest.mark.parametrize("mode", ["dynamic", "static"])
@torch.no_grad()
def test_a_second_path_is_added_as_the_layer_says(mode):
    model = dense(Adapted)
    candidate = scheme(mode, ROWS).compress(model)
    assert measure_coverage(candidate, model).share == 1
    base = nn.Linear(8, 16)
    base.load_state_dict({name: model[0].state_dict()[name] for name in ("weight", "bias")})
    straight = scheme(mode, ROWS).compress(base)
    assert torch.equal(candidate[0](ROWS), straight(ROWS) + candidate[0].up(candidate[0].down(ROWS)))


@pytest.mark.parametrize("mode", ["dynamic", "static"])
@pytest.mark.parametrize(
    ("model", "inputs", "reason"),
    [
        (
            convolutions(StandardisedConv),
            IMAGES,
            r"StandardisedConv computes with its weight in another way \(mean, sub",
        ),
        (dense(Unused), ROWS, "Unused does not multiply an input by this weight"),
    ],
    ids=["standardised", "unused"],
)
def test_what_is_no_product_with_the_weight_is_refused_by_name(mode, model, inputs, reason):
    found = measure_coverage(scheme(mode, inputs).compress(model), model)
    assert found.share < 0.5
    assert re.search(reason, found.notes[0])


def test_a_forward_with_more_arguments_needs_calibration():
    model = Scaling().eval()
    found = measure_coverage(scheme("dynamic", ROWS).compress(model), model)
    assert "cannot be run alone to see it" in found.notes[0]
    candidate = scheme("static", ROWS).compress(model)
    assert measure_coverage(candidate, model).share == 1
    doubled = nn.Sequential(nn.Linear(8, 16), model.head)
    doubled[0].load_state_dict(model.layer.state_dict())
    assert torch.equal(candidate(ROWS), scheme("static", 2 * ROWS).compress(doubled)(2 * ROWS))


def test_a_replaced_forward_is_refused_and_a_later_other_use_is_an_error():
    model = dense(nn.Linear)
    model[0].forward = lambda inputs: F.linear(inputs, model[0].weight)
    found = measure_coverage(Quantize("int8", "dynamic").compress(model), model)
    assert "replaced on the instance" in found.notes[0]

    class Switching(nn.Linear):
        later = False

        def forward(self, inputs):
            return F.linear(inputs, 2 * self.weight if self.later else self.weight)

    candidate = Quantize("int8", "dynamic").compress(Switching(8, 4))
    candidate.later = True
    with pytest.raises(CompressionError, match="Switching computes with its weight in another way"):
        candidate(ROWS)


def test_gradients_reach_the_input_and_export_sees_the_integers():
    candidate = Quantize("int8", "dynamic").compress(convolutions(SameConv))
    inputs = IMAGES.clone().requires_grad_()
    candidate(inputs).sum().backward()
    assert bool(inputs.grad.any())
    exported = torch.export.export(candidate, (IMAGES,), strict=False).module()
    assert torch.equal(exported(IMAGES), candidate(IMAGES))


@pytest.mark.skipif(not has_integer_kernels(), reason="no exact 8-bit dot products")
@torch.no_grad()
def test_kernels_leave_layers_with_a_forward_of_their_own():
    candidate = scheme("static", IMAGES).compress(convolutions(SameConv))
    lowered = lower(candidate)
    assert torch.allclose(lowered(IMAGES), candidate(IMAGES), atol=1e-5)
    assert "forward" not in vars(lowered[0])
    assert "forward" in vars(lowered[5])
