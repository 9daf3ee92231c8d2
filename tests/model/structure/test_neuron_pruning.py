"""Neurons, hidden units and the channels of unusual convolutions: removed equals zeroed, and what is left is named."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from model_networks import (
    TiedAutoencoder,
    TinyTransformer,
    TokenLSTM,
    Waves,
    bits,
    inputs_for,
    make,
    same_bits,
    shake_norms,
    widened,
)
from torch import nn

from cp_compress.base.errors import CompressionError
from cp_compress.model import FilterPrune, NeuronPrune, StructurePrune, compression_report, load, save


def actions(reference, candidate):
    return {layer.name: layer.actions[0] for layer in compression_report(reference, candidate).layers if layer.actions}


def skips(reference, candidate):
    return {skip.name: skip.reason for skip in compression_report(reference, candidate).skipped}


def require_equal(scheme, model, inputs, folder, widen=False):
    """Removed and zeroed units give the same outputs, and so do a reload and the exported program."""
    shrunk = scheme.compress(model)
    count = [sum(tensor.numel() for tensor in network.parameters()) for network in (model, shrunk)]
    assert count[1] < 0.8 * count[0]
    zeroed = widened(model, shrunk) if widen else dataclasses.replace(scheme, shrink=False).compress(model)
    with torch.no_grad():
        output = shrunk(inputs)
        assert not torch.equal(output[0], output[1])
        torch.testing.assert_close(output, zeroed(inputs), rtol=1e-5, atol=1e-6)
        save(shrunk, folder / "model.cp")
        loaded = load(folder / "model.cp", model)
        assert same_bits(bits(loaded), bits(shrunk))
        assert torch.equal(loaded(inputs), output)
        torch.testing.assert_close(torch.export.export(shrunk, (inputs,)).module()(inputs), output)
    return shrunk


@pytest.mark.parametrize("criterion", ["l1", "l2", "max", "mean", "geometric_median"])
def test_neurons_with_biases(criterion, tmp_path):
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.PReLU(16), nn.Dropout(), nn.Linear(16, 9), nn.Tanh())
    model.append(nn.Linear(9, 4)).eval()
    shrunk = require_equal(NeuronPrune(0.5, criterion), model, torch.randn(3, 6), tmp_path)
    assert [shrunk[0].out_features, shrunk[1].num_features, shrunk[2].num_parameters] == [8, 8, 8]
    assert [shrunk[4].in_features, shrunk[4].out_features, shrunk[6].in_features] == [8, 5, 5]


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.recurrent = kind(5, 8, num_layers=3, batch_first=True, **options)
        self.head = nn.Linear(16 if options.get("bidirectional") else 8, 4)

    def forward(self, sequence):
        return self.head(self.recurrent(sequence)[0].mean(1))


# torch.export says so of every recurrent layer
exported = pytest.mark.filterwarnings("ignore:The tensor attributes .*_flat_weights")


@exported
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"bias": False}])
def test_hidden_units(kind, options, tmp_path):
    model = make(lambda: Recurrent(kind, **options))
    shrunk = require_equal(NeuronPrune(0.5), model, torch.randn(3, 6, 5), tmp_path)
    assert (shrunk.recurrent.hidden_size, shrunk.head.in_features * 2) == (4, model.head.in_features)


@exported
def test_hidden_units_behind_an_embedding(tmp_path):
    model, tokens = make(TokenLSTM), inputs_for(TokenLSTM)
    for scheme in (NeuronPrune(0.6), NeuronPrune(0.6, example_shape=(4,), example_dtype="int64")):
        assert require_equal(scheme, model, tokens, tmp_path).lstm.hidden_size == 3
    assert set(skips(model, NeuronPrune(0.6).compress(model))) == {"table.weight", "head.weight"}
    with pytest.raises(CompressionError, match="has to run the model"):
        NeuronPrune(0.6, example_shape=(4,), example_dtype="float").compress(model)


def test_hidden_units_align_in_every_level():
    model = make(lambda: Recurrent(nn.GRU, bidirectional=True))
    assert NeuronPrune(0.4, round_to=4).compress(model).recurrent.hidden_size == 4
    assert NeuronPrune(0.7, round_to=2, scope="global").compress(model).recurrent.hidden_size == 6


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_hidden_units_that_something_else_reads_are_zeroed(kind):
    class States(Recurrent):
        def forward(self, sequence):
            states, last = self.recurrent(sequence)
            return self.head(states.mean(1)) + (last[0] if isinstance(last, tuple) else last)[-1].sum()

    class Reversed(Recurrent):
        def forward(self, sequence):
            return self.head(self.recurrent(sequence)[0].mean(1).flip(1))

    for network in (States, Reversed):
        model = make(lambda network=network: network(kind))
        if network is States:  # a sum over units does not see which are gone
            candidate = NeuronPrune(0.5).compress(model)
            assert candidate.recurrent.hidden_size == 4
        else:
            with pytest.raises(
                CompressionError, match=r"recurrent.weight_hh_l1.*not removed: removing them would chang"
            ):
                NeuronPrune(0.5).compress(model)
            candidate = NeuronPrune(0.5, shrink=False).compress(model)
            assert candidate.recurrent.hidden_size == 8
        states = candidate.recurrent(torch.randn(2, 6, 5))[0]
        assert int(states.any(0).any(0).sum()) == 4


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_cells_and_projections_are_zeroed_and_named():
    class Cells(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.GRUCell(5, 8), nn.Linear(8, 2)

        def forward(self, values):
            return self.head(self.cell(values, self.cell(values)))

    model = make(Cells)
    with pytest.raises(CompressionError, match=r"removes nothing.*cell.weight_hh.*the model itself gives GRUCell"):
        NeuronPrune(0.5, example_shape=(5,)).compress(model)
    candidate = NeuronPrune(0.5, example_shape=(5,), shrink=False).compress(model)
    assert int(candidate.cell(torch.randn(3, 5)).any(0).sum()) == 4
    projected = make(lambda: Recurrent(nn.LSTM, proj_size=0))
    projected.recurrent = nn.LSTM(5, 10, proj_size=8, batch_first=True)
    with pytest.raises(CompressionError, match=r"recurrent.weight_ih_l0.*projected LSTM"):
        NeuronPrune(0.5).compress(projected)
    candidate = NeuronPrune(0.5, shrink=False).compress(projected)
    assert "reads the hidden units" in skips(projected, candidate)["recurrent.weight_hr_l0"]


def test_attention_is_zeroed_and_the_hidden_neurons_are_removed():
    model, sequence = make(TinyTransformer), inputs_for(TinyTransformer)
    candidate = NeuronPrune(0.5, example_shape=(7, 8)).compress(model)
    done = actions(model, candidate)
    for index, block in enumerate(candidate.encoder.layers):
        assert block.linear1.out_features == block.linear2.in_features == 8
        assert done[f"encoder.layers.{index}.linear1.weight"] == "8 of 16 neurons removed"
        weight = block.self_attn.in_proj_weight.detach()
        rows = weight.view(3, 8, 8).any(2)
        assert torch.equal(rows[0], rows[1])
        assert torch.equal(rows[0], rows[2])
        assert int(rows[0].sum()) == 4
        assert "not removed" in done[f"encoder.layers.{index}.self_attn.in_proj_weight"]
        assert "not removed" in done[f"encoder.layers.{index}.self_attn.out_proj.weight"]
    assert candidate(sequence).shape == (4, 3)


def test_tied_layers_are_zeroed():
    model = make(TiedAutoencoder)
    with pytest.raises(CompressionError, match=r"removes nothing.*first.weight.*several layers share.*shrink=False"):
        NeuronPrune(0.5).compress(model)
    candidate = NeuronPrune(0.5, shrink=False).compress(model)
    assert candidate.first.weight is candidate.second.weight


def test_a_layer_whose_channels_are_added_to_those_of_a_tied_one_is_zeroed_once():
    class Added(nn.Module):
        def __init__(self):
            super().__init__()
            self.own, self.tied, self.other = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8)
            self.other.weight = self.tied.weight
            self.head, self.side = nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, values):
            return self.head(torch.relu(self.own(values) + self.tied(values))) + self.side(self.other(values).relu())

    model = make(Added)
    with pytest.raises(CompressionError, match=r"own.weight.*tied.weight"):
        NeuronPrune(0.5, example_shape=(6,)).compress(model)
    candidate = NeuronPrune(0.5, example_shape=(6,), shrink=False).compress(model)
    done = actions(model, candidate)
    assert set(done) >= {"own.weight", "tied.weight"}
    for layer in (candidate.own, candidate.tied):
        assert int(layer.weight.any(1).sum()) == 4


def head(channels):
    return [nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 3)]


@pytest.mark.parametrize(
    "layers",
    [
        [nn.ConvTranspose2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, stride=2), *head(6)],
        [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 16, 3, groups=4), *head(16)],
        [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=4), nn.ReLU(), nn.Conv2d(16, 6, 1), *head(6)],
        [nn.Conv2d(3, 12, 1), nn.ReLU(), nn.Conv2d(12, 24, 3, groups=3, bias=False), nn.BatchNorm2d(24), *head(24)],
    ],
    ids=["transposed", "grouped transposed", "grouped", "grouped and normalised"],
)
def test_transposed_and_grouped_convolutions(layers, tmp_path):
    torch.manual_seed(0)
    model, images = shake_norms(nn.Sequential(*layers)).eval(), torch.randn(2, 3, 8, 8)
    shrunk = require_equal(FilterPrune(0.5, example_shape=(3, 8, 8)), model, images, tmp_path, widen=True)
    convolutions = (nn.Conv2d, nn.ConvTranspose2d)
    for before, after in zip(model, shrunk, strict=True):
        if isinstance(before, convolutions):
            assert (after.out_channels, after.groups) == (before.out_channels // 2, before.groups)


def test_signals(tmp_path):
    model = make(Waves)
    shrunk = require_equal(StructurePrune(0.5, example_shape=(2, 20)), model, inputs_for(Waves), tmp_path)
    assert (shrunk.layers[3].in_channels, shrunk.layers[3].out_channels) == (3, 2)


def test_filters_and_neurons_are_ranked_together():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.extend([nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)])
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1, 1, 1, 1, 1, 1, 1, 9.0]).view(8, 1, 1, 1).expand(8, 1, 3, 3))
        model[4].weight.copy_(torch.linspace(0.9, 1.1, 8)[:, None].expand(8, 8))
    shrunk = StructurePrune(9 / 16, scope="global", example_shape=(1, 5, 5)).compress(model)
    # relative to the mean of the layer one filter is at 4.5 and seven are at 0.5, all neurons are near 1
    assert (shrunk[0].out_channels, shrunk[4].out_features) == (1, 8)


def test_nothing_but_the_output_is_an_error():
    with pytest.raises(CompressionError, match="gives the model's output"):
        NeuronPrune(0.5).compress(nn.Linear(4, 4))


def test_all_layers_that_give_outputs_are_left_alone():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 5)

        def forward(self, values):
            hidden = torch.relu(self.body(values))
            return {"first": self.first(hidden), "second": self.second(hidden)}

    model = make(Two)
    for shrink in (True, False):
        candidate = NeuronPrune(0.5, shrink=shrink).compress(model)
        assert set(skips(model, candidate)) == {"first.weight", "second.weight"}
        assert set(actions(model, candidate)) == {"body.weight"}


def test_a_model_that_gives_an_object_with_logits_shrinks():
    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, inputs):
            return Output(self.layers(inputs))

    torch.manual_seed(0)
    candidate = NeuronPrune(0.5).compress(Wrapped())
    assert candidate.layers[0].out_features == 4
    assert candidate.layers[2].out_features == 3
