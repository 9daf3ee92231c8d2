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
from pytest_cp.checks.records import Recorder, recording

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
