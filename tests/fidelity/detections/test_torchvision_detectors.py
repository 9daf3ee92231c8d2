"""Detectors of torchvision, compared with what a scheme makes of them and with a planted fault."""

import copy
import random

import pytest
import torch
import torchvision

from cp_compress import Quantize, compare_detections


def rectangles(count=6):
    generator = random.Random(5)
    found = []
    for _ in range(count):
        image = torch.full((3, 96, 128 if generator.random() < 0.5 else 96), 0.1)
        for _ in range(3):
            x, y = generator.randrange(60), generator.randrange(60)
            image[:, y : y + generator.randrange(10, 30), x : x + generator.randrange(10, 30)] = torch.rand(3, 1, 1)
        found.append(image)
    return found


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    build = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    return build(
        weights=None,
        weights_backbone=None,
        num_classes=4,
        min_size=96,
        max_size=128,
        box_score_thresh=0.0,
        box_detections_per_img=20,
    ).eval()


def test_a_detector_of_torchvision(detector):
    images = rectangles()
    candidate = Quantize("int8").compress(detector)
    found = compare_detections(candidate, detector, images, score_threshold=0.2, batch_size=4)
    assert found.counts["lost_objects"] > 0
    same = compare_detections(copy.deepcopy(detector), detector, images, score_threshold=0.2, batch_size=3)
    assert same["matched_f1"] == 1
    assert same["mean_score_change"] == pytest.approx(0, abs=1e-5)
    dropped = copy.deepcopy(detector)
    kind = max(found.details["tables"][0]["rows"], key=lambda row: row[1])[0]
    dropped.roi_heads.box_predictor.cls_score.bias.data[int(kind.split()[1])] -= 50  # one class of boxes is never found
    worst = compare_detections(dropped, detector, images, score_threshold=0.2)
    assert worst["min_class_f1"] == 0
    assert worst["lost_objects"] > found["lost_objects"]
