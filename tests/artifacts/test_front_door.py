"""A model comes back from each kind of file as what it was, told by content, and goes through an observation."""

import pickle
import sys

import pytest
import torch
from onnx_graphs import write_mlp
from safetensors.torch import save as serialize
from safetensors.torch import save_file, save_model
from torch import nn

import cp_compress
from cp_compress import artifacts
from cp_compress.artifacts import ProgramModel, load_onnx, load_safetensors, read_artifact
from cp_compress.base import errors
from cp_compress.base.digests import digest_model
from cp_compress.base.errors import ArtifactError, InvalidArgumentError, ObservationError
from cp_compress.base.identity import identify
from cp_compress.fidelity import compare_predictions, observe
from cp_compress.model import Prune, save


def make_mlp(seed=0, dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).to(dtype).eval()


@pytest.fixture
def inputs():
    return torch.randn(23, 6, generator=torch.Generator().manual_seed(1))


def test_safetensors(tmp_path, inputs):
    model = make_mlp(1)
    path = tmp_path / "misnamed.onnx"
    save_file(model.state_dict(), path)
    for read in (load_safetensors(path, make_mlp), read_artifact(path, factory=make_mlp)):
        assert digest_model(read) == digest_model(model)
        assert torch.equal(read(inputs), model(inputs))


@pytest.mark.parametrize("length", [128, 384, 0x8080])
def test_safetensors_that_begin_as_a_pickle_does(tmp_path, inputs, length):
    """The first byte of 0x80 is that of the length of the header, whose end may be blank."""
    model, path = make_mlp(1), tmp_path / "model.safetensors"
    state = {"weight": torch.ones(2, 3)} if length == 128 else model.state_dict()
    content = serialize(state)
    end = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes(length.to_bytes(8, "little") + content[8:end].ljust(length) + content[end:])
    assert path.read_bytes()[:1] == b"\x80"
    read = read_artifact(path, factory=make_mlp if length > 128 else lambda: nn.Linear(3, 2, bias=False))
    assert all(torch.equal(value, state[name]) for name, value in read.state_dict().items())


@pytest.mark.parametrize("proto", [2, 4])
def test_pickles_with_a_brace_in_ninth_place_stay_pickles(tmp_path, proto):
    path = tmp_path / "model.pt"
    path.write_bytes(b"\x80" + bytes([proto]) + b"NNNNNN{" + pickle.dumps(1))
    with pytest.raises(ArtifactError, match="pickles, which can run any code"):
        read_artifact(path, factory=make_mlp)


@pytest.mark.parametrize("batch", ["n", 1, 4, 64])
def test_onnx(tmp_path, inputs, batch):
    model = make_mlp(1)
    path = write_mlp(tmp_path / "model.bin", [model[0], model[2]], batch)
    read = read_artifact(path)
    torch.testing.assert_close(read(inputs), model(inputs))
    assert digest_model(read) == digest_model(load_onnx(path)) is not None


def test_cp(tmp_path, inputs):
    candidate = Prune(0.5).compress(make_mlp(1))
    save(candidate, tmp_path / "model.cp")
    read = read_artifact(tmp_path / "model.cp", factory=make_mlp)
    assert torch.equal(read(inputs), candidate(inputs))


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_surplus_rows_are_told_and_not_cut_off(tmp_path, kind, size):
    """A model for batches of one size that gives two rows for each input."""
    model = nn.Sequential(nn.Linear(6, 6), nn.Unflatten(1, (2, 3)), nn.Flatten(0, 1)).eval()
    path = tmp_path / f"model.{kind}"
    if kind == "pt2":
        torch.export.save(torch.export.export(model, (torch.zeros(size, 6),)), path)
    else:
        write_mlp(path, [model[0]], size, rows=(-1, 3))
    data = torch.randn(8, 6), torch.arange(8) % 3
    with pytest.raises(ObservationError, match=rf"batch of {size} inputs the output has shape \({2 * size}, 3\)"):
        observe(read_artifact(path), data).logits  # noqa: B018


PROGRAM = """
import sys, numpy
inputs, weights = numpy.load(sys.argv[1]), numpy.load(sys.argv[3])
numpy.save(sys.argv[2], inputs @ weights.T)
"""


def test_a_program(tmp_path, inputs):
    import numpy

    weight = make_mlp()[2].weight.detach()[:, :6]
    numpy.save(tmp_path / "weights.npy", weight.numpy())
    (tmp_path / "run.py").write_text(PROGRAM)
    command = [sys.executable, tmp_path / "run.py", "{input}", "{output}", tmp_path / "weights.npy"]
    model = ProgramModel(command)
    torch.testing.assert_close(model(inputs), inputs @ weight.T)
    again = ProgramModel(command)
    assert digest_model(again) == digest_model(model)
    numpy.save(tmp_path / "weights.npy", weight.numpy() + 1)
    assert digest_model(ProgramModel(command)) != digest_model(model)
    with pytest.raises(ArtifactError, match=r"weights.npy: has changed"):
        model(inputs)


def test_adapters_are_observed_as_the_models_they_were_made_from(tmp_path, inputs):
    model = make_mlp(1)
    data = inputs, model(inputs).argmax(dim=1)
    reference = observe(model, data)
    first = load_onnx(write_mlp(tmp_path / "a.onnx", [model[0], model[2]], 5))
    seen = observe(first, data, batch_size=7)
    assert compare_predictions(seen, reference).metrics["agreement"] == 1
    assert seen.model_digest == digest_model(first)
    assert observe(first, data, batch_size=7) is seen
    assert identify(first) == identify(load_onnx(tmp_path / "a.onnx"))


def test_options_of_another_kind_are_refused(tmp_path):
    model = make_mlp()
    save_model(model, tmp_path / "model.safetensors")
    with pytest.raises(InvalidArgumentError, match="providers"):
        read_artifact(tmp_path / "model.safetensors", factory=make_mlp, providers=["CPUExecutionProvider"])
    with pytest.raises(InvalidArgumentError, match="factory"):
        read_artifact(tmp_path / "model.safetensors")


def test_a_batch_that_the_graph_does_not_take(tmp_path):
    model = make_mlp()
    read = load_onnx(write_mlp(tmp_path / "a.onnx", [model[0], model[2]]))
    with pytest.raises(ObservationError, match="onnxruntime"):
        observe(read, (torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64))).logits  # noqa: B018


@pytest.mark.parametrize(
    "name", ["ArtifactError", "FactoryError", "NoEffectError", "NothingComparedError", "TrainingError"]
)
def test_errors_that_users_catch_are_public(name):
    assert name in cp_compress.__all__
    assert getattr(cp_compress, name) is getattr(errors, name)
    if name == "ArtifactError":
        assert name in artifacts.__all__
        assert artifacts.ArtifactError is errors.ArtifactError
