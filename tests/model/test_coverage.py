"""What share of its reference a candidate changed: of schemes, and of candidates from elsewhere."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_networks import Wrapped
from torch import nn
from torch.nn.utils import prune

from cp_compress.artifacts import load_onnx
from cp_compress.model import LowRank, Prune, Quantize, compression_report, measure_coverage
from cp_compress.model.coverage import _amount


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def test_only_what_changed_counts():
    model = network()
    found = measure_coverage(Quantize("int8", include="4").compress(model), model)
    assert (found.layers, found.changed_layers, found.weights, found.changed_weights) == (3, 1, 448, 64)
    assert str(found) == "1 of 3 layers, 14 % of weights"
    assert [(one.name, one.reason) for one in found.unchanged] == [
        ("2.weight", "matched by no pattern of include"),
        ("0.weight", "matched by no pattern of include"),
    ]
    assert "unchanged, largest first: 2.weight (matched" in found.notes[0]
    assert measure_coverage(model, copy.deepcopy(model)).share == 0
    assert measure_coverage(Quantize("float16").compress(model), model).notes == ()


def test_each_step_is_told_least_first():
    model = network()
    candidate = Prune(0.5, "layer") | Quantize("int8", include="4")
    found = measure_coverage(candidate.compress(model), model)
    assert found.share == 1
    assert [step.layers for step in found.steps] == [1, 3]
    assert found.step_texts[0].endswith(": 1 of 3 layers, 14 % of weights")
    assert found.step_texts[0] in str(compression_report(model, candidate.compress(model)))
    factors = LowRank(rank=2, include="2") | Quantize("int8")
    assert [step.layers for step in measure_coverage(factors.compress(model), model).steps] == [1, 3]


def test_wrappers_are_looked_into():
    model = network()
    candidate = Quantize("int8", include="4").compress(model)
    expected = measure_coverage(candidate, model)
    for pair in (
        (Wrapped(candidate), model),
        (candidate, Wrapped(model)),
        (Wrapped(Wrapped(candidate)), Wrapped(model)),
    ):
        found = measure_coverage(*pair)
        assert (found.changed_layers, found.changed_weights) == (expected.changed_layers, expected.changed_weights)
    around = copy.deepcopy(model)
    around[2] = Wrapped(around[2])  # the same weight under another name
    assert measure_coverage(around, model).share == 0


def test_packed_weights_and_tensor_subclasses_are_read():
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            packed = torch.ao.quantization.quantize_dynamic(model, {"4"}, torch.qint8)
        except (AttributeError, RuntimeError) as error:
            pytest.skip(f"torch.ao cannot quantise here: {error}")
    assert str(measure_coverage(packed, model)) == "1 of 3 layers, 14 % of weights"
    quantization = pytest.importorskip("torchao.quantization")
    candidate = copy.deepcopy(model)
    config = quantization.Int8WeightOnlyConfig()
    quantization.quantize_(candidate, config, filter_fn=lambda layer, path: path == "2")
    found = measure_coverage(candidate, model)
    assert (found.changed_layers, found.changed_weights) == (1, 256)


def test_unknown_is_said():
    model = network()
    renamed = nn.ModuleDict({f"layer{path}": part for path, part in Quantize("int8").compress(model).named_children()})
    for candidate in (lambda batch: batch, renamed, nn.Linear(8, 4), model.forward):
        found = measure_coverage(candidate, model)
        assert found.share is None
        assert found.changed_weights is None
        assert str(found).startswith("coverage unknown: ")
        assert found.to_json()["share"] is None
    assert measure_coverage(model, lambda batch: batch).share is None

    class Opaque(nn.Module):
        def forward(self, inputs):
            return inputs[:, :4]

    hidden = copy.deepcopy(model)
    hidden[2] = Opaque()
    assert measure_coverage(hidden, model).share is None


@torch.no_grad()
def test_dtypes_in_an_onnx_file_tell_what_is_narrower(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model = network()
    nodes, tensors, last = [], [], "x"
    for position, layer in enumerate(model):
        if isinstance(layer, nn.ReLU):
            nodes.append(onnx.helper.make_node("Relu", [last], [f"y{position}"]))
        else:
            values = layer.weight.t().contiguous()
            narrow = position == 2
            name = f"w{position}"
            tensors.append(onnx.numpy_helper.from_array((values.half() if narrow else values).numpy(), name))
            if narrow:
                nodes.append(onnx.helper.make_node("Cast", [name], [f"{name}c"], to=onnx.TensorProto.FLOAT))
            nodes.append(onnx.helper.make_node("MatMul", [last, f"{name}c" if narrow else name], [f"y{position}"]))
        last = f"y{position}"
    sides = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", width])
        for name, width in (("x", 8), (last, 4))
    ]
    graph = onnx.helper.make_graph(nodes, "network", sides[:1], sides[1:], tensors)
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "model.onnx")
    found = measure_coverage(load_onnx(tmp_path / "model.onnx"), model)
    assert str(found) == "1 of 3 layers, 57 % of weights"
    assert found.unchanged[0].name == "2 tensors of float32"
    del made.graph.node[:], made.graph.initializer[:]
    made.graph.node.extend([onnx.helper.make_node("MatMul", ["x", "w"], [last])])
    made.graph.initializer.extend([onnx.numpy_helper.from_array(torch.ones(8, 4).numpy(), "w")])
    onnx.save(made, tmp_path / "wide.onnx")
    wide = load_onnx(tmp_path / "wide.onnx")
    assert "does not tell whether values changed" in str(measure_coverage(wide, model))
    assert str(measure_coverage(load_onnx(tmp_path / "model.onnx"), wide)) == "1 of 3 layers, 57 % of weights"


def test_a_removed_or_factorised_layer_is_changed():
    model = nn.ModuleDict({"body": network(), "side": nn.Linear(4, 4)})
    without = nn.ModuleDict({"body": copy.deepcopy(model["body"])})
    found = measure_coverage(without, model)
    assert (found.changed_layers, found.changed_weights) == (1, 16)
    factors = copy.deepcopy(network())
    factors[2] = nn.Sequential(nn.Linear(16, 2, bias=False), nn.Linear(2, 16))
    assert measure_coverage(factors, network()).changed_layers == 1


def test_pruning_of_torch_and_recurrent_layers_are_read():
    model = nn.ModuleDict({"rnn": nn.LSTM(4, 6), "head": nn.Linear(6, 2)})
    candidate = copy.deepcopy(model)
    prune.l1_unstructured(candidate["head"], "weight", 0.5)
    found = measure_coverage(candidate, model)
    assert (found.layers, found.changed_layers, found.changed_weights) == (2, 1, 12)
    assert measure_coverage(Quantize("int8").compress(model), model).share == 1


@given(st.integers(1, 10**6), st.data())
def test_only_all_reads_as_all(total, data):
    changed = data.draw(st.integers(0, total))
    text = _amount(1, 1, changed / total)
    assert ("100 %" in text) == (changed == total)
    assert text.endswith(" 0 % of weights") == (changed == 0)
