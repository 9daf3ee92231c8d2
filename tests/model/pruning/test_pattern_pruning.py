"""Blocks and n-of-m patterns: which weights stay, on every kind of layer, against brute force."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_networks import TinyTransformer, TokenLSTM, bits, make, same_bits
from torch import nn

from cp_compress.base.errors import CompressionError, InvalidArgumentError
from cp_compress.model import (
    BlockPrune,
    FilterPrune,
    NMPrune,
    Prune,
    Quantize,
    compression_report,
    load,
    parse_scheme,
    save,
)


def linear(weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.clone()
    return layer


def brute_force_blocks(weight, block_size, norm):
    """Return the (rows, columns) and the norm of every block, one at a time."""
    found = []
    for top, left in itertools.product(
        range(0, weight.shape[0], block_size[0]), range(0, weight.shape[1], block_size[1])
    ):
        rows, columns = slice(top, top + block_size[0]), slice(left, left + block_size[1])
        block = weight[rows, columns].double().abs().flatten()
        size = {"l1": block.sum(), "l2": block.norm(), "max": block.max(), "mean": block.mean()}[norm]
        found.append(((rows, columns), float(size)))
    return found


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    block_size=st.tuples(st.integers(1, 4), st.integers(2, 4)),
    density=st.floats(0.05, 1),
    norm=st.sampled_from(["l1", "l2", "max", "mean"]),
    seed=st.integers(0, 2**16),
)
def test_the_blocks_of_largest_norm_stay(shape, block_size, density, norm, seed):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    blocks = brute_force_blocks(weight, block_size, norm)
    count = max(1, math.floor(Fraction(repr(density)) * len(blocks) + Fraction(1, 2)))
    expected = weight.clone()
    for (rows, columns), _ in sorted(blocks, key=lambda block: -block[1])[count:]:
        expected[rows, columns] = 0
    layer = linear(weight)
    if count == len(blocks) and density < 1:
        with pytest.raises(CompressionError, match="changes nothing"):
            BlockPrune(density, block_size, norm).compress(layer)
    else:
        assert torch.equal(BlockPrune(density, block_size, norm).compress(layer).weight, expected)


def test_equal_blocks_stay_first_by_index():
    pruned = BlockPrune(0.5, (2, 2)).compress(linear(torch.ones(4, 4)))
    assert pruned.weight.nonzero()[:, 0].unique().tolist() == [0, 1]


def test_blocks_of_all_layers_compete_unless_the_scope_is_the_layer():
    model = nn.Sequential(linear(torch.ones(4, 4)), linear(torch.full((4, 4), 9.0)))
    with pytest.raises(CompressionError, match=r"no weight at all in 0\.weight"):
        BlockPrune(0.5, (2, 2)).compress(model)
    pruned = BlockPrune(0.5, (2, 2), scope="layer").compress(model)
    assert [int(layer.weight.count_nonzero()) for layer in pruned] == [8, 8]


def test_a_block_may_have_a_size_for_each_dimension_and_other_weights_are_named():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    candidate = BlockPrune(0.5, (2, 2, 3, 3)).compress(model)
    kernels = (candidate[0].weight != 0).view(2, 2, 2, 2, 9).permute(0, 2, 1, 3, 4).flatten(2)
    assert torch.equal(kernels.any(2), kernels.all(2))
    assert int(kernels.any(2).sum()) == 2
    assert torch.equal(candidate[2].weight, model[2].weight)
    assert [skip.name for skip in compression_report(model, candidate).skipped] == ["2.weight"]


def groups_of(weight, dimension, m):
    """Return rows of m neighbours along a dimension, one tensor for each group (the last may be shorter)."""
    rows = weight.movedim(dimension, -1).flatten(0, -2)
    return [rows[:, start : start + m] for start in range(0, rows.shape[1], m)]


@given(n=st.integers(1, 3), extra=st.integers(1, 3), inputs=st.integers(1, 11), seed=st.integers(0, 2**16))
def test_n_of_every_m_inputs_stay_and_they_are_the_largest(n, extra, inputs, seed):
    m = n + extra
    weight = torch.randn(3, inputs, generator=torch.Generator().manual_seed(seed))
    if inputs <= n:
        with pytest.raises(CompressionError, match=f"has {inputs} inputs"):
            NMPrune(n, m).compress(linear(weight))
        return
    pruned = NMPrune(n, m).compress(linear(weight)).weight
    for before, after in zip(groups_of(weight, 1, m), groups_of(pruned, 1, m), strict=True):
        kept = min(n, before.shape[1])
        assert torch.equal(after.abs().sort(1, descending=True).values[:, :kept], before.abs().topk(kept, 1).values)
        assert torch.equal(after[after != 0], before[after != 0])
        assert bool(((after != 0).sum(1) == kept).all())


def test_of_equal_neighbours_the_first_stay():
    assert NMPrune(2, 4).compress(linear(torch.ones(1, 6))).weight[0].tolist() == [1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("layer", "dimension"),
    [
        (nn.Conv1d(8, 6, 3), 1),
        (nn.Conv2d(16, 6, 3, groups=2), 1),
        (nn.Conv3d(8, 2, 2), 1),
        (nn.ConvTranspose2d(8, 6, 3), 0),
        (nn.LSTM(8, 4), 1),
        (nn.MultiheadAttention(8, 2), 1),
    ],
)
def test_the_pattern_runs_over_the_inputs_of_every_kind_of_layer(layer, dimension):
    candidate = NMPrune(2, 4).compress(layer)
    weights = [value for name, value in candidate.named_parameters() if "weight" in name]
    assert weights
    for weight in weights:
        assert all(bool(((group != 0).sum(1) == 2).all()) for group in groups_of(weight, dimension, 4))


def test_groups_of_a_transposed_convolution_do_not_share_neighbours():
    torch.manual_seed(0)
    weight = NMPrune(1, 4).compress(nn.ConvTranspose1d(6, 4, 1, groups=2)).weight  # 3 inputs in each group
    assert bool(((weight.view(2, 3, 2) != 0).sum(1) == 1).all())


def test_depthwise_convolutions_are_named_and_left_alone():
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))
    candidate = NMPrune().compress(model)
    assert torch.equal(candidate[0].weight, model[0].weight)
    skipped = compression_report(model, candidate).skipped
    assert [(skip.name, skip.reason) for skip in skipped] == [("0.weight", "each output has 1 inputs, and 2 stay")]


@pytest.mark.parametrize(
    "scheme", [NMPrune(), BlockPrune(0.25, (4, 4), scope="layer"), BlockPrune(0.5, (1, 8), "mean", "layer")]
)
@pytest.mark.parametrize("network", [TokenLSTM, TinyTransformer])
def test_every_weight_of_other_networks_is_found_and_the_model_is_untouched(scheme, network):
    model = make(network)
    before = bits(model)
    candidate = scheme.compress(model)
    assert same_bits(before, bits(model))
    report = compression_report(model, candidate)
    matrices = {name for name, value in model.named_parameters() if value.ndim > 1}
    changed = {layer.name for layer in report.layers if layer.changed}
    assert matrices <= changed | {skip.name for skip in report.skipped}
    assert parse_scheme(str(scheme)) == scheme


def test_patterns_outlive_saving_and_pruning_further(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    candidate = (NMPrune(2, 4) | Prune(0.3)).compress(model)
    save(candidate, tmp_path / "model.cp")
    weight = load(tmp_path / "model.cp", model)[0].weight
    assert torch.equal(weight, candidate[0].weight)
    assert all(bool(((group != 0).sum(1) <= 2).all()) for group in groups_of(weight, 1, 4))


@pytest.mark.parametrize("scheme", [NMPrune(), BlockPrune(0.5, (2, 2))])
def test_what_cannot_be_pruned_is_refused(scheme):
    with pytest.raises(CompressionError, match="changes nothing"):
        scheme.compress(scheme.compress(nn.Linear(8, 8)))
    with pytest.raises(CompressionError, match="int8 must be the last step"):
        scheme.compress(Quantize("int8").compress(nn.Linear(8, 8)))
    with pytest.raises(CompressionError, match="no weight matrix"):
        scheme.compress(nn.ReLU())
    broken = nn.Linear(8, 8)
    broken.weight.data[0, 0] = torch.nan
    with pytest.raises(CompressionError, match="NaN"):
        scheme.compress(broken)


@pytest.mark.parametrize(
    ("kind", "arguments", "name"),
    [
        (BlockPrune, {"density": 0, "block_size": (2, 2)}, "density"),
        (BlockPrune, {"density": 0.5, "block_size": 2}, "block_size"),
        (BlockPrune, {"density": 0.5, "block_size": (2, 0)}, "block_size"),
        (BlockPrune, {"density": 0.5, "block_size": (1, 1)}, "block_size"),
        (BlockPrune, {"density": 0.5, "block_size": "22"}, "block_size"),
        (BlockPrune, {"density": 0.5, "block_size": (2, 2), "norm": "linf"}, "norm"),
        (BlockPrune, {"density": 0.5, "block_size": (2, 2), "scope": "model"}, "scope"),
        (NMPrune, {"n": 4, "m": 4}, "n"),
        (NMPrune, {"n": 0, "m": 4}, "n"),
        (NMPrune, {"n": 1, "m": 1}, "m"),
        (NMPrune, {"n": 1.5, "m": 4}, "n"),
    ],
)
def test_arguments_out_of_range_are_refused(kind, arguments, name):
    with pytest.raises(InvalidArgumentError, match=rf"{kind.__name__}\({name}="):
        kind(**arguments)


@pytest.mark.parametrize("first", [NMPrune(), BlockPrune(0.5, (4, 4))])
def test_channels_are_removed_before_a_pattern_is_made(first):
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 4))
    shrink = FilterPrune(0.5, example_shape=(8, 8, 8))
    with pytest.raises(CompressionError, match="remove channels first"):
        (first | shrink).compress(model)
    candidate = (shrink | first).compress(model)
    assert candidate[0].out_channels == 8
    zeroed = (first | FilterPrune(0.5, shrink=False, example_shape=(8, 8, 8))).compress(model)
    assert int((zeroed[0].weight != 0).flatten(1).any(1).sum()) == 8
