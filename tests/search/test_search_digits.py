"""A search on a trained network and real images, from the specification to the stored file."""

import pytest
import torch

from cp_compress import Requirement, footprint, load, save
from cp_compress.examples import digits, digits_cnn, digits_training
from cp_compress.search import Categorical, Preserved, Real, SchemeSpace, search, shared_examples


@pytest.fixture(scope="module")
def found():
    training = digits_training()
    constraints = [
        Preserved("predictions", training, Requirement("agreement", "min", 0.97, 0.95)),
        Preserved("attributions", training, Requirement("corrected_iou", "min", 0.25), {"examples": 40}),
    ]
    space = SchemeSpace(
        "prune(density={density}) | quantize({dtype})",
        density=Real(0.1, 0.9, "log"),
        dtype=Categorical(("float16", "int8")),
    )
    return search(
        digits_cnn(),
        space,
        objective="artifact_bytes",
        constraints=constraints,
        strategy="bayesian(initial=4)",
        trials=8,
        gate_data=digits(),
    )


def test_both_schemes_and_both_levels_have_their_part(found):
    assert found.trial.objective < found.reference_objective / 3
    assert found.trial.margins[0] >= 0
    assert found.trial.margins[1] >= 0
    assert {trial.point["dtype"] for trial in found.trials} == {"float16", "int8"}
    assert any(not trial.feasible for trial in found.trials)
    cheaper = [trial for trial in found.trials if trial.objective < found.trial.objective]
    assert all(not trial.feasible for trial in cheaper)


def test_fresh_images_are_judged_by_both_levels(found):
    assert [check.measurement.comparison for check in found.gate] == ["predictions", "attributions"]
    assert found.gate[0].measurement.counts["agreement"] == len(digits())
    assert found.gate[0].outcome in ("pass", "inconclusive")
    assert not shared_examples(digits(), found.search_digests)


def test_what_was_found_can_be_stored_in_the_bytes_that_were_counted(found, tmp_path):
    path = tmp_path / "model.cp"
    save(found.best, path)
    assert footprint(found.best).artifact_bytes == found.trial.objective
    # digests of the examples that the search has seen lie in the file too, and are no part of the model's size
    assert 0 < path.stat().st_size - found.trial.objective <= 12 * len(found.search_digests)
    images, _ = digits()[:50]
    with torch.no_grad():
        assert torch.equal(load(path, digits_cnn())(images), found.best(images))
