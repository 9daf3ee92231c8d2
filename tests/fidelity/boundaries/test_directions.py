"""Directions: unit length, readable names, digests that tell sets apart, and families that mean what they say."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.fidelity import benign_directions, compare_boundaries, observe, worst_case_directions
from cp_compress.fidelity.boundaries.directions import DirectionBasis, Directions, join_directions, low_frequency_basis
from cp_compress.fidelity.boundaries.families import (
    class_gradient_directions,
    gate_directions,
    gaussian_directions,
    low_frequency_directions,
    residual_directions,
)
from cp_compress.fidelity.boundaries.gate_directions import compare_standard_boundaries
from cp_compress.fidelity.boundaries.search import boundary_distances

SHAPES = [(3, 8, 8), (1, 8, 8), (5, 6, 7), (8, 8), (20,), (1,), (3, 1, 1), (2, 1, 9)]


def model_and_data(features=12, classes=5, count=9):
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(features, 30), nn.Tanh(), nn.Linear(30, classes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    inputs = torch.randn(count, features, generator=generator)
    return model, (inputs, torch.zeros(count, dtype=torch.int64))


@pytest.mark.parametrize("shape", SHAPES)
def test_waves_are_unit_vectors_and_independent_within_a_channel(shape):
    basis = low_frequency_basis(shape)
    assert basis.tensor.shape[1:] == shape
    rows = basis.tensor.double().flatten(1)
    assert torch.allclose(rows.norm(dim=1), torch.ones(len(rows), dtype=torch.float64))
    assert len(set(basis.names)) == len(basis)
    alone = [row for row, name in zip(rows, basis.names, strict=True) if "all channels" not in name]
    gram = torch.stack(alone) @ torch.stack(alone).T
    assert torch.allclose(gram, torch.eye(len(alone), dtype=torch.float64), atol=1e-6)


def test_names_say_what_the_waves_do():
    basis = low_frequency_basis((3, 16, 16))
    waves = dict(zip(basis.names, basis.tensor, strict=True))
    red = waves["red channel, one horizontal wave"]
    assert not red[1:].any()
    assert torch.allclose(red[0], red[0, :1].expand(16, 16))
    assert int((red[0, 0, :-1] * red[0, 0, 1:] < 0).sum()) == 2
    half = waves["all channels, half a vertical wave"]
    assert torch.allclose(half, half[:1, :, :1].expand(3, 16, 16))
    assert int((half[0, :-1, 0] * half[0, 1:, 0] < 0).sum()) == 1
    assert torch.unique(waves["blue channel, uniform"][2]).numel() == 1
    assert low_frequency_basis((1, 8, 8)).names[:3] == ("uniform", "half a horizontal wave", "half a vertical wave")
    assert low_frequency_basis((5, 8, 8)).names[1] == "channel 0, uniform"


@given(st.data())
def test_combinations_are_sums_and_their_names_list_the_terms(data):
    basis = low_frequency_basis((3, 8, 8))
    coefficient = st.integers(-4, 4).filter(bool)
    terms = data.draw(st.dictionaries(st.integers(0, len(basis) - 1), coefficient, min_size=1, max_size=3))
    combined = basis.combine([terms, {0: 1}])
    mixed = sum(value * basis.tensor[index].double() for index, value in terms.items())
    assert torch.allclose(combined.tensor[0].double(), mixed / mixed.norm(), atol=1e-5)
    assert all(basis.names[index] in combined.names[0] for index in terms)
    assert combined.names[1] == "all channels, uniform"
    assert combined.families == ("combination", "combination")


def test_names_of_combinations():
    basis = DirectionBasis(("a", "b", "c"), torch.eye(3))
    assert basis.combine([{0: 1}]).names == ("a",)
    assert basis.combine([{0: -1}]).names == ("−a",)
    assert basis.combine([{2: -1, 0: 3, 1: 0}]).names == ("3 × a − c",)
    assert basis.combine([{0: -2, 1: 1}]).names == ("−2 × a + b",)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda basis: basis.combine([{0: 0}]), "one coefficient"),
        (lambda basis: basis.combine([{}]), "one coefficient"),
        (lambda basis: basis.combine([]), "one combination"),
        (lambda basis: basis.combine([{9: 1}]), r"0\.\.2"),
        (lambda basis: basis.combine([{0: 0.5}]), "whole"),
        (lambda basis: DirectionBasis(("a",), torch.eye(2)), "one text for each of 2"),
        (lambda basis: Directions(torch.eye(2).long(), ("a", "b"), ("f", "f")), "floating-point"),
        (lambda basis: Directions(torch.zeros(1, 2), ("a",), ("f",)), "a.*zero or not finite"),
        (lambda basis: join_directions([]), "the same input shape"),
        (lambda basis: join_directions([basis.combine([{0: 1}]), gaussian_directions((4,), 1, 0)]), "same input shape"),
        (lambda basis: low_frequency_basis((2, 3, 4, 5)), "pass a tensor instead"),
        (lambda basis: low_frequency_basis((8, 8), half_waves=9), "half_waves=9"),
        (lambda basis: gaussian_directions((3,), 0, 0), "count=0"),
        (lambda basis: gaussian_directions((), 1, 0), "input_shape"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(InvalidArgumentError, match=message):
        make(DirectionBasis(("a", "b", "c"), torch.eye(3)))


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_extreme_lengths_are_scaled_without_loss(size):
    directions = Directions(torch.tensor([[3 * size, 4 * size]], dtype=torch.float64), ("a",), ("f",))
    assert directions.tensor.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]


def test_digests_tell_sets_apart():
    one = gaussian_directions((4,), 3, seed=0)
    assert one.digest == gaussian_directions((4,), 3, seed=0).digest
    assert one.digest != gaussian_directions((4,), 3, seed=1).digest
    assert one.digest != Directions(one.tensor, ("a", "b", "c"), one.families).digest
    assert one.digest != Directions(one.tensor * torch.tensor([[1.0], [1.0], [-1.0]]), one.names, one.families).digest


def test_class_gradients_are_gradients_of_logit_differences_by_rank():
    model, data = model_and_data()
    seen = observe(model, data)
    found = class_gradient_directions(seen, [0, 4], batch_size=1)
    assert found.per_example
    assert found.tensor.shape == (2, 4, 12)
    assert found.names[:2] == ("gradient towards the runner-up", "gradient towards the third class")
    assert len(set(found.names)) == 4
    for row, example in enumerate([0, 4]):
        leaf = data[0][example].clone().requires_grad_()
        logits = model(leaf)
        order = logits.argsort(descending=True)
        for rank in range(4):
            expected = torch.autograd.grad(logits[order[rank + 1]] - logits[order[0]], leaf, retain_graph=True)[0]
            assert torch.allclose(found.tensor[row, rank], expected / expected.norm(), atol=1e-5)
    assert len(class_gradient_directions(seen, [0], count=2)) == 2
    assert all(parameter.grad is None for parameter in model.parameters())


def test_class_gradients_reach_another_class_sooner_than_noise():
    model, data = model_and_data(features=200, classes=5, count=12)
    seen = observe(model, data)
    near, far = (
        boundary_distances(model, data[0], directions, max_distance=30.0).amin(dim=1).median()
        for directions in (class_gradient_directions(seen), gaussian_directions((200,), 40, seed=0))
    )
    assert near < far / 2


def test_class_gradients_need_gradients_that_lead_somewhere():
    table = torch.eye(3)
    with pytest.raises(ObservationError, match="along class gradients needs a model that is differentiable"):
        class_gradient_directions(observe(lambda x: table[x[:, 0].long()], (torch.zeros(2, 1), torch.tensor([0, 1]))))

    class Dead(nn.Module):
        def forward(self, x):
            return torch.stack([torch.relu(x).sum(dim=1), x.sum(dim=1) * 0 - 1], dim=1)

    inputs = torch.tensor([[1.0], [-1.0]])
    with pytest.raises(ObservationError, match="zero, NaN or infinite on 1 examples \\(first #1\\)"):
        class_gradient_directions(observe(Dead(), (inputs, torch.tensor([0, 0]))))


def test_residuals_point_to_what_was_decoded():
    original = torch.rand(3, 1, 4, 4)
    decoded = original + torch.randn(3, 1, 4, 4) * 0.1
    found = residual_directions(decoded, original)
    expected = decoded - original
    assert torch.allclose(found.tensor[:, 0], expected / expected.flatten(1).norm(dim=1).view(-1, 1, 1, 1), atol=1e-5)
    decoded[1] = original[1]
    with pytest.raises(InvalidArgumentError, match=r"examples \[1\] were decoded exactly \(1 of 3\)"):
        residual_directions(decoded, original)
    with pytest.raises(InvalidArgumentError, match="one shape"):
        residual_directions(decoded[:2], original)
    with pytest.raises(InvalidArgumentError, match="floating-point"):
        residual_directions(decoded.to(torch.uint8), original.to(torch.uint8))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 8), (8, 8), (30,)])
def test_the_gate_is_fixed_by_reference_examples_and_seed(shape):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(torch.tensor(shape).prod()), 4))
    inputs = torch.randn(6, *shape)
    seen = observe(model, (inputs, torch.zeros(6, dtype=torch.int64)))
    gate = gate_directions(seen, [0, 2], seed=1)
    assert gate.tensor.shape[:2] == (2, len(gate.names))
    assert list(dict.fromkeys(gate.families)) == ["class gradient", "low frequency", "Gaussian"]
    assert gate.families.count("class gradient") == 3
    assert gate.digest == gate_directions(seen, [0, 2], seed=1).digest
    for other in (gate_directions(seen, [0, 2], seed=2), gate_directions(seen, [0, 3], seed=1)):
        assert gate.digest != other.digest
    residuals = residual_directions(inputs[[0, 2]] + 0.1, inputs[[0, 2]])
    wider = gate_directions(seen, [0, 2], seed=1, residuals=residuals)
    assert wider.families[-1] == "residual"
    assert torch.equal(wider.tensor[:, :-1], gate.tensor)
    with pytest.raises(InvalidArgumentError, match="the same 1 examples"):
        gate_directions(seen, [0], residuals=residuals)


def test_joining_shared_directions_keeps_them_shared():
    joined = join_directions([gaussian_directions((8, 8), 2, 0), low_frequency_directions((8, 8), 3)])
    assert not joined.per_example
    assert joined.tensor.shape == (5, 8, 8)
    assert joined.names[2] == "uniform"


def test_absent_directions_are_zero_and_stay_absent_when_joined():
    absent = torch.tensor([[False, True], [False, False]])
    found = Directions(torch.randn(2, 2, 5), ("a", "b"), ("f", "f"), per_example=True, absent=absent)
    assert not found.tensor[0, 1].any()
    joined = join_directions([gaussian_directions((5,), 1, 0), found])
    assert joined.absent.nonzero().tolist() == [[0, 2]]
    for wrong in (absent[:1], absent.long()):
        with pytest.raises(InvalidArgumentError, match="absent"):
            Directions(torch.randn(2, 2, 5), ("a", "b"), ("f", "f"), per_example=True, absent=wrong)


def pictures(count, classes=10):
    torch.manual_seed(0)
    reference = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 16), nn.Tanh(), nn.Linear(16, classes)).double()
    candidate = copy.deepcopy(reference)
    with torch.no_grad():
        candidate[1].weight.add_(0.002 * torch.randn_like(candidate[1].weight))
    data = torch.rand(count, 3, 12, 12, dtype=torch.float64), torch.zeros(count, dtype=torch.int64)
    return observe(candidate, data), observe(reference, data)


@pytest.mark.parametrize(
    ("name", "make"),
    [("gate", gate_directions), ("worst", worst_case_directions), ("benign", benign_directions)],
)
def test_the_size_of_a_block_changes_no_result(name, make):
    candidate, reference = pictures(20)
    chosen, options = [3, 19, 0], {"max_distance": 6.0, "steps": 4, "bisections": 3}
    whole = make(reference, chosen)
    inputs = reference.data.select(chosen)[0]
    expected = boundary_distances(reference.model, inputs, whole, **options)
    if whole.absent is not None:
        expected = expected.masked_fill(whole.absent, torch.nan)
    for batch_size in (2, 64):
        found = compare_boundaries(candidate, reference, name, examples=chosen, batch_size=batch_size, **options)
        assert found.details["directions_digest"] == whole.digest
        torch.testing.assert_close(found.per_example["reference_distance"], expected, atol=1e-9, rtol=0, equal_nan=True)


class LargestTensor(TorchDispatchMode):
    """Remembers how many bytes the largest tensor has that is made inside."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        sizes = [part.nbytes for part in tree_leaves(made) if isinstance(part, torch.Tensor)]
        self.bytes = max(self.bytes, *sizes, 0)
        return made


@pytest.mark.parametrize("name", ["gate", "worst", "benign", "standard"])
def test_memory_is_bounded_by_the_batch_size_and_not_by_the_examples(name):
    candidate, reference = pictures(40, classes=4)
    compare = compare_standard_boundaries if name == "standard" else compare_boundaries
    names = {} if name == "standard" else {"directions": name}
    with LargestTensor() as largest:
        compare(candidate, reference, examples=None, steps=1, bisections=0, batch_size=8, max_distance=1.0, **names)
    inputs = 40 * 3 * 12 * 12
    assert largest.bytes <= 8 * inputs  # no more than the data itself
    kept = [*reference._derived.values(), *candidate._derived.values()]
    assert all(value.tensor.numel() <= inputs for value in kept if isinstance(value, Directions))
