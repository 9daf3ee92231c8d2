"""The command `cp-compress`: what it prints, writes and returns, on the digits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import read, run

from cp_compress.cli import inspect
from cp_compress.cli.main import main
from cp_compress.examples import digits, digits_cnn
from cp_compress.inputs.seen import example_digests, searched_digests
from cp_compress.model import Prune, footprint, load, save

MODEL = "cp_compress.examples:digits_cnn"
DATA = "cp_compress.examples:digits"


@pytest.fixture
def pruned(tmp_path):
    path = tmp_path / "pruned.cp"
    save(Prune(0.3).compress(digits_cnn()), path)
    return str(path)


def test_compress_writes_a_model_that_reads_back_and_says_what_it_did(tmp_path, capsys):
    target, report = tmp_path / "model.cp", tmp_path / "report.json"
    code, out, err = run(
        capsys, "compress", MODEL, "--scheme", "prune(density=0.25)", "-o", str(target), "--json", str(report)
    )
    assert (code, err) == (0, "")
    assert "prune(density=0.25)" in out
    content = json.loads(report.read_text())
    assert content["after"]["artifact_bytes"] == target.stat().st_size
    expected = Prune(0.25).compress(digits_cnn())
    assert torch.equal(load(target, digits_cnn()).classifier[1].weight, expected.classifier[1].weight)


def test_a_file_is_compressed_further_with_its_architecture(tmp_path, pruned, capsys):
    target = str(tmp_path / "smaller.cp")
    arguments = ("compress", pruned, "--scheme", "quantize(int8)", "-o", target)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "--architecture" in err
    assert run(capsys, *arguments, "--architecture", MODEL)[0] == 0
    code, found = read(capsys, "footprint", target, "--architecture", MODEL, "--reference", pruned)
    assert found["model"]["artifact_bytes"] < found["reference"]["artifact_bytes"]


def test_footprint_counts_operations_of_a_batch_and_times_in_turns(pruned, capsys):
    arguments = ("footprint", pruned, "--architecture", MODEL, "--reference", MODEL, "--input-shape", "1,8,8")
    _, one = read(capsys, *arguments)
    _, four = read(capsys, *arguments, "--batch-size", "4", "--latency", "--repeats", "2")
    assert four["model"]["flops"] == 4 * one["model"]["flops"]
    assert set(four["seconds"]) == {"model", "reference"}
    code, _, err = run(capsys, "footprint", MODEL, "--latency")
    assert code == 2
    assert "--reference" in err


@pytest.mark.parametrize(
    ("requirements", "expected"),
    [
        ([], 0),
        (["agreement >= 0.5"], 0),
        (["agreement >= 0.5", "agreement >= 0.9999"], 1),
        (["compression >= 2", "flops_ratio <= 1"], 0),
        (["compression >= 1000"], 1),
    ],
)
def test_the_exit_code_of_a_comparison_is_its_worst_outcome(pruned, capsys, requirements, expected):
    extra = [part for text in requirements for part in ("--require", text)]
    code, found = read(capsys, "compare", pruned, MODEL, "--data", DATA, *extra)
    assert code == expected
    assert found["outcome"] == (None if not requirements else ("pass", "fail")[expected])
    judged = [entry["requirement"] for check in found["checks"] for entry in check.get("requirements", [])]
    assert len(judged) == len(requirements)


def test_a_claim_that_the_data_cannot_decide_is_inconclusive(pruned, capsys):
    _, found = read(capsys, "compare", pruned, MODEL, "--data", DATA)
    agreement = found["checks"][0]["metrics"]["agreement"]
    bound = f"agreement >= {agreement - 0.005}"
    code, out, _ = run(capsys, "compare", pruned, MODEL, "--data", DATA, "--require", bound, "--confidence", "0.95")
    assert code == 3
    assert "more examples would decide" in out


def test_every_level_and_a_codec_are_measured_as_the_library_does(capsys):
    levels = ("--level", "attributions", "--level", "boundaries", "--examples", "6", "--codec", "jpeg(quality=50)")
    code, found = read(capsys, "compare", MODEL, MODEL, "--data", DATA, *levels, "--require", "iou_quantile_0.1 >= 0")
    assert code == 0
    assert [check["comparison"] for check in found["checks"]] == ["attributions", "boundaries"]
    assert found["checks"][0]["counts"]["mean_iou"] == 6
    assert 0 < found["checks"][0]["metrics"]["iou_quantile_0.1"] < 1


def test_class_groups_give_the_cost_of_an_error(pruned, capsys):
    groups = json.dumps({"low": [0, 1, 2, 3, 4], "high": [5, 6, 7, 8, 9]})
    _, plain = read(capsys, "compare", pruned, MODEL, "--data", DATA)
    _, grouped = read(capsys, "compare", pruned, MODEL, "--data", DATA, "--class-groups", groups)
    assert grouped["checks"][0]["metrics"]["cost"] < plain["checks"][0]["metrics"]["cost"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["compare", MODEL, MODEL, "--data", DATA], 4, "nothing was compressed"),
        (
            ["compare", MODEL, "{pruned}", "--data", DATA, "--architecture", MODEL],
            2,
            "compressed model must be the first",
        ),
        (["compare", "{pruned}", MODEL, "--data", "nowhere:data"], 2, "nowhere"),
        (["compare", "{pruned}", MODEL, "--data", DATA, "--require", "agrement >= 1"], 2, "agrement"),
        (["compare", "{pruned}", MODEL, "--data", DATA, "--require", "agreement > 1"], 2, "metric >= bound"),
        (["compare", "{pruned}", MODEL, "--data", DATA, "--require", "agreement >= 1.5"], 2, r"\[0, 1\]"),
        (["compare", "{pruned}", MODEL, "--data", DATA, "--require", "rmse <= 1"], 2, "compares data"),
        (["compare", "{pruned}", MODEL, "--data", DATA, "--require", "pointing_mass >= 0.1"], 2, "compare_pointing"),
        (["compare", "{pruned}", MODEL, "--data", DATA, "--class-groups", "{"], 2, "no JSON"),
        (["compare", "{pruned}", MODEL, "--data", DATA, "--device", "tpu"], 2, "tpu"),
        (["compress", MODEL, "--scheme", "prun(density=1)", "-o", "x"], 2, "prun"),
        (["compress", MODEL, "--scheme", "prune(density=0.5)", "-o", "/nowhere/x.cp"], 2, "does not exist"),
        (["compress", "model.cp", "--scheme", "prune(density=0.5)", "-o", "x"], 2, "there is no such file"),
        (["compress", DATA, "--scheme", "prune(density=0.5)", "-o", "x"], 2, "torch.nn.Module"),
        (["footprint", MODEL, "--input-shape", "1,8,9,9,9"], 4, "cannot be run on inputs"),
        (["footprint", MODEL, "--input-shape", "0"], 2, "not a shape"),
        (["footprint"], 2, "MODEL"),
        ([], 2, "COMMAND"),
    ],
)
def test_trouble_is_told_in_one_line_with_its_code(pruned, capsys, arguments, code, message):
    found, _, err = run(capsys, *[argument.replace("{pruned}", pruned) for argument in arguments])
    assert found == code
    assert "Traceback" not in err
    assert re.search(message, err)


SPACELESS = ("search", MODEL, "--scheme", "prune(density={density})", "--data", DATA, "--trials", "5")
SEARCH = (*SPACELESS, "--parameter", "density=real(0.05, 1, scale=log)")


def test_search_writes_the_smallest_model_that_passes_and_its_trace(tmp_path, capsys):
    target = tmp_path / "best.cp"
    required = ("--require", "agreement >= 0.95", "--require", "compression >= 1.5")
    code, found = read(capsys, *SEARCH, *required, "-o", str(target))
    assert code == 0
    assert len(found["trials"]) == 5
    best = found["trials"][found["best_trial"] - 1]
    assert best["outcome"] == "pass"
    assert best["objective"] == min(trial["objective"] for trial in found["trials"] if trial["outcome"] == "pass")
    saved = load(target, digits_cnn())
    assert footprint(saved).artifact_bytes == best["objective"]
    assert searched_digests(saved) == set(found["search_digests"])
    marks = 10 * len(found["search_digests"]) + 100  # digests of 8 bytes each lie in the file beside the model
    assert best["objective"] < target.stat().st_size < best["objective"] + marks
    compared = ("compare", str(target), MODEL, "--data", DATA, *required)
    assert run(capsys, *compared)[0] == 0


def test_search_goes_on_from_its_state_and_refuses_that_of_another(tmp_path, capsys):
    arguments = (*SEARCH, "--require", "agreement >= 0.95", "--state", str(tmp_path / "state.json"))
    assert read(capsys, *arguments) == read(capsys, *arguments)
    code, _, err = run(capsys, *arguments, "--seed", "1")
    assert code == 2
    assert "state" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "at least one --require"),
        (["--require", "agreement >= 0.9", "--gate-data", DATA], 2, "600 of its examples"),
        (["--require", "agreement >= 0.9", "--parameter", "n=integer(1, 2)"], 2, "in braces"),
        (["--require", "agreement >= 0.9", "--parameter", "density"], 2, "must have the form"),
        (["--require", "agreement >= 0.9", "--parameter", "n=reel(0, 1)"], 2, "reel"),
        (["--require", "agreement >= 0.9", "--parameter", "density=real(0.1, 1)"], 2, "given twice"),
        (["--require", "max_agreement <= 0.9"], 2, "the metric is agreement"),
        (["--require", "agreement >= 0.9", "--state", "."], 2, "is a folder"),
        (["--require", "agreement >= 0.9", "--strategy", "guess()"], 2, "guess"),
        (["--require", "agreement >= 0.9", "--objective", "beauty"], 2, "beauty"),
    ],
)
def test_what_a_search_cannot_do_is_told(capsys, arguments, code, message):
    found, out, err = run(capsys, *SEARCH, *arguments)
    assert found == code
    assert message in err
    assert "no candidate found" not in out


def test_a_search_without_a_candidate_tells_what_it_has_seen(capsys):
    arguments = (*SPACELESS, "--parameter", "density=real(0.01, 0.02)", "--require", "agreement >= 1")
    code, out, _ = run(capsys, *arguments)
    assert code == 1
    assert "no candidate found" in out
    code, found = read(capsys, *arguments)
    assert code == 1
    assert found["scheme"] is None
    assert sorted(found["search_digests"]) == sorted(set(example_digests(digits())))


def test_a_candidate_that_fails_on_fresh_data_is_not_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cp_fresh.py").write_text(FRESH)
    target = tmp_path / "best.cp"
    arguments = (*SEARCH, "--require", "agreement >= 0.95", "--gate-data", "cp_fresh:close_calls", "-o", str(target))
    code, out, _ = run(capsys, *arguments)
    assert code == 1
    assert "NOT written" in out
    assert not target.exists()


FRESH = """
import torch

def close_calls():
    from cp_compress.examples import digits_cnn
    noise = torch.randn(4000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = digits_cnn()(noise).topk(2).values.T
    hard = noise[(first - second).argsort()[:200]]
    return hard, torch.zeros(200, dtype=torch.int64)

def broken():
    raise KeyError("no such thing")

def leaving():
    raise SystemExit(0)

def needy(seed):
    return seed

class Reading:
    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise ArithmeticError(f"example {index}")

module = torch.nn.Linear(2, 2)
"""


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        ("cp_fresh:broken", 4, "--data = .cp_fresh:broken. raised KeyError: 'no such thing'"),
        ("cp_fresh:leaving", 4, "raised SystemExit: 0"),
        ("cp_fresh:needy", 2, "needy needs seed"),
        ("cp_fresh:module", 2, "module is a Linear"),
        ("cp_broken:data", 4, "importing cp_broken raised ZeroDivisionError"),
    ],
)
def test_what_a_factory_raises_is_told_in_one_line(tmp_path, monkeypatch, capsys, data, code, message):
    (tmp_path / "cp_fresh.py").write_text(FRESH)
    (tmp_path / "cp_broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    report = tmp_path / "report.json"
    found, _, err = run(capsys, "compare", MODEL, MODEL, "--data", data, "--json", str(report))
    assert found == code
    assert len(err.splitlines()) == 1
    assert re.search(message, err)
    assert json.loads(report.read_text())["exit_code"] == code


def test_what_was_not_foreseen_is_no_verdict(tmp_path, monkeypatch, capsys, pruned):
    (tmp_path / "cp_fresh.py").write_text(FRESH)
    monkeypatch.chdir(tmp_path)
    found, _, err = run(capsys, "compare", pruned, MODEL, "--data", "cp_fresh:Reading", "--require", "agreement >= 0")
    assert found == 4
    assert err.splitlines()[-1] == "cp-compress: ArithmeticError: example 0"


def test_verdicts_do_not_depend_on_who_reads(pruned):
    start = "import sys; from cp_compress.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "compare", pruned, MODEL, "--data", DATA]
    command += ["--require", "agreement >= 0.5"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=ascii_only, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"agreement \u2265 0.5" in done.stdout
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_damaged_file_is_named(pruned, capsys):
    with Path(pruned).open("r+b") as file:
        file.seek(200)
        file.write(b"damage")
    code, _, err = run(capsys, "footprint", pruned, "--architecture", MODEL)
    assert code == 4
    assert "pruned.cp is damaged" in err


def test_help_loads_neither_torch_nor_the_search(tmp_path):
    script = "import sys\nfrom cp_compress.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    script += "assert not {'torch', 'skopt', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


@pytest.mark.parametrize("module", ["cp_compress", "cp_compress.cli.main"])
def test_it_runs_as_a_module_too(module, tmp_path):
    command = [sys.executable, "-m", module, "verify", str(tmp_path / "nothing")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("cp-compress: ")
    assert "there is no such file" in done.stderr


def test_an_old_result_does_not_outlive_the_start_of_a_command(tmp_path, monkeypatch):
    """Code of a model may end the process, with any exit code, before the command can write its own result."""
    path = tmp_path / "result.json"
    path.write_text('{"outcome": "pass"}')
    monkeypatch.setattr(inspect, "run", lambda options: json.loads(path.read_text())["exit_code"])
    assert main(["inspect", "a folder", "--json", str(path)]) == 4


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("compare", MODEL, MODEL, "--data", DATA, "--encode", MODEL), "--encode cp_compress.examples:digits_cnn: no"),
        (("compare", MODEL, MODEL, "--data", DATA, "--input", "x", "--at-layer", "y"), "--input x: no level"),
        (("init", MODEL, "--data", DATA, "--level", "predictions", "--method", "saliency"), "--method saliency: no"),
        (("profile", DATA, "--architecture", MODEL), "--architecture is about a model"),
    ],
)
def test_an_option_that_nothing_takes_is_refused(command, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *command)
    assert (code, told in err) == (2, True), err
    assert not (tmp_path / "gate.toml").exists()
