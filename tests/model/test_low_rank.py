"""Weights as products: the best approximation there is, in layers that stay what they were."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_networks import bits, same_bits
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cp_compress.base.errors import CompressionError, InvalidArgumentError
from cp_compress.model import (
    BlockPrune,
    FilterPrune,
    LowRank,
    NMPrune,
    Prune,
    Quantize,
    compression_report,
    footprint,
    load,
    parse_scheme,
    save,
)


class Own(nn.Linear):
    """A linear layer with arithmetic of its own."""

    def forward(self, inputs):
        return super().forward(inputs) + self.weight.sum()


LAYERS = {
    "linear": (lambda: nn.Linear(20, 12), (3, 20)),
    "own": (lambda: Own(20, 12), (3, 20)),
    "conv1": (lambda: nn.Conv1d(6, 8, 3, stride=2, padding=1), (2, 6, 9)),
    "conv2": (lambda: nn.Conv2d(6, 8, 3, dilation=2, padding=2, padding_mode="circular"), (2, 6, 7, 7)),
    "unbatched": (lambda: nn.Conv2d(6, 8, 3, bias=False), (6, 7, 7)),
    "conv3": (lambda: nn.Conv3d(4, 6, 2), (2, 4, 3, 3, 3)),
    "groups": (lambda: nn.Conv2d(8, 8, 3, groups=2), (2, 8, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(8, 6, 3, stride=2), (2, 8, 4, 4)),
}


@pytest.fixture(params=LAYERS)
def layer_and_inputs(request):
    torch.manual_seed(0)
    make, shape = LAYERS[request.param]
    return make().double(), torch.randn(shape, dtype=torch.float64)


def closest(weight, rank):
    """Return the closest matrix of a rank, from torch's own singular value decomposition."""
    left, values, right = torch.linalg.svd(weight.detach().flatten(1), full_matrices=False)
    return (left[:, :rank] * values[:rank] @ right[:rank]).view(weight.shape)


def test_the_outputs_are_those_of_the_closest_weight(layer_and_inputs):
    layer, inputs = layer_and_inputs
    expected = copy.deepcopy(layer)
    expected.weight.data = closest(layer.weight, 3)
    candidate = LowRank(rank=3).compress(layer)
    assert isinstance(candidate, type(layer))
    torch.testing.assert_close(candidate.weight, expected.weight, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(candidate(inputs), expected(inputs), rtol=1e-10, atol=1e-12)


@given(rows=st.integers(2, 12), columns=st.integers(2, 12), energy=st.floats(0.05, 0.999), seed=st.integers(0, 2**16))
def test_the_rank_is_the_smallest_that_keeps_the_energy(rows, columns, energy, seed):
    layer = nn.Linear(columns, rows).double()
    layer.weight.data = torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    squares = torch.linalg.svdvals(layer.weight.detach()).square()
    share = squares.cumsum(0) / squares.sum()
    if bool(((share - energy).abs() < 1e-9).any()):
        return  # rounding decides
    rank = int((share < energy).sum()) + 1
    if rank * (rows + columns) >= rows * columns:
        with pytest.raises(CompressionError, match="would become smaller"):
            LowRank(energy=energy).compress(layer)
        return
    candidate = LowRank(energy=energy).compress(layer)
    assert candidate.weight_left.shape == (rows, rank)
    torch.testing.assert_close(candidate.weight, closest(layer.weight, rank), rtol=1e-7, atol=1e-9)


def test_a_weight_of_low_rank_is_kept_to_rounding_in_float32():
    torch.manual_seed(0)
    layer = nn.Linear(64, 48)
    layer.weight.data = torch.randn(48, 4) @ torch.randn(4, 64)
    candidate = LowRank(energy=0.9999999).compress(layer)
    assert candidate.weight_left.shape[1] == 4
    torch.testing.assert_close(candidate.weight, layer.weight.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(candidate.weight_left.norm(), candidate.weight_right.norm())


def test_a_weight_of_zeros_becomes_factors_of_zeros():
    layer = nn.Linear(8, 8)
    layer.weight.data.zero_()
    assert LowRank(rank=2).compress(layer).weight.count_nonzero() == 0


def test_factors_are_used_in_turn_and_cost_fewer_operations():
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Flatten(), nn.Linear(256, 32))
    inputs = torch.zeros(1, 16, 4, 4)
    candidate = LowRank(rank=4).compress(model)
    counter = FlopCounterMode(display=False)
    with counter:
        candidate(inputs)
    convolution = 2 * 16 * (4 * 16 * 9 + 16 * 4)
    assert counter.get_total_flops() == convolution + 2 * 4 * (256 + 32)
    assert footprint(candidate, inputs).parameters == 16 * 4 + 4 * 144 + 16 + 4 * (256 + 32) + 32


def test_attention_keeps_its_factors_and_multiplies_them_out():
    torch.manual_seed(0)
    model = nn.MultiheadAttention(16, 2, batch_first=True).double().eval()
    candidate = LowRank(rank=3).compress(model)
    expected = copy.deepcopy(model)
    expected.in_proj_weight.data = closest(model.in_proj_weight, 3)
    expected.out_proj.weight.data = closest(model.out_proj.weight, 3)
    inputs = torch.randn(2, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(candidate(inputs, inputs, inputs), expected(inputs, inputs, inputs))
    assert footprint(candidate).parameters < footprint(model).parameters


def test_an_embedding_is_factorised_when_it_is_named():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 12, padding_idx=0), nn.Flatten(), nn.Linear(36, 2))
    candidate = LowRank(rank=4, include=nn.Embedding).compress(model)
    tokens = torch.tensor([[0, 3, 49]])
    torch.testing.assert_close(candidate[0](tokens), candidate[0].weight[tokens])
    assert torch.equal(candidate[2].weight, model[2].weight)


def test_factors_can_be_trained_copied_pickled_and_stored(layer_and_inputs, tmp_path):
    layer, inputs = layer_and_inputs
    candidate = LowRank(rank=2).compress(layer)
    candidate(inputs).square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in candidate.parameters())
    candidate.zero_grad()
    torch.optim.SGD(candidate.parameters(), 0.1).step()
    save(candidate, tmp_path / "layer.cp")
    for twin in (copy.deepcopy(candidate), pickle.loads(pickle.dumps(candidate)), load(tmp_path / "layer.cp", layer)):
        assert type(twin) is type(candidate)
        assert same_bits(bits(twin), bits(candidate))
        assert torch.equal(twin(inputs), candidate(inputs))


def test_the_file_holds_the_factors_alone(tmp_path):
    model = nn.Linear(512, 512)
    candidate = LowRank(rank=16).compress(model)
    save(candidate, tmp_path / "layer.cp")
    assert (tmp_path / "layer.cp").stat().st_size <= 1.05 * 4 * (2 * 16 * 512 + 512)


@pytest.mark.parametrize("second", [Quantize("int8"), Quantize("bfloat16"), Prune(0.5), LowRank(rank=2, include="2")])
def test_schemes_may_follow_on_the_factors(second, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    first = LowRank(rank=4, include="0") if isinstance(second, LowRank) else LowRank(rank=4)
    candidate = (first | second).compress(model)
    assert len(compression_report(model, candidate).steps) == 2
    save(candidate, tmp_path / "model.cp")
    inputs = torch.randn(3, 32)
    for twin in (load(tmp_path / "model.cp", model), pickle.loads(pickle.dumps(candidate)), copy.deepcopy(candidate)):
        assert torch.equal(twin(inputs), candidate(inputs))
    closeness = nn.functional.cosine_similarity(candidate(inputs), first.compress(model)(inputs))
    assert bool((closeness > 0.5).all())


def test_int8_factors_are_reported_as_they_are_stored():
    model = nn.Sequential(nn.Linear(32, 32))
    layer = compression_report(model, (LowRank(rank=4) | Quantize("int8")).compress(model)).layers[0]
    assert (layer.dtype_after, layer.shape_after) == ("int8", (32, 32))
    assert layer.density == pytest.approx(2 * 4 * 32 / 32**2, rel=0.05)


@pytest.mark.parametrize("first", [Prune(0.5), NMPrune(), BlockPrune(0.5, (2, 2))])
def test_zeros_are_never_lost_in_factors(first):
    with pytest.raises(CompressionError, match="put low_rank first"):
        (first | LowRank(rank=2)).compress(nn.Linear(16, 16))
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    apart = type(first)(**{**vars(first), "include": ("0",)}) | LowRank(rank=2, include="1")
    assert len(compression_report(model, apart.compress(model)).steps) == 2


def test_what_is_left_alone_is_named():
    model = nn.ModuleDict({"big": nn.Linear(32, 32), "head": nn.Linear(32, 3), "lstm": nn.LSTM(32, 32)})
    report = compression_report(model, LowRank(rank=4).compress(model))
    reasons = {skip.name: skip.reason for skip in report.skipped}
    assert reasons == {
        "head.weight": "at rank 4 its factors would be no smaller: 3×32",
        "lstm.weight_ih_l0": "LSTM cannot compute with factors here",
        "lstm.weight_hh_l0": "LSTM cannot compute with factors here",
    }
    assert report.added == ()
    assert "rank 4 of 32" in str(report)


def test_shared_weights_stay_shared():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16))
    model[1].weight = model[0].weight
    candidate = LowRank(rank=2).compress(model)
    assert candidate[0].weight is candidate[1].weight
    assert candidate[2].weight_left.shape == (16, 2)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({}, "rank"),
        ({"rank": 2, "energy": 0.5}, "rank"),
        ({"rank": 0}, "rank"),
        ({"rank": 2.5}, "rank"),
        ({"energy": 0}, "energy"),
        ({"energy": 1}, "energy"),
        ({"energy": float("nan")}, "energy"),
        ({"rank": 2, "include": 3}, "include"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, name):
    with pytest.raises(InvalidArgumentError, match=rf"LowRank\({name}="):
        LowRank(**arguments)


@pytest.mark.parametrize("scheme", [LowRank(rank=8), LowRank(energy=0.9, exclude=nn.Conv2d)])
def test_the_text_of_a_scheme_reads_back(scheme):
    assert parse_scheme(str(scheme)) == scheme


def test_filters_of_factors_are_not_pruned():
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(256, 4))
    candidate = (LowRank(rank=4, include="2") | FilterPrune(0.5, example_shape=(8, 8, 8), shrink=False)).compress(model)
    skipped = {skip.name: skip.reason for skip in compression_report(model, candidate).skipped}
    assert "put low_rank after filter_prune" in skipped["2.weight_left"]
    assert "zeroed" in str(compression_report(model, candidate))
