"""Unstructured pruning: which weights stay, where they are found, and what is refused."""

from __future__ import annotations

import pytest
import torch
from model_networks import TiedAutoencoder, TinyTransformer, TokenLSTM, bits, make, same_bits
from torch import nn

from cp_compress.base.errors import CompressionError, InvalidArgumentError
from cp_compress.model import Prune, compression_report


def ramp(count, rows=1):
    layer = nn.Linear(count // rows, rows, bias=False)
    layer.weight.data = torch.arange(count, dtype=torch.float32).view(rows, -1)
    return layer


@pytest.mark.parametrize(("density", "first"), [(0.2, 24), (0.3, 21), (0.5, 15)])
def test_condensas_survivors(density, first):
    kept = Prune(density).compress(ramp(30)).weight.view(-1).nonzero().view(-1)
    assert kept.tolist() == list(range(first, 30))


@pytest.mark.parametrize(("density", "count"), [(0.29, 29), (0.145, 15), (0.001, 1), (0.005, 1), (0.994, 99)])
def test_the_count_is_rounded_to_nearest_and_never_zero(density, count):
    layer = ramp(100)
    layer.weight.data += 1
    assert Prune(density).compress(layer).weight.count_nonzero() == count


def test_equal_weights_are_kept_first_by_index():
    layer = nn.Linear(8, 1)
    layer.weight.data.fill_(-0.5)
    assert Prune(0.25).compress(layer).weight.view(-1).nonzero().view(-1).tolist() == [0, 1]


def test_ties_across_layers_follow_named_parameters():
    model = nn.Sequential(nn.Linear(4, 1), nn.Linear(4, 1))
    for layer in model:
        layer.weight.data.fill_(1)
    pruned = Prune(0.75).compress(model)
    assert [layer.weight.count_nonzero().item() for layer in pruned] == [4, 2]


def test_layer_scope_counts_each_layer_by_itself():
    model = nn.Sequential(ramp(10), ramp(20))
    model[1].weight.data *= 1000
    assert [layer.weight.count_nonzero().item() for layer in Prune(0.4, "layer").compress(model)] == [4, 8]


def every_kind():
    return nn.ModuleDict(
        {
            "linear": nn.Linear(4, 3),
            "conv1": nn.Conv1d(2, 3, 3),
            "conv2": nn.Conv2d(2, 4, 3, groups=2),
            "conv3": nn.Conv3d(1, 2, 2),
            "up": nn.ConvTranspose2d(2, 3, 3),
            "attention": nn.MultiheadAttention(4, 2),
            "cross": nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True),
            "lstm": nn.LSTM(3, 4, proj_size=2),
            "gru": nn.GRUCell(3, 4),
            "bilinear": nn.Bilinear(2, 3, 4),
            "table": nn.Embedding(5, 4),
            "norm": nn.LayerNorm((2, 3)),
        }
    )


WEIGHTS = [
    *("linear.weight", "conv1.weight", "conv2.weight", "conv3.weight", "up.weight"),
    *("attention.in_proj_weight", "attention.out_proj.weight"),
    *("cross.q_proj_weight", "cross.k_proj_weight", "cross.v_proj_weight", "cross.out_proj.weight"),
    *("lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.weight_hr_l0", "gru.weight_ih", "gru.weight_hh"),
    "bilinear.weight",
]


def test_every_weight_matrix_is_found_and_everything_else_named():
    model = every_kind()
    report = compression_report(model, Prune(0.5, "layer").compress(model))
    assert {layer.name for layer in report.layers if layer.changed} == set(WEIGHTS)
    skipped = {skip.name: skip.reason for skip in report.skipped}
    assert set(skipped) == {"cross.bias_k", "cross.bias_v", "table.weight", "norm.weight", "norm.bias"}
    assert "looked up" in skipped["table.weight"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_dtypes(dtype):
    model = make(TinyTransformer).to(dtype)
    pruned = Prune(0.3).compress(model)
    wanted = [tensor for name, tensor in pruned.named_parameters() if "position" not in name and tensor.ndim > 1]
    total = sum(parameter.numel() for parameter in wanted)
    assert sum(int(parameter.count_nonzero()) for parameter in wanted) == int(0.3 * total + 0.5)
    assert all(parameter.dtype == dtype for parameter in pruned.parameters())


def test_tied_weights_are_counted_once_and_stay_tied():
    model = make(TiedAutoencoder)
    pruned = Prune(0.5).compress(model)
    assert pruned.first.weight is pruned.second.weight
    assert pruned.alias is pruned.first
    nonzero = pruned.first.weight.count_nonzero() + pruned.head.weight.count_nonzero()
    assert nonzero == (36 + 18) // 2


def test_a_weight_tied_to_an_embedding_is_pruned():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    model[1].weight = model[0].weight
    pruned = Prune(0.5).compress(model)
    assert pruned[0].weight is pruned[1].weight
    assert pruned[0].weight.count_nonzero() == 10


def test_an_lstm_computes_with_its_pruned_weights():
    model = make(TokenLSTM)
    pruned = Prune(0.2, "layer").compress(model)
    fresh = make(TokenLSTM, seed=3)
    fresh.load_state_dict(pruned.state_dict())
    tokens = torch.arange(6).view(2, 3)
    assert torch.equal(pruned(tokens), fresh(tokens))
    assert not torch.equal(pruned(tokens), model(tokens))


def test_patterns_choose_layers():
    model = nn.Sequential(nn.Sequential(ramp(10), ramp(10)), ramp(10))
    chosen = Prune(0.2, include="0.*", exclude=("0.1",)).compress(model)
    assert [chosen.get_submodule(path).weight.count_nonzero().item() for path in ("0.0", "0.1", "1")] == [2, 9, 9]
    assert Prune(0.2, include="0.*") == Prune(0.2, include=("0.*",))


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_without_effect_is_an_error(option):
    with pytest.raises(CompressionError, match=r"pattern 'layr1\.\*' matches no layer"):
        Prune(0.5, **{option: "layr1.*"}).compress(nn.Sequential(nn.Linear(3, 3)))


def test_a_layer_left_empty_is_named():
    model = nn.Sequential(ramp(10), ramp(10))
    model[0].weight.data /= 1e6
    with pytest.raises(CompressionError, match=r"0\.weight"):
        Prune(0.2).compress(model)
    Prune(0.2, "layer").compress(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight.data[0, 0] = value
    with pytest.raises(CompressionError, match=r"1\.weight holds NaN or Inf"):
        Prune(0.5).compress(model)


def test_a_model_without_weights_is_refused():
    with pytest.raises(CompressionError, match="no weight matrix"):
        Prune(0.5).compress(nn.Sequential(nn.LayerNorm(3), nn.Embedding(3, 3)))


def test_pruning_what_is_sparser_already_is_refused():
    sparse = Prune(0.2).compress(ramp(100))
    with pytest.raises(CompressionError, match="changes nothing"):
        Prune(0.5).compress(sparse)


def test_a_lazy_model_is_refused():
    with pytest.raises(CompressionError, match="lazy"):
        Prune(0.5).compress(nn.LazyLinear(3))


def test_a_model_that_cannot_be_copied_is_refused():
    model = nn.Linear(2, 2)
    model.cached = model.weight * 2
    with pytest.raises(CompressionError, match="cannot be copied"):
        Prune(0.5).compress(model)


def test_density_one_keeps_everything():
    model = ramp(30)
    assert same_bits(bits(Prune(1).compress(model)), bits(model))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 1.4}, r"Prune\(density=1.4\): density is the kept share of weights and must lie in \(0, 1\]"),
        ({"density": 0}, "density"),
        ({"density": float("nan")}, "density"),
        ({"density": "0.5"}, "density"),
        ({"density": 0.5, "scope": "filter"}, "scope"),
        ({"density": 0.5, "include": 3}, "include"),
        ({"density": 0.5, "exclude": ("",)}, "exclude"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Prune(**arguments)


def test_a_report_in_the_wrong_order_is_refused():
    model = nn.Linear(4, 4)
    with pytest.raises(InvalidArgumentError, match="swapped"):
        compression_report(Prune(0.5).compress(model), model)
