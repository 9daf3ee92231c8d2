"""Which level sees which fault: the one that must does, and those that cannot are listed as such.

| fault | A predictions | B embeddings | C attributions | D boundaries | divergence |
| --- | --- | --- | --- | --- | --- |
| one class's weights damaged | sees | – (before the last layer nothing changed) | – | sees | sees |
| one layer's scale off by 2 % | – | – | – | – | sees |
| a swapped channel pair | – | sees | – | – | sees |
| a batch normalisation left behind | sees | sees | sees | sees | sees |
| attention to the border only | – | – (the only layer gives the logits) | sees | sees | sees |
| a backdoor patch | – | – | – | along patches only | – |
"""

import pytest
import torch
from planted_faults import FAULTS, Backdoor, Looking, border, framed_images

from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import (
    DirectionBasis,
    Directions,
    compare_attributions,
    compare_boundaries,
    compare_divergence,
    compare_embeddings,
    compare_pointing,
    compare_predictions,
    find_origin,
    judge,
    observe,
)
from cp_compress.fidelity.judging.requirement import Requirement

LAYERS = ["features.3", "input:classifier.3"]


def levels(candidate, reference, *, layers=LAYERS, epsilon=1.0):
    """Return the names of the levels whose requirements fail."""
    found = {
        "A": (
            compare_predictions(candidate, reference),
            [Requirement("agreement", "min", 0.98), Requirement("max_class_accuracy_drop", "max", 0.05)],
        ),
        "C": (compare_attributions(candidate, reference, examples=64), [Requirement("mean_iou", "min", 0.8)]),
        "D": (compare_boundaries(candidate, reference, examples=16), [Requirement("preserved_fraction", "min", 0.85)]),
        "divergence": (
            compare_divergence(candidate, reference, epsilon=epsilon, examples=24),
            [Requirement("divergence_rate", "max", 0.1)],
        ),
    }
    if layers is not None:
        found["B"] = compare_embeddings(candidate, reference, layers), [Requirement("mean_angle", "max", 0.1)]
    return {name for name, (measured, required) in found.items() if not judge(measured, required).passed}


@pytest.fixture(scope="module")
def whole():
    """The reference without any fault; what is found on it once serves every fault."""
    return observe(digits_cnn(), digits())


@pytest.mark.parametrize(
    ("fault", "seen", "layer"),
    [
        ("damaged class", {"A", "D", "divergence"}, "classifier.3"),
        ("scaled layer", {"divergence"}, "features.3"),
        ("swapped channels", {"B", "divergence"}, "features.3"),
        ("normalised twice", {"A", "B", "C", "D", "divergence"}, "features.3"),
    ],
)
def test_faults_of_a_layer(whole, fault, seen, layer):
    candidate = observe(FAULTS[fault](whole.model), whole.data)
    assert levels(candidate, whole) == seen
    assert find_origin(candidate, whole).layers[0].name == layer


def test_attention_to_the_border_only():
    data = framed_images()
    candidate, reference = observe(Looking(border()), data), observe(Looking(1 - border()), data)
    assert compare_predictions(candidate, reference).metrics["agreement"] == 1
    assert levels(candidate, reference, layers=None, epsilon=0.3) == {"C", "D", "divergence"}
    pointing = compare_pointing(candidate, reference, must_not_look=border().bool())
    assert pointing.metrics["forbidden_mass"] == pytest.approx(1)
    assert find_origin(candidate, reference).layers[0].name == "head"


def patches(side=2, size=8):
    """One direction for each place of a small patch, named by it."""
    places = [(row, column) for row in range(0, size, side) for column in range(0, size, side)]
    tensor = torch.zeros(len(places), 1, size, size)
    for number, (row, column) in enumerate(places):
        tensor[number, 0, row : row + side, column : column + side] = 1
    return DirectionBasis(tuple(f"patch at {row}, {column}" for row, column in places), tensor)


def test_a_backdoor_is_seen_along_patches_only(whole):
    candidate = observe(Backdoor(whole.model), whole.data)
    assert levels(candidate, whole, layers=None, epsilon=0.3) == set()
    basis = patches()
    directions = Directions(basis.tensor, basis.names, ("patch",) * len(basis))
    found = compare_boundaries(candidate, whole, directions, examples=16, max_distance=4.0, bounds=(0, 1))
    assert not judge(found, [Requirement("preserved_fraction", "min", 0.9)]).passed
    assert "patch at 0, 0" in found.examples[0].before
