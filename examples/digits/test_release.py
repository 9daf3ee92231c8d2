"""A release gate for a small model. Copy the folder, name your model and data in pytest.ini, and set your bounds."""

import torch
from hypothesis import given, settings

from pytest_cp import (
    assert_attribution_iou,
    assert_boundary_distance,
    assert_footprint,
    assert_preserved_predictions,
    assert_reconstruction,
    direction_batches,
)

ROUND_AND_STRAIGHT = {"round": [0, 3, 5, 6, 8, 9], "straight": [1, 2, 4, 7]}


def test_predictions(compressed_model, reference_model, dataset):
    assert_preserved_predictions(
        compressed_model,
        reference_model,
        dataset,
        min_agreement=0.97,
        max_accuracy_drop=0.02,
        max_class_accuracy_drop=0.08,
        max_cost=0.02,
        class_distance=ROUND_AND_STRAIGHT,
    )


def test_accuracy_drop_is_proven_small(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, max_accuracy_drop=0.03, confidence=0.95)


def test_attributions(compressed_model, reference_model, dataset):
    assert_attribution_iou(compressed_model, reference_model, dataset, method="saliency", min_corrected_iou=0.4)


def test_boundaries(compressed_model, reference_model, dataset):
    assert_boundary_distance(compressed_model, reference_model, dataset, max_median_change=0.25)


def test_footprint(compressed_model, reference_model):
    assert_footprint(compressed_model, reference_model, min_compression=1.25)


def test_stored_data(compressed_dataset, reference_model, dataset):
    assert_reconstruction(compressed_dataset, dataset, min_psnr=20)
    assert_preserved_predictions(
        reference_model, reference_model, dataset, compressed_dataset=compressed_dataset, min_agreement=0.97
    )


@settings(max_examples=10, deadline=None)
@given(directions=direction_batches((1, 8, 8)))
def test_any_wave(compressed_model, reference_model, dataset, directions):
    assert_boundary_distance(
        compressed_model,
        reference_model,
        dataset,
        directions=directions,
        examples=8,
        max_distance=6.0,
        max_mean_abs_log_ratio=0.5,
    )


def test_reference_is_good(reference_model, dataset):
    images, labels = dataset.tensors
    with torch.no_grad():
        assert (reference_model(images).argmax(dim=1) == labels).double().mean() > 0.97
