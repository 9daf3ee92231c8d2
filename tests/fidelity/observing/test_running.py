"""A model may write to what it is given: results and the caller's tensors are those of one that does not."""

import copy

import pytest
import torch
from torch import nn

from cp_compress.fidelity import (
    Occlusion,
    boundary_distances,
    compare_attributions,
    find_divergence,
    find_origin,
    observe,
)


class Halving(nn.Module):
    """Halves its inputs, in place or not, and maps them to logits."""

    def __init__(self, in_place):
        super().__init__()
        torch.manual_seed(0)
        self.in_place = in_place
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3))

    def forward(self, inputs):
        return self.layers(inputs.mul_(0.5) if self.in_place else inputs * 0.5)


def pair(in_place):
    reference = Halving(in_place).eval()
    candidate = copy.deepcopy(reference)
    with torch.no_grad():
        for layer in (candidate.layers[1], candidate.layers[3]):
            noise = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1))
            layer.weight.add_(0.3 * noise)
    return candidate, reference


def images():
    inputs = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    return inputs, torch.arange(40) % 3


def origin(candidate, reference, data):
    found = find_origin(observe(candidate, data), observe(reference, data))
    return [(layer.name, layer.restored, layer.added_snr) for layer in found.layers]


def divergence(candidate, reference, data):
    found = find_divergence(candidate, reference, data[0], epsilon=0.5, restarts=0, minimise=True)
    return found.found.tolist(), found.inputs.tolist()


def occlusion(candidate, reference, data):
    found = compare_attributions(observe(candidate, data), observe(reference, data), Occlusion(2, 1), examples=40)
    return found.metrics


def distances(candidate, reference, data):
    return boundary_distances(candidate, data[0], torch.eye(16).view(16, 1, 4, 4), max_distance=4.0).tolist()


@pytest.mark.parametrize("ask", [origin, divergence, occlusion, distances])
def test_a_model_that_writes_to_its_input_changes_nothing(ask):
    data = images()
    expected = ask(*pair(False), images())
    assert ask(*pair(True), data) == expected
    assert torch.equal(data[0], images()[0])


def test_large_inputs_are_observed_in_small_batches_with_the_same_answers():
    sizes = []

    def first_values(images):
        sizes.append(len(images))
        return images[:, 0, 0, :3]

    inputs = torch.rand(21, 3, 256, 256, generator=torch.Generator().manual_seed(3))
    seen = observe(first_values, (inputs, torch.arange(21) % 3), batch_size=20)
    assert torch.equal(seen.logits, inputs[:, 0, 0, :3])
    assert max(sizes) == 8
    assert seen.batches == (8, 1)
    sizes.clear()
    deployed = observe(first_values, (inputs, torch.arange(21) % 3), batch_size=20, deployed_batch_size=20)
    assert torch.equal(deployed.logits, seen.logits)
    assert max(sizes) == 20
    assert deployed.batches == (20, 1)
