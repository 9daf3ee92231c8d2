"""Level D on a trained network and real images: right against dense scans, and figures that must come again."""

import cifar_resnet
import pytest
import torch

from cp_compress import parse_scheme
from cp_compress.fidelity import observe
from cp_compress.fidelity.boundaries.comparison import compare_boundaries
from cp_compress.fidelity.boundaries.families import gate_directions, gaussian_directions
from cp_compress.fidelity.boundaries.search import search_boundaries

pytestmark = pytest.mark.cifar10
REACH = 8.0


@pytest.fixture(scope="module")
def reference():
    return observe(cifar_resnet.resnet20(), cifar_resnet.images(32))


def test_distances_are_right_against_a_dense_scan(reference):
    chosen = [4, 25]
    directions = gate_directions(reference, chosen, low_frequency=2, gaussian=1)
    inputs, _ = reference.data.select(chosen)
    found = search_boundaries(reference.model, inputs, directions, max_distance=REACH, steps=32)
    points, wrong = 320, 0
    places = torch.arange(1, points + 1) * (REACH / points)
    for example in range(len(chosen)):
        for ray in range(len(directions)):
            claimed = float(found.distances[example, ray])
            # up to where a change is claimed there must be none; from there on the claim speaks for itself
            before = places[places < claimed - REACH / 32]
            if not len(before):
                continue
            with torch.no_grad():
                moved = inputs[example] + before.view(-1, 1, 1, 1) * directions.tensor[example, ray]
                classes = torch.cat([reference.model(part).argmax(dim=1) for part in moved.split(32)])
            wrong += bool((classes != found.seed_classes[example]).any())
    assert wrong == 0


def test_gradients_reach_another_class_far_sooner_than_noise(reference):
    found = compare_boundaries(
        observe(parse_scheme("quantize(int8)").compress(reference.model), reference.data),
        reference,
        max_distance=REACH,
        examples=2,
    )
    rows = {row["family"]: row for row in found.details["families"]}
    assert rows["class gradient"]["median_reference_distance"] * 4 < rows["Gaussian"]["median_reference_distance"]
    assert found.metrics["mean_abs_log_ratio"] < 0.15


def test_pruning_moves_boundaries_as_measured(reference):
    directions = gaussian_directions((3, 32, 32), 6, seed=0)
    ratios = {}
    for scheme in ("prune(density=0.5)", "quantize(int8)"):
        candidate = observe(parse_scheme(scheme).compress(reference.model), reference.data)
        found = compare_boundaries(candidate, reference, directions, max_distance=REACH, examples=10)
        ratios[scheme] = found.details["median_ratio"], found.metrics["mean_abs_log_ratio"]
    assert ratios["prune(density=0.5)"][0] == pytest.approx(0.92, abs=0.1)
    assert 0.1 < ratios["prune(density=0.5)"][1] < 0.4
    assert ratios["quantize(int8)"][0] == pytest.approx(1, abs=0.03)
    assert ratios["quantize(int8)"][1] < 0.05
