"""Several formats in one model, recurrent layers and tables as integers, and what copies of them are."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torchvision
from model_networks import CifarResNet, SmallCNN, TiedAutoencoder, TokenLSTM, bits, inputs_for, make, same_bits
from torch import nn

from cp_compress.base.errors import CompressionError
from cp_compress.model import (
    FixedPoint,
    Prune,
    Quantize,
    compression_report,
    footprint,
    load,
    parse_scheme,
    save,
)


def test_formats_are_mixed_by_name_and_type(tmp_path):
    model, images = make(CifarResNet), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    scheme = parse_scheme(
        "quantize(int8, include=('layer1.*',)) | quantize(int4, group_size=16, include=('layer2.*', 'layer3.*'))"
        " | fixed_point(bits=12, include=('type:Linear',)) | quantize(float16)"
    )
    candidate = scheme.compress(model)
    report = {layer.name: layer for layer in compression_report(model, candidate).layers}
    assert report["layer1.0.conv1.weight"].dtype_after == "int8"
    assert report["layer2.0.conv1.weight"].dtype_after == "int4"
    assert report["linear.weight"].dtype_after == "fixed12"
    assert report["conv1.weight"].dtype_after == report["bn1.bias"].dtype_after == "float16"
    with torch.no_grad():
        expected = copy.deepcopy(model)
        for name in report:
            path, _, attribute = name.rpartition(".")
            dict(expected.named_parameters())[name].copy_(getattr(candidate.get_submodule(path), attribute))
        torch.testing.assert_close(candidate(images), expected(images), rtol=1e-5, atol=1e-5)
        save(candidate, tmp_path / "model.cp")
        loaded = load(tmp_path / "model.cp", make(CifarResNet, seed=2))
        assert same_bits(bits(loaded), bits(candidate))
        assert torch.equal(loaded(images), candidate(images))
    assert footprint(candidate).parameters == footprint(model).parameters


def test_a_layer_is_quantised_once_and_the_rest_may_follow():
    model = make(SmallCNN)
    first = Quantize("int8", include="features.0")
    with pytest.raises(CompressionError, match=r"features\.0 holds int8 weights already"):
        (first | Quantize("int4")).compress(model)
    with pytest.raises(CompressionError, match="pattern 'nowhere' matches no layer"):
        (first | Quantize("int4", include="nowhere")).compress(model)
    with pytest.raises(CompressionError, match=r"first: features\.0, int8"):
        (first | Prune(0.5)).compress(model)
    for rest in (Quantize("int4", exclude="features.0"), Quantize("int4", include="type:*", exclude="*.0")):
        candidate = (first | rest).compress(model)
        assert candidate.features[3].weight_int4.dtype == torch.uint8
        assert candidate.features[0].weight_int8.dtype == torch.int8
    skips = {skip.name: skip.reason for skip in compression_report(model, candidate).skipped}
    assert skips["features.0.weight"] == "integers already"
    with pytest.raises(CompressionError, match="no weight to quantise"):
        (Quantize("int8") | Quantize("int4", exclude="*")).compress(model)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("scheme", [Quantize("int8"), Quantize("int4", group_size=2), FixedPoint(12)])
def test_recurrent_layers_compute_with_their_integers(kind, scheme, tmp_path):
    torch.manual_seed(0)
    model = kind(5, 4, num_layers=2, bidirectional=True, batch_first=True)
    inputs = torch.randn(3, 7, 5, requires_grad=True)
    candidate = scheme.compress(model)
    same = kind(5, 4, num_layers=2, bidirectional=True, batch_first=True)
    with torch.no_grad():
        for name, tensor in same.named_parameters():
            tensor.copy_(getattr(candidate, name))
    torch.testing.assert_close(candidate(inputs)[0], same(inputs)[0])
    packed = nn.utils.rnn.pack_padded_sequence(inputs, [7, 5, 2], batch_first=True)
    torch.testing.assert_close(candidate(packed)[0].data, same(packed)[0].data)
    candidate.flatten_parameters()
    candidate(inputs)[0].sum().backward()
    assert inputs.grad.abs().sum() > 0
    assert candidate.bias_ih_l0.grad.abs().sum() > 0
    assert all("weight" not in name for name, _ in candidate.named_parameters())
    double = copy.deepcopy(candidate).double()
    torch.testing.assert_close(double(inputs.double())[0], same.double()(inputs.double())[0])
    save(candidate, tmp_path / "model.cp")
    loaded = load(tmp_path / "model.cp", model)
    for other in (loaded, pickle.loads(pickle.dumps(candidate)), copy.deepcopy(candidate)):
        assert torch.equal(other(inputs)[0], candidate(inputs)[0])
        with torch.no_grad():
            other.weight_hh_l0_scale.zero_()
        assert not torch.equal(other(inputs)[0], candidate(inputs)[0])


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_recurrent_cells(kind):
    cell = kind(5, 4)
    candidate = Quantize("int8").compress(cell)
    same = copy.deepcopy(cell)
    with torch.no_grad():
        for name, tensor in same.named_parameters():
            tensor.copy_(getattr(candidate, name))
    outputs = [layer(torch.ones(2, 5)) for layer in (candidate, same)]
    torch.testing.assert_close(outputs[0], outputs[1])


def test_tables_are_quantised_by_rows_where_they_are_named():
    model, tokens = make(TokenLSTM), inputs_for(TokenLSTM)
    assert isinstance(Quantize("int8").compress(model).table.weight, nn.Parameter)
    candidate = Quantize("int8", include=("table",)).compress(model)
    assert candidate.table.weight_int8.shape == (11, 6)
    assert candidate.table.weight_scale.shape == (11, 1)
    assert torch.equal(candidate.table(tokens), candidate.table.weight[tokens])
    bounded = nn.Sequential(nn.Embedding(3, 2, max_norm=1.0))
    with pytest.raises(CompressionError, match="max_norm changes its table"):
        Quantize("int8", include="0").compress(bounded)


@pytest.mark.parametrize("scheme", [Quantize("int4", group_size=4), Quantize("int4", "dynamic"), FixedPoint(3)])
def test_copies_state_dicts_and_types(scheme):
    model, images = make(SmallCNN), inputs_for(SmallCNN)
    candidate = scheme.compress(model)
    fresh = scheme.compress(make(SmallCNN, seed=5))
    fresh.load_state_dict(candidate.state_dict())
    for other in (copy.deepcopy(candidate), pickle.loads(pickle.dumps(candidate)), fresh):
        assert type(other.classifier).__name__ == type(candidate.classifier).__name__
        assert same_bits(bits(other), bits(candidate))
        assert torch.equal(other(images), candidate(images))
    assert isinstance(candidate.classifier, nn.Linear)
    assert str(3 if isinstance(scheme, FixedPoint) else 4) in repr(candidate.classifier)
    assert same_bits(bits(scheme.compress(model)), bits(candidate))
    candidate.double()
    assert candidate.classifier.weight.dtype == torch.float64
    exported = torch.export.export(scheme.compress(model), (images,)).module()
    torch.testing.assert_close(exported(images), scheme.compress(model)(images))


def test_tied_weights_share_their_integers_in_four_bits(tmp_path):
    candidate = Quantize("int4").compress(make(TiedAutoencoder))
    assert candidate.first.weight_int4 is candidate.second.weight_int4
    save(candidate, tmp_path / "model.cp")
    loaded = load(tmp_path / "model.cp", make(TiedAutoencoder, seed=3))
    assert loaded.first.weight_int4 is loaded.second.weight_int4
    assert footprint(loaded).parameters == footprint(make(TiedAutoencoder)).parameters


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("scheme", [Quantize("int4"), FixedPoint(8)])
def test_weights_that_are_not_finite_are_refused(scheme, value):
    layer = nn.Linear(3, 3)
    layer.weight.data[1, 1] = value
    with pytest.raises(CompressionError, match="weight holds NaN or Inf"):
        scheme.compress(layer)


class Wide(nn.Module):
    """A little over a million weights, most of them in layers of every kind."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(64, 256, 3)
        self.up = nn.ConvTranspose2d(64, 256, 4)
        self.lstm = nn.LSTM(160, 160)
        self.head = nn.Linear(512, 1024)


@pytest.mark.parametrize(
    ("scheme", "weight_bits"),
    [
        (Quantize("int8"), 8),
        (Quantize("int8", group_size=64), 8),
        (Quantize("int4"), 4),
        (Quantize("int4", group_size=32), 4),
        (FixedPoint(4), 4),
        (FixedPoint(2), 2),
        (FixedPoint(12), 16),
    ],
)
def test_files_and_memory_take_the_packed_bytes(scheme, weight_bits, tmp_path):
    torch.manual_seed(0)
    model = Wide()
    candidate = scheme.compress(model)
    weights = sum(tensor.numel() for tensor in model.parameters() if tensor.ndim > 1)
    assert weights > 1_000_000
    biases = sum(tensor.numel() for tensor in model.parameters() if tensor.ndim == 1)
    scales = sum(tensor.numel() for name, tensor in candidate.named_buffers() if name.endswith("_scale"))
    packed = weights * weight_bits / 8 + 4 * (biases + scales)
    after = footprint(candidate)
    assert after.artifact_bytes <= 1.05 * packed
    assert after.resident_bytes == packed
    assert after.parameters == footprint(model).parameters


def test_a_pruned_model_takes_a_bitmask_and_its_values(tmp_path):
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None)
    candidate = Prune(0.3).compress(model)
    tensors = [tensor for _, tensor in [*candidate.named_parameters(), *candidate.named_buffers()]]
    bound = sum(tensor.numel() / 8 + int(tensor.count_nonzero()) * tensor.element_size() for tensor in tensors)
    save(candidate, tmp_path / "model.cp")
    assert (tmp_path / "model.cp").stat().st_size <= 1.05 * bound
    assert same_bits(bits(load(tmp_path / "model.cp", model)), bits(candidate))
