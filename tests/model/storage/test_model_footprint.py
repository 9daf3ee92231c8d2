"""Footprints against counts by hand, and latencies in turns."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from model_networks import SmallCNN, TiedAutoencoder, TinyTransformer, TokenLSTM, bits, inputs_for, make, same_bits
from torch import nn

from cp_compress.base.errors import CompressionError, InvalidArgumentError
from cp_compress.model import Prune, Quantize, footprint, measure_latency, save


def test_a_small_network_by_hand(tmp_path):
    model, images = make(SmallCNN), inputs_for(SmallCNN)
    found = footprint(model, images)
    parameters = (8 * 27 + 8) + 16 + 12 * 72 + 24 + (48 * 5 + 5)
    assert found.parameters == found.nonzero + int((model.features[1].weight == 0).sum()) == parameters
    buffers = 4 * (16 + 24) + 2 * 8
    assert found.resident_bytes == 4 * parameters + buffers
    assert found.flops == 2 * 4 * (144 * 8 * 27 + 144 * 12 * 72 + 48 * 5)
    save(model, tmp_path / "model.cp")
    assert found.artifact_bytes == (tmp_path / "model.cp").stat().st_size
    assert found.to_json()["flops"] == found.flops
    assert footprint(model).flops is None


@pytest.mark.parametrize("scheme", [Quantize("int8"), Quantize("int8", "dynamic"), Quantize("float16")])
def test_quantised_graphs_are_counted_in_full(scheme):
    model, images = make(SmallCNN), inputs_for(SmallCNN)
    before, after = footprint(model, images), footprint(scheme.compress(model), images)
    assert after.flops == before.flops
    assert after.parameters == before.parameters
    assert after.resident_bytes < before.resident_bytes


def test_pruned_weights_count_in_the_file_alone():
    model, images = make(SmallCNN), inputs_for(SmallCNN)
    before, after = footprint(model, images), footprint(Prune(0.1, "layer").compress(model), images)
    assert after.nonzero < 0.2 * before.nonzero
    assert (after.parameters, after.resident_bytes, after.flops) == (
        before.parameters,
        before.resident_bytes,
        before.flops,
    )


def test_tied_parameters_are_counted_once():
    model = make(TiedAutoencoder)
    assert footprint(model).parameters == 36 + 6 + 6 + 12 + 18 + 3
    assert footprint(Quantize("int8").compress(model)).parameters == 36 + 6 + 6 + 12 + 18 + 3


def test_attention_is_counted_although_the_fast_path_would_hide_it():
    rows, length, width, hidden = 4, 7, 8, 16
    layer = 2 * rows * length * (3 * width * width + width * width + 2 * width * hidden)
    layer += 2 * 2 * rows * length * length * width
    expected = 2 * layer + 2 * rows * width * 3
    assert footprint(make(TinyTransformer), inputs_for(TinyTransformer)).flops == expected
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_vision_transformer_by_hand():
    vit = torchvision.models.VisionTransformer(32, 8, 2, 4, 16, 32, num_classes=5).eval()
    tokens, width, mlp = 17, 16, 32
    layer = 2 * tokens * (4 * width * width + 2 * width * mlp) + 4 * tokens * tokens * width
    expected = 2 * 16 * width * 3 * 64 + 2 * layer + 2 * width * 5
    assert footprint(vit, torch.randn(1, 3, 32, 32)).flops == expected


def test_recurrent_layers_are_counted():
    rows, steps, hidden = 4, 9, 5
    first, second = 4 * hidden * (6 + hidden), 4 * hidden * (10 + hidden)
    expected = 2 * rows * (2 * steps * (first + second) + 10 * 3)
    assert footprint(make(TokenLSTM), inputs_for(TokenLSTM)).flops == expected


def test_arguments_by_position_and_by_keyword():
    two = nn.Linear(2, 3)
    assert footprint(two, {"input": torch.zeros(5, 2)}).flops == footprint(two, (torch.zeros(5, 2),)).flops == 60


def test_a_graph_without_countable_operations_is_refused():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, values):
            return (values * self.weight).sum(-1)

    with pytest.raises(CompressionError, match="count of 0"):
        footprint(Hidden(), torch.ones(2, 3))


def test_the_model_is_left_as_it_was():
    model, images = make(SmallCNN).train(), inputs_for(SmallCNN)
    model.features[4].eval()
    before, flags = bits(model), [module.training for module in model.modules()]
    state = torch.get_rng_state()
    footprint(model, images)
    measure_latency(copy.deepcopy(model), model, images, repeats=2)
    assert same_bits(bits(model), before)
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


class Clock:
    """A clock that only `Timed` advances."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


class Timed(nn.Module):
    """A model that takes the given seconds of a clock, call after call, and then the last of them."""

    def __init__(self, clock, *seconds):
        super().__init__()
        self.clock, self.seconds = clock, list(seconds)

    def forward(self, values):
        self.clock.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        return values


def test_latencies_are_medians_in_the_order_of_the_arguments(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("cp_compress.model.footprints.time", clock)
    fast, slow = (Timed(clock, 9, 9, 9, typical, 0, 0) for typical in (0.002, 0.01))
    assert measure_latency(fast, slow, torch.zeros(1), repeats=5) == pytest.approx((0.002, 0.01))


def test_arguments_are_checked():
    with pytest.raises(InvalidArgumentError, match="repeats"):
        measure_latency(nn.Identity(), nn.Identity(), torch.zeros(1), repeats=0)
    with pytest.raises(InvalidArgumentError, match="model"):
        footprint(len)
    with pytest.raises(InvalidArgumentError, match="reference"):
        measure_latency(nn.Identity(), len, torch.zeros(1))
