"""Weights and models in 16 bits: what is stored, what is computed, what flows back, and what is refused."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from model_networks import (
    SmallCNN,
    TiedAutoencoder,
    TinyTransformer,
    TokenLSTM,
    Waves,
    inputs_for,
    make,
)
from torch import nn

from cp_compress.base.errors import CompressionError
from cp_compress.model import Quantize, compression_steps, save

HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", [SmallCNN, TinyTransformer, TokenLSTM, Waves, TiedAutoencoder])
def test_half_precision_is_torchs_own_behind_the_same_dtypes(dtype, kind):
    model, inputs = make(kind), inputs_for(kind)
    candidate = Quantize(dtype, "dynamic").compress(model)
    own = copy.deepcopy(model).to(HALF[dtype])
    expected = own(inputs if kind is TokenLSTM else inputs.to(HALF[dtype])).float()
    assert torch.equal(candidate(inputs), expected)
    assert candidate(inputs).dtype == torch.float32
    assert all(tensor.dtype == HALF[dtype] for tensor in candidate.parameters())


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", [SmallCNN, TinyTransformer, TokenLSTM, Waves, TiedAutoencoder])
def test_half_precision_weights_are_rounded_once_and_computed_with_in_full(dtype, kind):
    model, inputs = make(kind), inputs_for(kind)
    candidate = Quantize(dtype).compress(model)
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in rounded.parameters():
            tensor.copy_(tensor.to(HALF[dtype]))
    for _ in range(2):
        assert torch.equal(candidate(inputs), rounded(inputs))
    assert all(tensor.dtype == HALF[dtype] for tensor in candidate.parameters())
    assert [name for name, _ in candidate.named_parameters()] == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_a_held_model_are_models_of_their_own(copied):
    candidate = Quantize("float16").compress(make(SmallCNN))
    other, images = copied(candidate), inputs_for(SmallCNN)
    assert torch.equal(other(images), candidate(images))
    with torch.no_grad():
        other.classifier.weight.zero_()
    assert not torch.equal(other(images), candidate(images))
    assert candidate.classifier.weight.any()


def test_gradients_reach_inputs_and_held_parameters():
    candidate, images = Quantize("bfloat16").compress(make(SmallCNN)), inputs_for(SmallCNN).requires_grad_()
    candidate(images).square().sum().backward()
    assert images.grad.abs().max() > 0
    assert candidate.classifier.weight.grad.dtype == torch.bfloat16
    assert candidate.classifier.weight.grad.abs().max() > 0


def test_a_held_model_is_whole_again_after_an_error():
    candidate = Quantize("float16").compress(make(SmallCNN))
    with pytest.raises(RuntimeError):
        candidate(torch.zeros(1, 99, 3, 3))
    assert all(tensor.dtype == torch.float16 for tensor in candidate.parameters())
    assert isinstance(candidate.classifier.weight, nn.Parameter)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, values, *, mask):
        hidden = self.layer(values["a"]) * mask
        return {"logits": hidden, "more": (hidden.sum(), values["index"])}


def test_casts_reach_into_nested_arguments_and_results():
    model = TwoHeads()
    values = {"a": torch.randn(2, 3), "index": torch.tensor([1, 2])}
    output = Quantize("bfloat16", "dynamic").compress(model)(values, mask=torch.ones(2, 2, dtype=torch.float32))
    assert output["logits"].dtype == output["more"][0].dtype == torch.float32
    assert output["more"][1].dtype == torch.int64
    assert values["a"].dtype == torch.float32


def test_hooks_of_the_user_see_the_original_dtype():
    model, seen = make(SmallCNN), []
    model.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    Quantize("float16", "dynamic").compress(model)(inputs_for(SmallCNN))
    assert seen == [torch.float32]


def test_a_value_that_float16_cannot_hold_is_refused():
    model = make(SmallCNN)
    model.classifier.weight.data[0, 0] = 1e6
    with pytest.raises(CompressionError, match=r"classifier\.weight holds 1e\+06"):
        Quantize("float16").compress(model)
    Quantize("bfloat16").compress(model)


def test_a_running_variance_that_overflows_is_refused():
    model = make(SmallCNN)
    model.features[1].running_var[2] = 1e5
    with pytest.raises(CompressionError, match=r"features\.1\.running_var"):
        Quantize("float16", "dynamic").compress(model)


@pytest.mark.parametrize("dtype", HALF)
def test_int8_may_follow_half_precision_which_is_cast_once(dtype):
    model, images = make(SmallCNN), inputs_for(SmallCNN)
    candidate = (Quantize(dtype) | Quantize("int8")).compress(model)
    assert candidate.classifier.weight.dtype == HALF[dtype]
    assert (candidate(images) - model(images)).abs().max() < 0.1
    with pytest.raises(CompressionError, match="already"):
        (Quantize(dtype) | Quantize("bfloat16")).compress(model)
    narrow = model.to(HALF[dtype])
    for mode, message in (("dynamic", "nothing to cast"), ("weight", "nothing to round")):
        with pytest.raises(CompressionError, match=message):
            Quantize(dtype, mode).compress(narrow)


def test_threads_may_share_a_held_model():
    candidate, images = Quantize("float16").compress(make(SmallCNN)), inputs_for(SmallCNN)
    with torch.no_grad():
        expected = candidate(images)
        with ThreadPoolExecutor(4) as pool:
            outputs = list(pool.map(lambda _: candidate(images), range(200)))
    assert all(torch.equal(output, expected) for output in outputs)


def test_a_held_model_updates_its_own_buffers():
    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(3, 3)
            self.register_buffer("calls", torch.zeros((), dtype=torch.float16))

        def forward(self, values):
            self.calls += 1
            return super().forward(values)

    candidate = Quantize("float16").compress(Counting())
    candidate(torch.ones(1, 3))
    assert candidate.calls == 1


@pytest.mark.parametrize("mode", ["weight", "dynamic"])
def test_a_layer_that_would_underflow_is_refused(mode):
    model = make(SmallCNN)
    model.classifier.weight.data.mul_(1e-9)
    with pytest.raises(CompressionError, match=r"classifier\.weight would hold nothing but zeros"):
        Quantize("float16", mode).compress(model)
    Quantize("bfloat16", mode).compress(model)


@pytest.mark.parametrize("mode", ["weight", "dynamic"])
def test_a_half_precision_part_is_not_saved_as_a_whole(mode, tmp_path):
    candidate = nn.Sequential(nn.Identity(), Quantize("float16", mode).compress(make(SmallCNN)))
    with pytest.raises(CompressionError, match="1 is a 16-bit model inside another module"):
        save(candidate, tmp_path / "model.cp")
    assert not list(tmp_path.iterdir())
    assert len(compression_steps(candidate)) == 1
