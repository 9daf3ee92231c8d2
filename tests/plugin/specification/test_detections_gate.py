"""`assert_detections_preserved` in a gate, in a specification and on the command line."""

import pytest
from release_gates import failed_check, prepare, report_text, run_reporting

from cp_compress.cli.main import main

pytest.importorskip("faster_coco_eval")

MODELS = """
import torch
from torch import nn
from cp_compress import DetectionData, Quantize


class Detector(nn.Module):
    '''Bright cells of a grid are objects; their class is that of two linear scores of the colour.'''

    def __init__(self):
        super().__init__()
        self.colour = nn.Linear(3, 2)
        with torch.no_grad():
            self.colour.weight.copy_(torch.tensor([[4.0, -2.0, 1.0], [-3.0, 5.0, 0.7]]))
            self.colour.bias.copy_(torch.tensor([0.03, -0.02]))

    def forward(self, images):
        found = []
        for image in images:
            cells = nn.functional.avg_pool2d(image, 8)
            places = (cells.amax(0) > 0.3).nonzero()
            scores = self.colour(cells[:, places[:, 0], places[:, 1]].T).softmax(1)
            corners = places.flip(1).float() * 8
            best = scores.max(1)
            found.append({"boxes": torch.cat([corners, corners + 8], 1), "labels": best.indices, "scores": best.values})
        return found


def reference():
    return Detector().eval()


def compressed():
    model = Detector().eval()
    model.colour.weight.data[1] = 0
    return model


def data(count=20):
    generator = torch.Generator().manual_seed(0)
    images, targets = torch.zeros(count, 3, 32, 32), []
    for image in images:
        places = torch.randperm(16, generator=generator)[:4]
        colours = 0.4 + 0.6 * torch.rand(4, 3, generator=generator)
        labels = (colours[:, 1] > colours[:, 0] * 0.9).long()
        corners = torch.stack([places % 4, places // 4], 1).float() * 8
        for (x, y), colour in zip(corners.long().tolist(), colours, strict=True):
            image[:, y : y + 8, x : x + 8] = colour[:, None, None]
        targets.append({"boxes": torch.cat([corners, corners + 8], 1), "labels": labels})
    return DetectionData(images, targets, classes=["red", "green"])
"""

TEST = """
import pytest
from detectors import *
from pytest_cp import assert_detections_preserved, check_detections_preserved


@pytest.mark.compress_model("quantize(int8)")
def test_holds(compressed_model, reference_model, dataset):
    assert_detections_preserved(compressed_model, reference_model, dataset, min_matched_f1=0.9, max_map_drop=0.05)


def test_fails():
    assert_detections_preserved(
        compressed(), reference(), data(), min_matched_f1=0.95, max_class_ap_drop=0.05, slices={"first": range(5)}
    )


def test_claims():
    arguments = Quantize("int8").compress(reference()), reference(), data(60)
    check = check_detections_preserved(*arguments, min_matched_f1=0.5, max_lost_objects=0.5, confidence=0.9)
    assert check.passed and "those with up to 8 objects" in str(check)
    few = check_detections_preserved(*arguments, min_matched_f1=0.5, confidence=0.95)
    assert few.outcome == "inconclusive" and "needs 72 images" in str(few)
    with pytest.raises(ValueError, match="no claim about the population"):
        check_detections_preserved(*arguments, max_map_drop=0.1, confidence=0.9)


def test_finds_nothing():
    assert_detections_preserved(compressed(), reference(), data(), score_threshold=1.0, min_matched_f1=0.1)
"""

GATE = """
schema_version = 1
[reference]
model = "detectors:reference"
[data]
examples = "detectors:data"
[[candidate]]
scheme = "quantize(int8)"
[detections]
min_matched_f1 = "noise - 0.1"
min_class_f1 = 0.8
max_map_drop = 0.05
[noise]
references = ["quantize(float16)"]
"""


@pytest.fixture
def folder(pytester, monkeypatch):
    return prepare(pytester, monkeypatch, "detectors", MODELS, "data")


def test_in_tests(folder):
    result = run_reporting(folder, TEST)
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        [
            "*DetectionsNotPreservedError: *; 2 requirements*",
            "*average precision by class:*",
            "*true objects *, AP before *, after *, drop *",
            "*objects by class:*",
            "*objects before *, after *, found again *, F1 *, lost *, new *, mean IoU *",
            "*#*: * → lost * new *",
            "*ObservationError: the reference finds no object with a score of 1 or more*",
        ]
    )
    failed = failed_check(folder)
    assert failed["comparison"] == "detections"
    assert failed["subjects"]["data"]["count"] == 20
    assert "Objects by size" in report_text(folder, "html")
    assert "average precision by class: " in report_text(folder, "markdown")


def test_in_a_specification_and_on_the_command_line(folder, capsys):
    folder.makefile(".toml", gate=GATE)
    result = folder.runpytest_inprocess(
        "-p", "no:cacheprovider", "--pyargs", "pytest_cp.gate", "--cp-spec", "gate.toml"
    )
    result.assert_outcomes(passed=1)
    subjects = ["compare", "detectors:compressed", "detectors:reference", "--data", "detectors:data"]
    assert main([*subjects, "--require", "lost_objects <= 0.9"]) == 0
    assert "max_class_ap_drop" in capsys.readouterr().out
