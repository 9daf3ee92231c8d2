"""The largest batch of every forward call, and the batch size that is deployed."""

import copy

import pytest
import torch
from torch import nn

from cp_compress.fidelity.observing.observation import forget_observations
from pytest_cp import (
    PreservationError,
    assert_attribution_iou,
    assert_boundary_distance,
    assert_concepts_preserved,
    assert_embeddings_preserved,
    assert_no_divergence,
    assert_pointing,
    assert_preserved_predictions,
    assert_robustness,
)
from pytest_cp.checks.execution import Execution, using_execution
from pytest_cp.checks.recorder import Recorder
from pytest_cp.checks.records import recording

LIMIT = 3


class Counting(nn.Module):
    """A small convolutional network that notes the sizes of its batches, in its copies too."""

    seen = []  # noqa: RUF012

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.features, self.head = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()), nn.Linear(48, 3)
        for parameter in self.parameters():
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)

    def forward(self, inputs):
        self.seen.append(len(inputs))
        return self.head(self.features(inputs).flatten(1))


def subjects():
    images = torch.rand(20, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    reference = Counting().eval()
    candidate = copy.deepcopy(reference)
    candidate.head.weight.data = candidate.head.weight.roll(1, 0) * 0.9
    return candidate, reference, (images, reference(images).argmax(1))


def failing_checks(tmp_path):
    """One assertion for each comparison, and for each way to run a model within one; all of them fail."""
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[0, 0] = True
    concepts = {"bright": torch.rand(8, 1, 6, 6) / 2 + 0.5, "dark": torch.rand(8, 1, 6, 6) / 3}
    methods = [
        "saliency",
        "integrated_gradients(steps=8)",
        "occlusion(window=2)",
        "deep_lift",
        "smooth_grad(samples=2)",
    ]
    methods += ["grad_cam(layer='features.0')", "integrated_gradients(steps=8, layer='features.0')", "guided_backprop"]
    iou = {
        method: lambda *pair, method=method: assert_attribution_iou(*pair, method=method, min_mean_iou=1, examples=5)
        for method in methods
    }
    boundaries = {
        name: lambda *pair, name=name: assert_boundary_distance(
            *pair, directions=name, examples=5, max_distance=1.0, max_median_change=0
        )
        for name in ("gate", "worst", "benign")
    }
    search = {"epsilon": 0.3, "examples": 6, "queries": 30, "max_divergence_rate": 0}
    return {
        "predictions": lambda *pair: assert_preserved_predictions(*pair, min_agreement=1),
        "embeddings": lambda *pair: assert_embeddings_preserved(*pair, layer="head", min_cka=1),
        **iou,
        "pointing": lambda *pair: assert_pointing(*pair, must_look=mask, min_pointing_mass=1),
        "concepts": lambda *pair: assert_concepts_preserved(
            *pair, layer="features.1", concepts=concepts, min_class_examples=1, min_concept_agreement=1
        ),
        **boundaries,
        "robustness": lambda *pair: assert_robustness(
            *pair, corruptions=("contrast",), severities=(1,), min_corrupted_agreement=1
        ),
        "divergence": lambda *pair: assert_no_divergence(*pair, **search, save_to=tmp_path / "found.npz"),
        "replay": lambda *pair: assert_no_divergence(*pair, replay=tmp_path / "found.npz", max_divergence_rate=0),
    }


def test_no_forward_call_is_larger_than_the_batch_size(tmp_path):
    """At every level, in what explains a failure, and in what illustrates a report."""
    pair, failed, checks = subjects(), [], failing_checks(tmp_path)
    recorder = Recorder("a test")
    with using_execution(Execution(device="cpu", batch_size=LIMIT, illustrate=True)), recording(recorder):
        for name, check in checks.items():
            forget_observations()
            Counting.seen.clear()
            with pytest.raises(PreservationError):
                check(*pair)
            assert 1 < max(Counting.seen) <= LIMIT, name
            failed.append(name)
    records = recorder.take()
    assert failed == list(checks)
    assert all(record["origin"] and record["origin"]["layers"] for record in records)
    assert any("reference_map" in row for record in records for row in record["evidence"]["examples"])


SUBJECTS = """
class OneScale(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
    def forward(self, inputs):
        scale = inputs.abs().amax() / 3
        return self.inner((inputs / scale).round() * scale)

def candidate():
    return OneScale(subjects.make_model())
"""
GATE = """
import subjects
{subjects}
@pytest.mark.parametrize("size", [None, 10, 300])
def test_by_argument(reference_model, dataset, size):
    assert_preserved_predictions(candidate(), reference_model, dataset, min_agreement=0.5, deployed_batch_size=size)

@pytest.mark.cp_execution(deployed_batch_size=20)
def test_by_marker(reference_model, dataset):
    assert_embeddings_preserved(candidate(), reference_model, dataset, layer={{"0": "inner.0"}}, min_cka=0.01)
"""
BASELINE = """
import subjects
{subjects}
def test_by_ini_key(reference_model, dataset):
    assert_preserved_predictions(candidate(), reference_model, dataset, min_agreement=0.5)
"""
SPECIFICATION = """
schema_version = 1
reference.model = "subjects:make_model"
data.examples = "subjects:make_data"
execution.deployed_batch_size = 30
[[candidate]]
name = "rounded"
model = "made:candidate"
[[predictions]]
min_agreement = 0.5
[[predictions]]
min_agreement = 0.5
deployed_batch_size = 40
"""


def told(outcome):
    return {record["test"]: record["details"].get("batch_dependence", {}) for record in outcome.report["checks"]}


def test_the_deployed_batch_size_decides_where_answers_depend_on_the_batch(project):
    project.write_test(GATE.format(subjects=SUBJECTS))
    outcome = project.run()
    outcome.result.assert_outcomes(passed=2, failed=2)
    text = outcome.result.stdout.str()
    assert "answers depend on who else is in the batch" in text
    assert "cp_deployed_batch_size" in text
    assert "deployed_batch_size=300): must be a whole number in 1..256" in text
    sizes = {name.partition("::")[2]: found.get("batch_size") for name, found in told(outcome).items()}
    assert sizes == {"test_by_argument[None]": None, "test_by_argument[10]": 10, "test_by_marker": 20}


def test_a_baseline_of_another_batch_size_is_stale(project):
    project.write_test(BASELINE.format(subjects=SUBJECTS))
    for size, argument, failed in ((16, "new", 0), (16, "check", 0), (8, "check", 1)):
        project.pytester.makeini(f"[pytest]\ncp_deployed_batch_size = {size}\n")
        outcome = project.run(f"--cp-baseline={argument}")
        outcome.result.assert_outcomes(passed=1 - failed, failed=failed)
    assert "batch_size (16, now 8; answers depend on the batch)" in outcome.result.stdout.str()
    outcome = project.run("--cp-batch-size=4")
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "cp deployed batch size 8: must be at most the cp batch size, 4" in outcome.result.stderr.str()


def test_a_specification_names_it_too(project):
    (project.path / "made.py").write_text("import subjects, torch\n" + SUBJECTS)
    (project.path / "gate.toml").write_text(SPECIFICATION)
    outcome = project.run("--pyargs", "pytest_cp.gate", "--cp-spec=gate.toml")
    outcome.result.assert_outcomes(passed=2)
    assert sorted(found["batch_size"] for found in told(outcome).values()) == [30, 40]
