"""The release gate on CIFAR-10: predictions, attributions, boundaries and compressed data."""

from pytest_cp import (
    assert_attribution_iou,
    assert_boundary_distance,
    assert_footprint,
    assert_preserved_predictions,
    assert_reconstruction,
)

ANIMALS_AND_VEHICLES = {
    "animals": ["bird", "cat", "deer", "dog", "frog", "horse"],
    "vehicles": ["airplane", "automobile", "ship", "truck"],
}


def test_predictions(compressed_model, reference_model, dataset):
    assert_preserved_predictions(
        compressed_model,
        reference_model,
        dataset,
        min_agreement=0.96,
        max_accuracy_drop=0.02,
        max_class_accuracy_drop=0.08,
        max_cost=0.02,
        class_distance=ANIMALS_AND_VEHICLES,
    )


def test_attributions(compressed_model, reference_model, dataset):
    assert_attribution_iou(compressed_model, reference_model, dataset, examples=64, min_corrected_iou=0.4)


def test_boundaries(compressed_model, reference_model, dataset):
    assert_boundary_distance(compressed_model, reference_model, dataset, examples=8, max_median_change=0.25)


def test_footprint(compressed_model, reference_model):
    assert_footprint(compressed_model, reference_model, min_compression=1.25)


def test_stored_images(compressed_dataset, reference_model, dataset):
    assert_reconstruction(compressed_dataset, dataset, min_psnr=35, max_bytes_per_example=2500)
    assert_preserved_predictions(
        reference_model, reference_model, dataset, compressed_dataset=compressed_dataset, max_accuracy_drop=0.03
    )
