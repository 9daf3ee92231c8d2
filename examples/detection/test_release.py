"""A release gate for an object detector: `pytest examples/detection`. Copy the folder, and name your own in it."""

import copy
import os

from pytest_cp import assert_detections_preserved, check_detections_preserved

FOUND = {"score_threshold": 0.4}
LABELLED = {} if "CP_IMAGES" in os.environ else {"max_map_drop": 0.02, "max_class_ap_drop": 0.05}


def test_what_is_found_stays(compressed_model, reference_model, dataset):
    assert_detections_preserved(
        compressed_model,
        reference_model,
        dataset,
        **FOUND,
        **LABELLED,
        min_matched_f1=0.95,
        min_class_f1=0.9,
        min_mean_matched_iou=0.9,
        max_mean_score_change=0.05,
    )


def test_little_is_lost_in_other_images_too(compressed_model, reference_model, dataset):
    assert_detections_preserved(
        compressed_model, reference_model, dataset, **FOUND, max_lost_objects=0.15, confidence=0.9
    )


def test_a_class_that_is_lost_is_caught(reference_model, dataset):
    if "CP_DETECTOR" in os.environ:
        return
    blind = copy.deepcopy(reference_model)
    blind.head.classification_head.cls_logits.bias.data[2] -= 20
    check = check_detections_preserved(blind, reference_model, dataset, **FOUND, max_class_ap_drop=0.05)
    assert not check.passed
