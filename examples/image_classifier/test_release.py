"""A release gate for a classifier of photographs: `pytest examples/image_classifier`. Copy it, and name your own."""

import copy

import torch

from pytest_cp import (
    assert_attribution_iou,
    assert_boundary_distance,
    assert_embeddings_preserved,
    assert_footprint,
    assert_preserved_predictions,
    check_preserved_predictions,
)


def test_predictions(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.85, max_accuracy_drop=0.05)


def test_embeddings(compressed_model, reference_model, dataset):
    assert_embeddings_preserved(compressed_model, reference_model, dataset, min_cka=0.9)


def test_attributions(compressed_model, reference_model, dataset):
    assert_attribution_iou(compressed_model, reference_model, dataset, examples=16, min_corrected_iou=0.2)


def test_boundaries(compressed_model, reference_model, dataset):
    assert_boundary_distance(compressed_model, reference_model, dataset, examples=4, max_median_change=0.3)


def test_footprint(compressed_model, reference_model):
    assert_footprint(compressed_model, reference_model, min_compression=1.8)


def test_a_scale_that_is_off_is_caught(reference_model, dataset):
    faulty = copy.deepcopy(reference_model)
    norm = next(module for module in faulty.modules() if isinstance(module, torch.nn.BatchNorm2d))
    norm.weight.data[: len(norm.weight) // 2] *= 3
    check = check_preserved_predictions(faulty, reference_model, dataset, min_agreement=0.85)
    assert not check.passed
