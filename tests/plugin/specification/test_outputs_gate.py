"""Inputs by name, no labels and several outputs, in tests, a specification, a baseline and on the command line."""

import json

import pytest

from cp_compress.cli.main import main

MODELS = """
import torch
from torch import nn
from cp_compress import Quantize


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.depth, self.kind = nn.Linear(8, 16), nn.Conv1d(1, 3, 3, padding=1), nn.Linear(16, 5)

    def forward(self, image, angle):
        hidden = torch.relu(self.body(image) + angle)
        return {"depth": self.depth(hidden[:, None]), "kind": self.kind(hidden)}


def reference():
    return Heads().eval()


def compressed():
    return Quantize("int8").compress(reference())


def readings():
    generator = torch.Generator().manual_seed(1)
    return {"image": torch.randn(60, 8, generator=generator), "angle": torch.randn(60, 1, generator=generator)}


def mean_difference():
    return lambda ours, theirs: (ours - theirs).abs().flatten(1).mean(1)


def kind():
    return lambda given: given["kind"]
"""

TEST = """
from heads import *


@pytest.mark.parametrize("output", ["kind", kind()])
def test_by_argument(output):
    assert_preserved_predictions(compressed(), reference(), readings(), min_agreement=0.9, output=output)
    assert_embeddings_preserved(compressed(), reference(), readings(), min_cka=0.9, output=output)


@pytest.mark.cp_execution(output="kind")
def test_by_marker():
    assert_preserved_predictions(compressed(), reference(), readings(), min_agreement=0.9)
    assert_outputs_preserved(
        compressed(), reference(), readings(), min_within_tolerance=0.5, tolerance=0.1, confidence=0.9
    )


def test_all_outputs_fail():
    assert_outputs_preserved(compressed(), reference(), readings(), max_relative_error=1e-6, min_sqnr=20.0)


def test_no_name():
    assert_preserved_predictions(compressed(), reference(), readings(), min_agreement=0.9)


def test_no_labels():
    assert_preserved_predictions(compressed(), reference(), readings(), min_accuracy=0.9, output="kind")


def test_no_tensor():
    assert_no_divergence(compressed(), reference(), readings(), epsilon=0.1, max_divergence_rate=0.5, output="kind")


def test_no_metric():
    with pytest.raises(ValueError, match="metric=None"):
        assert_outputs_preserved(compressed(), reference(), readings(), max_own_error=0.5)


def test_equal_outputs_of_a_wrapper():
    model = reference()
    assert_outputs_preserved(lambda **given: model(**given), model, readings(), max_relative_error=0.5)
"""

GATE = """
schema_version = 1
[reference]
model = "heads:reference"
[data]
examples = "heads:readings"
[[candidate]]
scheme = "quantize(int8)"
[noise]
references = ["quantize(bfloat16)"]
[outputs]
max_relative_error = "noise + 0.1"
max_relative_error_quantile = [0.9, 0.1]
min_within_tolerance = 0.9
tolerance = 0.1
max_own_error = 0.1
metric = "heads:mean_difference"
[[predictions]]
output = "kind"
min_agreement = 0.9
[[predictions]]
output = "heads:kind"
min_agreement = 0.8
[footprint]
max_flops_ratio = 1.0
"""


@pytest.fixture
def gate(project, monkeypatch):
    project.pytester.makepyfile(heads=MODELS)
    monkeypatch.syspath_prepend(project.path)
    return project


def test_in_tests(gate):
    gate.write_test(TEST)
    outcome = gate.run("-p", "no:cacheprovider", "--cp-report-html=report.html", "--cp-report-markdown=report.md")
    outcome.result.assert_outcomes(passed=3, failed=6)
    outcome.result.stdout.fnmatch_lines(
        [
            "*OutputsNotPreservedError: relative_error = *, required ≤ *, n = 60*",
            "*outputs, least alike first:*",
            "*kind: relative error *, SQNR * dB, at most * at one value*",
            "*layers that cause the damage (by the noise that each adds):*",
            "*dict of depth (60, 3, 16), kind (60, 5); expected a tensor of logits; name the one that is compared by *",
            "*accuracy ≥ 0.9 needs labels, and the data set has none: give (input, label) pairs*",
            "*a search for divergence needs inputs of one tensor, and each example is 2 tensors (image: float32 (8,)*",
            "*nothing was compressed: the candidate returns the reference's outputs bit for bit*",
        ]
    )
    checks = {check["test"].partition("::")[2]: check for check in outcome.report["checks"]}
    assert checks["test_by_marker"]["options"]["output"] == "kind"
    assert "output" not in checks["test_all_outputs_fail"]["options"]
    rows = checks["test_all_outputs_fail"]["details"]["outputs"]
    assert [row["output"] for row in rows] == ["depth", "kind"]
    assert "<caption>Outputs</caption>" in gate.path.joinpath("report.html").read_text(encoding="utf-8")
    assert "kind: relative error" in gate.path.joinpath("report.md").read_text(encoding="utf-8")


def test_in_a_specification_with_a_baseline_and_on_the_command_line(gate, capsys):
    gate.pytester.makefile(".toml", gate=GATE)
    given = ("--pyargs", "pytest_cp.gate", "--cp-spec", "gate.toml")
    first = gate.run(*given, "-n", "2", "--cp-baseline=new", subprocess=True)
    first.result.assert_outcomes(passed=4)
    again = gate.run("-p", "no:cacheprovider", *given, "--cp-baseline=check")
    again.result.assert_outcomes(passed=4)
    saved = json.dumps([json.loads(path.read_text()) for path in gate.path.rglob("cp_baselines/*.json")])
    assert "assert_preserved_predictions(agreement; output=kind)" in saved
    subjects = ["compare", "heads:compressed", "heads:reference", "--data", "heads:readings", "--quiet"]
    assert main([*subjects, "--require", "relative_error <= 0.05", "--require", "within_tolerance >= 0.9"]) == 0
    assert "the least alike is" in capsys.readouterr().out
    assert main([*subjects, "--model-output", "kind", "--require", "agreement >= 0.9"]) == 0
    assert main([*subjects, "--model-output", "kid", "--require", "agreement >= 0.9"]) != 0
    assert "did you mean kind" in capsys.readouterr().err
