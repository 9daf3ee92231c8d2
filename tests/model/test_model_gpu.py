"""On a GPU every scheme gives the model that it gives on the CPU, and leaves it on the GPU."""

from __future__ import annotations

import copy

import pytest
import torch
from model_networks import SmallCNN, TinyTransformer, TokenLSTM, bits, inputs_for, make, same_bits

from cp_compress.base.errors import CompressionError
from cp_compress.model import (
    CalibrationData,
    Quantize,
    footprint,
    keep_largest,
    load,
    lower,
    measure_latency,
    parse_scheme,
    save,
)

pytestmark = pytest.mark.gpu

SCHEMES = [
    "prune(density=0.3, scope=layer)",
    "quantize(float16)",
    "quantize(bfloat16)",
    "quantize(int8)",
    "quantize(int8, mode=dynamic)",
    "quantize(int4, group_size=4)",
    "quantize(int4, mode=dynamic)",
    "fixed_point(bits=6)",
    "fixed_point(bits=12, include=('*',))",
]
FILTERS = ["filter_prune(density=0.5)", "filter_prune(density=0.5, shrink=False) | quantize(int8)"]


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [(kind, scheme) for kind in (SmallCNN, TinyTransformer) for scheme in SCHEMES]
    + [(TokenLSTM, scheme) for scheme in SCHEMES[::3]]
    + [(SmallCNN, scheme) for scheme in FILTERS],
)
def test_the_same_model_as_on_the_cpu(gpu, kind, scheme, tmp_path):
    model, inputs = make(kind), inputs_for(kind)
    expected = parse_scheme(scheme).compress(model)
    candidate = parse_scheme(scheme).compress(copy.deepcopy(model).to(gpu))
    assert all(tensor.device.type == gpu.type for tensor in bits(candidate).values())
    assert same_bits({name: tensor.cpu() for name, tensor in bits(candidate).items()}, bits(expected))
    torch.testing.assert_close(candidate(inputs.to(gpu)).cpu(), expected(inputs), rtol=2e-2, atol=2e-2)
    save(candidate, tmp_path / "model.cp")
    loaded = load(tmp_path / "model.cp", copy.deepcopy(model).to(gpu))
    assert same_bits(bits(loaded), bits(candidate))
    assert footprint(candidate, inputs) == footprint(expected, inputs)
    assert all(seconds > 0 for seconds in measure_latency(candidate, candidate, inputs, repeats=1))


@pytest.mark.parametrize("kind", [SmallCNN, TinyTransformer, TokenLSTM])
def test_static_ranges_are_the_cpus(gpu, kind, tmp_path):
    model, inputs = make(kind), inputs_for(kind)
    scheme = Quantize("int8", "static", calibration=CalibrationData(inputs))
    expected, candidate = scheme.compress(model), scheme.compress(copy.deepcopy(model).to(gpu))
    for name, tensor in bits(candidate).items():
        assert tensor.device.type == gpu.type
        # activations differ in their last bits, and so may ranges
        torch.testing.assert_close(tensor.cpu(), bits(expected)[name], rtol=1e-2, atol=1)
    with torch.no_grad():
        torch.testing.assert_close(candidate(inputs.to(gpu)).cpu(), expected(inputs), rtol=2e-2, atol=2e-2)
    save(candidate, tmp_path / "model.cp")
    assert same_bits(bits(load(tmp_path / "model.cp", copy.deepcopy(model).to(gpu))), bits(candidate))
    with pytest.raises(CompressionError, match="the model is on another device"):
        lower(candidate)
    moved = copy.deepcopy(expected).to(gpu)
    with torch.no_grad():
        torch.testing.assert_close(moved(inputs.to(gpu)).cpu(), expected(inputs), rtol=2e-2, atol=2e-2)


def test_selection_is_the_cpus(gpu):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(size, generator=generator).mul(50).round() for size in (100_000, 33)]
    masks = keep_largest([tensor.to(gpu) for tensor in tensors], 40_000)
    assert all(torch.equal(mask.cpu(), own) for mask, own in zip(masks, keep_largest(tensors, 40_000), strict=True))
