"""`cp-compress init` and `cp-compress gate`: from a model and data to a green gate, and exit codes."""

import argparse
import importlib
import json

import numpy
import pytest
from command import read, run
from forks import run_program

from cp_compress.cli import init, models_and_data
from cp_compress.fidelity import compare_predictions, observe
from cp_compress.fidelity.proposals import propose
from pytest_cp.specification import read_specification

SUBJECTS = ("cp_compress.examples:digits_cnn", "--data", "cp_compress.examples:digits")
SMALL = """
import torch
from torch import nn
from cp_compress.examples import digits

def make_model():
    images, labels = digits().tensors
    torch.manual_seed(0)
    hidden, last = nn.Linear(64, 48), nn.Linear(48, 10)
    with torch.no_grad():
        seen = torch.cat([hidden(images.flatten(1)).relu(), torch.ones(len(images), 1)], dim=1)
        fitted = torch.linalg.lstsq(seen, nn.functional.one_hot(labels).float()).solution
        last.weight.copy_(fitted[:-1].T)
        last.bias.copy_(fitted[-1])
    return nn.Sequential(FirstChannel(), nn.Flatten(), hidden, nn.ReLU(), last).eval()

class FirstChannel(nn.Module):
    def forward(self, images):
        return images[:, :1]

def few():
    images, labels = digits().tensors
    return torch.utils.data.TensorDataset(images[:160], labels[:160])
"""


def gate(folder, *arguments):
    return run_program("cp-compress", "gate", *arguments, folder=folder)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The name of the factory of a network that reads the digits and runs in a fraction of the time of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "small.py").write_text(SMALL)
    return "small:make_model"


def test_from_init_to_a_green_gate(capsys, tmp_path, small):
    code, content = read(capsys, "init", small, "--data", "small:few", "--slack=20")
    assert code == 0
    proposed = {entry["metric"] for entry in content["proposals"]}
    assert {"agreement", "max_class_accuracy_drop", "cka", "mean_iou", "median_change"} <= proposed
    green = gate(tmp_path, "gate.toml", "-q", "--cp-report-json=report.json")
    assert green.returncode == 0, green.stdout
    outcomes = json.loads((tmp_path / "report.json").read_text())["outcomes"]
    assert outcomes["pass"] == 5
    written = (tmp_path / "gate.toml").read_text()
    (tmp_path / "gate.toml").write_text(written.replace("quantize(int8)", "prune(density=0.2)"))
    red = gate(tmp_path, "gate.toml", "-q")
    assert red.returncode == 1
    assert "PredictionsNotPreservedError" in red.stdout


def test_init_does_not_write_over_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gate.toml").write_text("mine")
    code, _, error = run(capsys, "init", *SUBJECTS)
    assert code == 2
    assert "--overwrite" in error
    assert (tmp_path / "gate.toml").read_text() == "mine"


def write_array_file(path, count=12):
    from cp_compress.examples import digits

    images, labels = digits().tensors
    numpy.savez(path, inputs=images[:count].numpy(), labels=labels[:count].numpy())


def write_image_folder(path, count=6):
    from PIL import Image

    from cp_compress.examples import digits

    images, labels = digits().tensors
    for number in range(10):
        (path / str(number)).mkdir(parents=True)
    for index in range(count):
        pixels = (images[index, 0] * 255).byte().expand(3, 8, 8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(path / str(int(labels[index])) / f"{index}.png")
    for number in range(10):  # no class may be empty
        Image.new("RGB", (8, 8)).save(path / str(number) / "blank.png")


def test_init_reads_an_array_file_and_weights(capsys, tmp_path, small):
    import safetensors.torch

    from cp_compress.model import Quantize, save

    write_array_file(tmp_path / "digits.npz")
    model = importlib.import_module("small").make_model()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    save(Quantize("bfloat16").compress(model), tmp_path / "other.cp")
    # nearer to the reference than the noise, on every machine
    closer = ("--scheme", "quantize(float16)")
    named = ("weights.safetensors", "--architecture", small, "--noise", "other.cp", *closer)
    code, _, error = run(capsys, "init", *named, "--data", "digits.npz")
    assert code == 0, error
    written = (tmp_path / "gate.toml").read_text()
    assert 'file = "digits.npz"' in written
    assert 'file = "weights.safetensors"' in written
    done = gate(tmp_path, "gate.toml", "-q")
    assert done.returncode == 0, done.stdout


def test_init_reads_a_folder_of_images(capsys, tmp_path, small):
    write_image_folder(tmp_path / "images")
    code, _, error = run(capsys, "init", small, "--data", "images")
    assert code == 0, error
    assert 'file = "images"' in (tmp_path / "gate.toml").read_text()


TOY_SUBJECTS = """
import torch
from torch import nn
from cp_compress.inputs.tasks import TaskDataset
from cp_compress.examples import digits, digits_cnn

def make_images(count):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 6, generator=generator)

def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()

def two_examples():
    return make_images(2), torch.tensor([0, 1])

def two_digits():
    return tuple(tensor[:2] for tensor in digits().tensors)

def one_example():
    return make_images(1), torch.tensor([0])

def make_token_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 3)).eval()

def tokens():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 9, (60, 5), generator=generator), torch.arange(60) % 3

def several_labels():
    return TaskDataset((make_images(60), (make_images(60)[:, :3] > 0.5).long()), "multi_label")
"""


@pytest.mark.parametrize(
    ("model", "data", "left_out"),
    [
        ("digits_cnn", "two_digits", "boundaries.median_change"),
        ("make_model", "two_examples", "embeddings.cka"),
        ("make_model", "one_example", "boundaries"),
        ("make_token_model", "tokens", "attributions"),
        ("make_model", "several_labels", "boundaries"),
    ],
)
def test_init_leaves_out_what_cannot_be_proposed(capsys, tmp_path, monkeypatch, model, data, left_out):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "toy_subjects.py").write_text(TOY_SUBJECTS)
    named = (f"toy_subjects:{model}", "--data", f"toy_subjects:{data}")
    code, out, error = run(capsys, "init", *named)
    assert code == 0, error
    assert f"left out: {left_out}: " in out
    written = (tmp_path / "gate.toml").read_text()
    assert f"# left out: {left_out}: " in written
    from pytest_cp.specification import read_specification

    levels = [requirements.level for requirements in read_specification(tmp_path / "gate.toml").requirements]
    assert levels[0] == "predictions"
    assert left_out not in levels


def test_exit_codes_of_the_gate(tmp_path):
    assert gate(tmp_path).returncode == 2
    assert gate(tmp_path, "none.toml").returncode == 2
    (tmp_path / "bad.toml").write_text("schema_version = 1\n")
    assert gate(tmp_path, "bad.toml").returncode == 2
    assert gate(tmp_path, "bad.toml", "-n1").returncode == 2
    for name, part in {
        "module": ("cp_compress.examples:digits_cnn", "no_such_module:make"),
        "factory": ("cp_compress.examples:digits_cnn", "cp_compress.examples:no_such_factory"),
        "file": ('examples = "cp_compress.examples:digits"', 'file = "missing.npz"'),
    }.items():
        (tmp_path / f"{name}.toml").write_text(SPECIFICATION.replace(*part))
        done = gate(tmp_path, f"{name}.toml")
        assert done.returncode == 4, done.stdout
        assert part[1].rpartition(":")[2].removeprefix("file = ").strip('"') in done.stdout


INTERRUPTING = """
import os, signal, pytest

def pytest_runtest_call(item):
    {interrupt}
"""
SPECIFICATION = """
schema_version = 1

[reference]
model = "cp_compress.examples:digits_cnn"

[data]
examples = "cp_compress.examples:digits"

[[candidate]]
scheme = "quantize(int8)"

[predictions]
min_agreement = 0.9
"""


@pytest.mark.parametrize(
    ("interrupt", "code"),
    [
        # a shell lets what it runs in the background ignore Ctrl-C
        ("signal.signal(2, signal.default_int_handler); signal.raise_signal(signal.SIGINT)", 130),
        ("pytest.exit('enough')", 130),
        ("raise ValueError", 4),
    ],
)
def test_an_interrupted_gate_is_no_wrong_argument(tmp_path, interrupt, code):
    (tmp_path / "interrupting.py").write_text(INTERRUPTING.format(interrupt=interrupt))
    (tmp_path / "gate.toml").write_text(SPECIFICATION)
    assert gate(tmp_path, "gate.toml", "-p", "interrupting").returncode == code


def test_the_schema_is_printed(capsys):
    code, out, _ = run(capsys, "gate", "--schema")
    assert code == 0
    assert json.loads(out)["title"] == "pytest_cp gate specification"


def test_options_of_other_commands_are_still_checked(capsys):
    code, _, error = run(capsys, "init", *SUBJECTS, "--no-such-option")
    assert code == 2
    assert "--no-such-option" in error
    code, _, error = run(capsys, "compare", "a:b", "--scheme", "quantize(int8)", "--data", "a:b")
    assert (code, "a scheme makes a model: cp-compress compress MODEL" in error) == (2, True)
    code, _, error = run(capsys, "compare", "a:b", "--reference", "a:b", "--data", "a:b")
    assert (code, "write its value in the place of REFERENCE: CANDIDATE REFERENCE" in error) == (2, True)
    code, _, error = run(capsys, "compress", "a:b", "--scheme", "quantize(int8)", "--output", "b.onnx")
    assert (code, "no .onnx file: name it b.cp" in error) == (2, True)


@pytest.fixture(scope="module")
def references():
    from cp_compress.examples import digits, digits_cnn
    from cp_compress.model import Quantize

    model = digits_cnn()
    return [observe(one, digits()) for one in (model, Quantize("int4").compress(model))]


def test_bounds_lie_beyond_the_noise_and_beyond_chance(references):
    for slack in (1.0, 3.0):
        for one in propose(references, levels=["predictions", "embeddings"], slack=slack):
            assert one.holds(one.noise)
            unchanged = 1.0 if one.direction == "min" else 0.0
            assert abs(one.bound - unchanged) >= min(1.0, slack * abs(one.noise - unchanged)) - 1e-9
    agreement = propose(references, levels=["predictions"], slack=1.0)[0]
    measured = compare_predictions(references[1], references[0])
    assert agreement.bound <= measured.evidence["agreement"].interval(0.95).low


def test_candidates_are_told_beside_the_bound(references):
    found = propose(references, {"same": references[1]}, levels=["predictions"])
    assert all(one.candidates["same"] == pytest.approx(one.noise) or one.direction == "max" for one in found)
    assert all(one.holds(one.candidates["same"]) for one in found)


def test_init_takes_a_file_for_noise_whatever_it_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seed (1).safetensors").touch()
    monkeypatch.setattr(models_and_data, "read_model", lambda name, *others: f"read from {name}")
    found = models_and_data.read_equivalent("seed (1).safetensors", None, None, "cpu")
    assert found == "read from seed (1).safetensors"


def test_the_gate_runs_with_the_seed_of_init(tmp_path):
    named = {"reference": "a:b", "architecture": None, "data": "a:c", "output": "gate.toml"}
    options = argparse.Namespace(**named, slack=4.0, seed=7)
    lines = init._lines(options, ["quantize(bfloat16)"], ["quantize(int8)"], [], {}, {"quantize(int8)": 4.0})
    (tmp_path / "gate.toml").write_text("\n".join(lines))
    assert read_specification(tmp_path / "gate.toml").execution == {"seed": 7}
