"""Two compressions that break the model. This gate is meant to fail, to show failure messages."""

import pytest

from pytest_cp import assert_preserved_predictions


@pytest.mark.compress_model("prune(density=0.02)")
def test_heavy_pruning(compressed_model, reference_model, dataset):
    assert_preserved_predictions(
        compressed_model, reference_model, dataset, min_agreement=0.97, max_class_accuracy_drop=0.1
    )


@pytest.mark.compress_dataset("jpeg(quality=5)")
def test_coarse_images(compressed_dataset, reference_model, dataset):
    assert_preserved_predictions(
        reference_model, reference_model, dataset, compressed_dataset=compressed_dataset, min_agreement=0.97
    )
