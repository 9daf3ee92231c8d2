"""Static layers on the integer kernels of the CPU give the values that define them."""

from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys

import pytest
import torch
import torchvision
from machine import needs_integer_kernels
from model_networks import Depthwise, SmallCNN, TinyTransformer, Waves, inputs_for, make, shake_norms
from torch import nn

from cp_compress.base.errors import CompressionError
from cp_compress.model import CalibrationData, Quantize, compression_report, lower, measure_latency, save

REFUSAL = """
import torch
from cp_compress.base.errors import CompressionError
from cp_compress.model import CalibrationData, Quantize, lower
layer, inputs = torch.nn.Linear(4, 2), torch.ones(3, 4)
try:
    lower(Quantize("int8", "static", calibration=CalibrationData(inputs)).compress(layer))
except CompressionError as error:
    print(error)
"""


def static(model, inputs, dtype="int8"):
    return Quantize(dtype, "static", calibration=CalibrationData(inputs)).compress(model)


@needs_integer_kernels
@pytest.mark.parametrize("kind", [SmallCNN, Depthwise, TinyTransformer, Waves])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_values_paths_and_hooks_stay(kind, dtype):
    model, inputs = make(kind), inputs_for(kind, rows=6)
    candidate = static(model, inputs, dtype)
    lowered, seen = lower(candidate), []
    layer = next(path for path, module in lowered.named_modules() if "forward" in vars(module))
    lowered.get_submodule(layer).register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        for wide in (1, 3):
            expected = candidate(wide * inputs)
            # a last bit may decide a code of the next layer: bounded by the rounding to 8 bits itself
            step = (expected - model(wide * inputs)).abs().max()
            assert (lowered(wide * inputs) - expected).abs().max() <= max(1e-5, 0.5 * float(step))
    assert len(seen) == 2
    assert [path for path, _ in lowered.named_modules()] == [path for path, _ in model.named_modules()]
    assert not any("forward" in vars(module) for module in candidate.modules())


@needs_integer_kernels
@pytest.mark.parametrize("layer", [nn.Linear(3000, 9), nn.Conv2d(64, 9, 3, stride=2, padding=1, dilation=2, groups=1)])
def test_one_layer_is_exact_to_float_rounding(layer):
    generator = torch.Generator().manual_seed(0)
    shape = (3000,) if isinstance(layer, nn.Linear) else (64, 9, 9)
    inputs = torch.randn((5, *shape), generator=generator).abs()
    candidate = static(layer, inputs)
    candidate.weight_int8.fill_(127)  # the largest sums there are
    with torch.no_grad():
        torch.testing.assert_close(lower(candidate)(inputs), candidate(inputs), rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(lower(candidate)(inputs[0]), candidate(inputs[0]), rtol=1e-6, atol=1e-5)
        assert lower(candidate)(inputs[:0]).shape == candidate(inputs[:0]).shape


@needs_integer_kernels
def test_a_resnet18_gives_its_classes_and_can_be_timed():
    torch.manual_seed(0)
    model = shake_norms(torchvision.models.resnet18(weights=None)).eval()
    images = torch.randn(2, 3, 64, 64)
    candidate = static(model, images)
    lowered = lower(candidate)
    with torch.no_grad():
        expected, outputs = candidate(images), lowered(images)
    rounding = (expected - model(images)).abs().max()
    assert (outputs - expected).abs().max() <= rounding
    assert all(seconds > 0 for seconds in measure_latency(lowered, model, images, repeats=1))


@needs_integer_kernels
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_models_of_their_own(copied):
    images = inputs_for(SmallCNN)
    lowered = lower(static(make(SmallCNN), images))
    with torch.no_grad():
        expected = lowered(images)
        other = copied(lowered)
        assert torch.equal(other(images), expected)
        other.classifier.bias.zero_()
        assert not torch.equal(other(images), expected)
        assert torch.equal(lowered(images), expected)


@needs_integer_kernels
def test_gradients_take_the_layers_own_way():
    candidate = static(make(SmallCNN), inputs_for(SmallCNN))
    gradients = []
    for model in (candidate, lower(candidate)):
        leaf = inputs_for(SmallCNN).requires_grad_()
        model(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


@needs_integer_kernels
def test_what_is_left_is_named_and_nothing_is_refused_silently(tmp_path):
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Linear(8, 4))
    inputs = torch.randn(2, 2, 10)
    lowered = lower(static(model, inputs))
    skips = {skip.name: skip.reason for skip in compression_report(model, lowered).skipped}
    assert re.search(r"Conv1d has no integer kernel", skips["0.weight"])
    for wrong in (model, Quantize("int8").compress(model), static(model[:1], inputs)):
        with pytest.raises(CompressionError, match="no layer has 8-bit inputs"):
            lower(wrong)
    with pytest.raises(CompressionError, match="lowered for this CPU"):
        save(lowered, tmp_path / "model.cp")


def test_kernels_that_saturate_partial_sums_are_refused():
    held = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", REFUSAL], env=held, capture_output=True, text=True, check=True)
    assert "no exact 8-bit dot products" in done.stdout
