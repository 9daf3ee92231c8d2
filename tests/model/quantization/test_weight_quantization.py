"""Weights as eight-bit integers: what is stored, what is computed, what flows back, and what is refused."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from model_networks import (
    Depthwise,
    ScaledLinear,
    SmallCNN,
    TiedAutoencoder,
    TinyTransformer,
    Waves,
    bits,
    inputs_for,
    make,
    same_bits,
)
from torch import nn

from cp_compress.base.errors import CompressionError, InvalidArgumentError
from cp_compress.model import FixedPoint, Prune, Quantize, compression_report, footprint


def weight_of(model, name):
    path, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(path), attribute)


@pytest.mark.parametrize("kind", [SmallCNN, Depthwise, TinyTransformer, TiedAutoencoder, Waves])
def test_int8_weights_are_within_half_a_step_and_the_layer_computes_with_them(kind):
    model, inputs = make(kind), inputs_for(kind)
    candidate = Quantize("int8").compress(model)
    same = copy.deepcopy(model)
    changed = [layer.name for layer in compression_report(model, candidate).layers if layer.changed]
    assert changed
    for name in changed:
        before, after = weight_of(model, name), weight_of(candidate, name)
        dimension = 1 if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.ConvTranspose1d) else 0
        others = [other for other in range(before.ndim) if other != dimension]
        step = before.detach().abs().amax(others, keepdim=True) / 127
        assert ((before - after).abs() <= 0.5001 * step).all()
        assert after.dtype == before.dtype
        with torch.no_grad():
            weight_of(same, name).copy_(after)
    torch.testing.assert_close(candidate(inputs), same(inputs), rtol=1e-5, atol=1e-6)
    assert footprint(candidate).resident_bytes < footprint(model).resident_bytes
    assert footprint(candidate).parameters == footprint(model).parameters


@pytest.fixture(scope="module")
def torchao():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torchao.quantization")


def test_int8_weights_against_torchao(torchao):
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(64, 32)
    layer.weight.data = torch.randn(32, 64, generator=generator)
    theirs = nn.Sequential(copy.deepcopy(layer))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchao.quantize_(theirs, torchao.Int8WeightOnlyConfig())
    quantized = theirs[0].weight.dequantize()
    ours = Quantize("int8").compress(layer).weight
    step = layer.weight.detach().abs().amax(1, keepdim=True) / 127
    # theirs divides the range by 127.5 and cuts +127.5 off to 127, or by 127: either way half a step each
    assert ((ours - quantized).abs() <= 1.01 * step).all()
    assert (ours - layer.weight).abs().mean() <= 1.02 * (quantized - layer.weight).abs().mean()


def reference_dynamic(layer, inputs, dimensions):
    """The definition, in float64: integers, exact sums, scales."""
    weight = layer.weight.detach().double()
    weight_scale = (weight.abs().amax(list(range(1, weight.ndim)), keepdim=True).float() / 127).double()
    scale = inputs.abs().amax(dimensions, keepdim=True).float() / 127
    integers = (inputs.float() / scale).round().double()
    whole = copy.deepcopy(layer).double()
    whole.weight.data = (weight / weight_scale).round()
    whole.bias = None
    shape = (-1, *[1] * (weight.ndim - 2))
    bias = layer.bias.detach().double().view(shape)
    return whole(integers) * scale.double() * weight_scale.view(shape) + bias


@pytest.mark.parametrize(
    ("layer", "shape", "dimensions"),
    [
        (nn.Linear(40, 7), (5, 40), (-1,)),
        (nn.Linear(3000, 7), (5, 3, 3000), (-1,)),
        (nn.Conv1d(3, 4, 5, padding=2), (5, 3, 20), (1, 2)),
        (nn.Conv2d(130, 6, 3, padding=1, padding_mode="circular"), (2, 130, 6, 6), (1, 2, 3)),
        (nn.Conv2d(4, 8, 3, groups=2, stride=2), (3, 4, 9, 9), (1, 2, 3)),
        (nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4), (1, 2, 3, 4)),
    ],
)
def test_dynamic_int8_is_its_definition(layer, shape, dimensions):
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    candidate = Quantize("int8", mode="dynamic").compress(layer)
    expected = reference_dynamic(layer, inputs, dimensions)
    torch.testing.assert_close(candidate(inputs).double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer", [nn.Linear(2000, 16), nn.Conv2d(64, 8, 3)])
def test_dynamic_int8_does_not_depend_on_the_batch(layer):
    shape = (16, 2000) if isinstance(layer, nn.Linear) else (16, 64, 7, 7)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 16).view(
        -1, *[1] * (len(shape) - 1)
    )
    candidate = Quantize("int8", mode="dynamic").compress(layer)
    together = candidate(inputs)
    assert all(torch.equal(candidate(inputs[row : row + 1])[0], together[row]) for row in range(16))


def test_an_example_without_a_batch_dimension_is_one_example():
    candidate = Quantize("int8", mode="dynamic").compress(nn.Conv2d(3, 4, 3))
    image = torch.randn(3, 8, 8)
    assert torch.equal(candidate(image), candidate(image[None])[0])


def test_zero_and_broken_inputs():
    candidate = Quantize("int8", mode="dynamic").compress(nn.Linear(4, 3))
    assert torch.equal(candidate(torch.zeros(2, 4)), candidate.bias.expand(2, 3))
    assert candidate(torch.full((1, 4), float("nan"))).isnan().all()
    assert candidate(torch.tensor([[1.0, 2, float("inf"), 0]])).isnan().any()
    assert candidate(torch.zeros(0, 4)).shape == (0, 3)
    assert Quantize("int8", mode="dynamic").compress(nn.Conv2d(2, 3, 3))(torch.zeros(0, 2, 5, 5)).shape == (0, 3, 3, 3)


@pytest.mark.parametrize("mode", ["weight", "dynamic"])
def test_gradients_flow_to_the_input(mode):
    model, images = make(SmallCNN), inputs_for(SmallCNN)
    gradients = []
    for net in (model, Quantize("int8", mode).compress(model)):
        leaf = images.clone().requires_grad_(True)
        net(leaf)[:, 2].sum().backward()
        gradients.append(leaf.grad.flatten())
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.97


def test_the_straight_through_gradient_is_that_of_the_stored_weights():
    layer = nn.Linear(6, 4)
    candidate = Quantize("int8", "dynamic").compress(layer)
    leaf = torch.randn(3, 6, requires_grad=True)
    candidate(leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, candidate.weight.sum(0).expand(3, 6))


def test_dynamic_int8_is_the_same_with_and_without_gradients_in_a_transformer():
    model, inputs = make(TinyTransformer), inputs_for(TinyTransformer)
    candidate = Quantize("int8", mode="dynamic").compress(model)
    with torch.no_grad():
        quiet = candidate(inputs)
    torch.testing.assert_close(quiet, candidate(inputs), rtol=1e-5, atol=1e-6)
    skips = {skip.name: skip.reason for skip in compression_report(model, candidate).skipped}
    assert "arithmetic of its own" in skips["encoder.layers.0.self_attn.in_proj_weight"]
    assert "without calling" in skips["encoder.layers.0.self_attn.out_proj.weight"]
    assert "position" in skips


def test_what_cannot_be_int8_is_named():
    layers = {"table": nn.Embedding(5, 4), "bilinear": nn.Bilinear(2, 2, 2), "up": nn.ConvTranspose2d(4, 4, 2)}
    model = nn.ModuleDict({**layers, "own": ScaledLinear(4, 4)})
    candidate = Quantize("int8").compress(model)
    skips = {skip.name for skip in compression_report(model, candidate).skipped}
    assert skips == {"table.weight", "bilinear.weight"}
    assert isinstance(candidate["own"], ScaledLinear)
    with pytest.raises(CompressionError, match="no weight to quantise"):
        Quantize("int8", "dynamic").compress(nn.ModuleDict(layers))


def test_int8_layers_keep_their_type_path_and_hooks():
    model = make(SmallCNN)
    candidate = Quantize("int8").compress(model)
    assert [path for path, _ in candidate.named_modules()] == [path for path, _ in model.named_modules()]
    assert all(
        isinstance(after, type(before)) for before, after in zip(model.modules(), candidate.modules(), strict=True)
    )
    assert "int8 weight" in repr(candidate.classifier)
    assert candidate.features[0].weight.shape == model.features[0].weight.shape
    seen = []
    candidate.features[3].register_forward_hook(lambda module, args, output: seen.append(output.shape))
    candidate(inputs_for(SmallCNN))
    assert seen


@pytest.mark.parametrize("scheme", [Quantize("int8"), Quantize("int8", "dynamic"), Quantize("float16")])
def test_copies_pickles_and_state_dicts(scheme, tmp_path):
    model, images = make(SmallCNN), inputs_for(SmallCNN)
    candidate = scheme.compress(model)
    torch.save(candidate, tmp_path / "model.pt")
    copies = [
        copy.deepcopy(candidate),
        pickle.loads(pickle.dumps(candidate)),
        torch.load(tmp_path / "model.pt", weights_only=False),
    ]
    fresh = scheme.compress(make(SmallCNN, seed=5))
    fresh.load_state_dict(candidate.state_dict())
    for other in [*copies, fresh]:
        assert type(other.classifier).__name__ == type(candidate.classifier).__name__
        assert same_bits(bits(other), bits(candidate))
        assert torch.equal(other(images), candidate(images))


def test_tied_weights_share_their_integers():
    candidate = Quantize("int8").compress(make(TiedAutoencoder))
    assert candidate.first.weight_int8 is candidate.second.weight_int8
    assert candidate.alias is candidate.first


@pytest.mark.parametrize(
    "after", [Prune(0.5), Quantize("int8"), Quantize("float16", "dynamic"), Quantize("int8", "dynamic"), FixedPoint()]
)
def test_what_cannot_follow_int8(after):
    with pytest.raises(CompressionError, match=r"features\.0.* int8"):
        (Quantize("int8") | after).compress(make(SmallCNN))


def test_channels_of_zeros_and_tiny_weights():
    layer = nn.Linear(4, 3)
    layer.weight.data[0] = 0
    layer.weight.data[1] = 1e-42
    weight = Quantize("int8").compress(layer).weight
    assert not weight[0].any()
    assert weight.isfinite().all()


def test_a_model_without_numbers_is_refused():
    for dtype in ("int8", "float16"):
        with pytest.raises(CompressionError):
            Quantize(dtype).compress(nn.ReLU())


@pytest.mark.parametrize("arguments", [("int3",), ("int8", "static"), ("float16", "static"), (torch.float16,)])
def test_arguments_out_of_range(arguments):
    with pytest.raises(InvalidArgumentError, match="Quantize"):
        Quantize(*arguments)
