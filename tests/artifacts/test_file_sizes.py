"""The size of a model in a file is that of its files, in Python and on the command line."""

import sys

import pytest
import torch
from command import read, run
from onnx_graphs import write_mlp
from torch import nn

from cp_compress.artifacts import ProgramModel, load_onnx, read_artifact, served_levels
from cp_compress.base.errors import CompressionError, InvalidArgumentError
from cp_compress.fidelity.footprints import compare_footprints
from cp_compress.model import Prune, footprint

FACTORY = "test_file_sizes:make"


def make():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


def test_files_of_others_have_the_size_of_their_files(tmp_path, capsys):
    model = make()
    path = write_mlp(tmp_path / "model.onnx", [model[0], model[2]], external="weights.bin")
    size = path.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    read_back = load_onnx(path)
    found = compare_footprints(read_back, model)
    assert found.metrics["compression"] == footprint(model).artifact_bytes / size
    assert found.details["candidate"]["artifact_bytes"] == size
    assert served_levels(read_back)["footprint"] is None
    with pytest.raises(InvalidArgumentError, match=r"flops_ratio is measured of torch\.nn\.Module alone"):
        compare_footprints(read_back, model, torch.randn(2, 6), ["flops_ratio"])
    with pytest.raises(InvalidArgumentError, match="file_bytes"):
        compare_footprints(lambda batch: batch, model)
    code, content = read(capsys, "footprint", str(path), "--reference", FACTORY)
    assert (code, content["model"]["artifact_bytes"], content["model"]["flops"]) == (0, size, None)
    code, _, told = run(capsys, "compress", str(path), "--scheme", "prune(0.5)", "--output", str(tmp_path / "a.cp"))
    assert code == 2
    assert "only a torch.nn.Module can be compressed" in told
    exported = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(make(), (torch.randn(4, 6),)), exported)
    for file in (path, exported):
        code, _, told = run(capsys, "init", str(file), "--data", "none", "--output", str(tmp_path / "gate.toml"))
        assert code == 2
        assert "only a torch.nn.Module can be compressed; give the model that it was made from" in told
        assert f'[[candidate]] file = "{file}"' in told


def test_an_exported_program_has_the_size_of_its_file_until_a_scheme_changes_it(tmp_path):
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(make(), (torch.randn(4, 6),)), path)
    read_back = read_artifact(path)
    assert footprint(read_back).artifact_bytes == path.stat().st_size
    assert footprint(read_back).parameters == footprint(make()).parameters
    changed = Prune(0.5).compress(make())
    changed.file_bytes = 1  # of the file that it was made from
    assert footprint(changed).artifact_bytes > 1


def test_a_command_has_the_size_of_what_it_names_or_none(tmp_path):
    (script, weights) = tmp_path / "run.py", tmp_path / "weights.bin"
    script.write_text("pass")
    weights.write_bytes(b"0" * 1000)
    command = [sys.executable, script, "{input}", "{output}"]
    assert ProgramModel(command, files=[weights]).file_bytes == ProgramModel([*command, weights]).file_bytes == 1004
    with pytest.raises(CompressionError, match=r"names no file that could hold weights.*files="):
        compare_footprints(ProgramModel(command), make())
    assert "could hold weights" in served_levels(ProgramModel(command))["footprint"]
