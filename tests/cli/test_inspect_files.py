"""`cp-compress inspect` tells what a file holds: tensors, dtypes, bytes, steps and metadata, and runs nothing of it."""

import json
import re

import numpy
import pytest
import safetensors.torch
import torch
from command import read, run
from torch import nn

import cp_compress
from cp_compress.artifacts.contents import describe_contents


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    cp_compress.save(cp_compress.compress(model, "prune(density=0.25) | quantize(int8)"), folder / "model.cp")
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors", metadata={"who": "me"})
    torch.save({"model": model.state_dict(), "epoch": 3}, folder / "model.pt")
    torch.save(model, folder / "whole.pt")
    numpy.savez(folder / "data.npz", inputs=numpy.zeros((5, 6), "float32"), labels=numpy.arange(5))
    (folder / "damaged.cp").write_bytes((folder / "model.cp").read_bytes()[:-3])
    return folder


def rows(found):
    return {one["name"]: (one["dtype"], tuple(one["shape"]), one["bytes"], one["nonzero"]) for one in found["tensors"]}


def test_a_compressed_model_tells_its_steps_and_how_much_is_left(folder, capsys):
    code, found = read(capsys, "inspect", str(folder / "model.cp"))
    assert code == 0
    assert (found["kind"], found["bytes"]) == ("cp", (folder / "model.cp").stat().st_size)
    assert found["facts"]["made by"] == "prune(density=0.25) | quantize(int8)"
    assert found["facts"]["says which weights it was made from"] == "yes"
    kept = [row[3] for name, row in rows(found).items() if name.endswith("weight_int8")]
    assert sum(kept) <= round(0.25 * (6 * 8 + 8 * 3))
    assert rows(found)["0.weight_int8"][:2] == ("int8", (8, 6))


def test_tensors_of_other_files(folder, capsys):
    _, found = read(capsys, "inspect", str(folder / "model.safetensors"))
    assert found["facts"] == {"metadata: who": "me"}
    assert rows(found)["0.weight"] == ("float32", (8, 6), 8 * 6 * 4, None)
    _, found = read(capsys, "inspect", str(folder / "model.pt"))
    assert rows(found)["model.2.bias"] == ("float32", (3,), 12, None)
    assert found["facts"]["other entries"] == "epoch"
    _, found = read(capsys, "inspect", str(folder / "data.npz"))
    assert {name: row[:2] for name, row in rows(found).items()} == {
        "inputs": ("float32", (5, 6)),
        "labels": ("int64", (5,)),
    }
    _, out, _ = run(capsys, "inspect", str(folder / "model.safetensors"))
    assert re.search(r"^float32 +4 tensors of 83 values$", out, re.MULTILINE)
    assert all(len(line) <= 80 for line in out.splitlines())


def test_an_onnx_graph_tells_inputs_operators_and_metadata(tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    helper, numbers = onnx.helper, onnx.TensorProto
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    ends = [helper.make_tensor_value_info(name, numbers.FLOAT, ["n", size]) for name, size in (("x", 4), ("y", 2))]
    weight = onnx.numpy_helper.from_array(numpy.ones((4, 2), "float32"), "w")
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], [weight]), producer_name="me")
    helper.set_model_props(model, {"trained": "today"})
    onnx.save(model, tmp_path / "model.onnx")
    code, found = read(capsys, "inspect", str(tmp_path / "model.onnx"))
    assert code == 0
    assert rows(found) == {"w": ("float32", (4, 2), 32, None)}
    assert found["facts"]["inputs"] == "x float32 (n, 4)"
    assert found["facts"]["operators"] == "1 MatMul"
    assert found["facts"]["metadata: trained"] == "today"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("whole.pt", "which can run any code, and are refused"),
        ("damaged.cp", "is damaged"),
        ("modle.cp", "there is no such file; did you mean model.cp?"),
    ],
)
def test_what_cannot_be_told_is_refused(folder, capsys, name, told):
    code, _, error = run(capsys, "inspect", str(folder / name))
    assert code == (2 if name == "modle.cp" else 4)
    assert told in error


def test_a_description_is_short_and_whole(folder):
    found = describe_contents(folder / "model.cp")
    assert len(repr(found)) < 1000
    assert json.loads(json.dumps(found.to_json()))["kind"] == "cp"
