"""Choosing examples: against brute force, closed forms and laws."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.data import (
    craig,
    el2n_scores,
    forgetting_scores,
    herding,
    k_center,
    last_layer_gradients,
    random_selection,
    select_by_score,
    self_influence,
    support_scores,
)
from cp_compress.data.selection.selection import quotas
from cp_compress.inputs.reading import LabeledData


def points(count, dimensions=3, seed=0):
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed))


def classes(count, number=3):
    return torch.arange(count) % number


CHOOSERS = {
    "k_center": lambda rows, count, labels: k_center(rows, count, labels=labels),
    "herding": lambda rows, count, labels: herding(rows, count, labels=labels),
    "craig": lambda rows, count, labels: craig(rows, count, labels=labels),
    "craig of samples": lambda rows, count, labels: craig(rows, count, labels=labels, sample=4, seed=1),
    "random": lambda rows, count, labels: random_selection(len(rows) if labels is None else labels, count, seed=2),
    "score": lambda rows, count, labels: select_by_score(rows[:, 0], count, labels=labels),
}


@pytest.mark.parametrize("name", CHOOSERS)
@settings(max_examples=40)
@given(count=st.integers(1, 25), seed=st.integers(0, 1000), by_class=st.booleans(), copies=st.booleans())
def test_laws_of_every_selection(name, count, seed, by_class, copies):
    rows = points(25, seed=seed)
    rows = rows.round() if copies else rows  # many equal points
    labels = classes(25) if by_class else None
    count = max(count, 3) if by_class else count
    found = CHOOSERS[name](rows, count, labels)
    assert len(found) == len(set(found.indices.tolist())) == count
    assert found.indices.dtype == torch.int64
    assert found.weights.sum().item() == pytest.approx(25)
    assert (found.weights > 0).all()
    if by_class:
        shares = torch.bincount(labels[found.indices])
        assert (shares - count / 3).abs().max() < 1
        for label in range(3):
            assert found.weights[labels[found.indices] == label].sum().item() == pytest.approx(
                (labels == label).sum().item()
            )
    again = CHOOSERS[name](rows, count, labels)
    assert torch.equal(again.indices, found.indices)
    assert torch.equal(again.weights, found.weights)


@pytest.mark.parametrize("seed", range(8))
def test_k_center_is_within_twice_the_best(seed):
    rows = points(11, 2, seed)
    distances = torch.cdist(rows, rows)
    for count in (1, 2, 3, 4):
        found = k_center(rows, count, seed=seed)
        radius = distances[:, found.indices].min(1).values.max()
        best = min(distances[:, list(some)].min(1).values.max() for some in itertools.combinations(range(11), count))
        assert radius <= 2 * best + 1e-6
        owner = distances[:, found.indices].argmin(1)
        assert torch.equal(found.weights, torch.bincount(owner, minlength=count).double())


def covered(rows, chosen):
    """Return how far all points are from their nearest chosen one, in sum."""
    return float(torch.cdist(rows.double(), rows.double()[chosen]).min(1).values.sum())


@pytest.mark.parametrize("seed", range(5))
def test_craig_is_the_greedy_choice(seed):
    rows = points(60, 4, seed)
    chosen = []
    far = 2 * float((rows - rows.mean(0)).norm(dim=1).max())
    for _ in range(8):
        chosen.append(min(set(range(60)) - set(chosen), key=lambda each: covered(rows, [*chosen, each])))
    found = craig(rows, 8)
    assert found.indices.tolist() == chosen
    best = min(covered(rows[:14], list(some)) for some in itertools.combinations(range(14), 3))
    small = craig(rows[:14], 3)
    gain, largest = 14 * far - covered(rows[:14], small.indices.tolist()), 14 * far - best
    assert gain >= (1 - 1 / math.e) * largest
    owner = torch.cdist(rows, rows[found.indices]).argmin(1)
    assert torch.equal(found.weights, torch.bincount(owner, minlength=8).double())


def test_craig_of_random_candidates_covers_nearly_as_well():
    rows = points(400, 5)
    exact, sampled = craig(rows, 20), craig(rows, 20, sample=60, seed=3)
    chance = [covered(rows, random_selection(400, 20, seed=seed).indices.tolist()) for seed in range(10)]
    assert covered(rows, sampled.indices.tolist()) < 1.06 * covered(rows, exact.indices.tolist())
    assert covered(rows, sampled.indices.tolist()) < min(chance)


def test_weighted_gradients_come_near_those_of_all():
    rows = points(300, 6)
    for name, kept in (("craig", craig(rows, 30)), ("herding", herding(rows, 30))):
        error = ((kept.weights[:, None] * rows[kept.indices]).sum(0) / 300 - rows.mean(0)).norm()
        chance = [
            (rows[random_selection(300, 30, seed=seed).indices].mean(0) - rows.mean(0)).norm() for seed in range(20)
        ]
        assert error < sorted(chance)[5], name


@pytest.mark.parametrize("seed", range(4))
def test_herding_is_its_recurrence(seed):
    rows = points(30, 4, seed).double()
    mean = rows.mean(0)
    weight, chosen = mean.clone(), []
    for _ in range(12):
        order = [index for index in range(30) if index not in chosen]
        chosen.append(max(order, key=lambda index: float(weight @ rows[index])))
        weight = weight + mean - rows[chosen[-1]]
    assert herding(rows, 12).indices.tolist() == chosen


def test_scores_in_closed_form():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    labels = torch.tensor([0, 1])
    errors = torch.tensor([[-0.3, 0.2, 0.1], [0.1, -0.9, 0.8]])
    assert torch.allclose(last_layer_gradients(probabilities, labels), errors)
    expected = torch.tensor([math.sqrt(0.14), math.sqrt(1.46)], dtype=torch.float64)
    assert torch.allclose(el2n_scores(probabilities, labels), expected, atol=1e-6)
    sure = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert torch.allclose(el2n_scores(torch.stack([probabilities, sure]), labels), expected / 2, atol=1e-6)
    correct = torch.tensor([[1, 0, 0, 1], [0, 0, 1, 1], [1, 0, 0, 1], [0, 0, 1, 1]]).bool()
    assert forgetting_scores(correct).tolist() == [2.0, math.inf, 1.0, 0.0]


def test_self_influence_is_the_squared_gradient_of_the_last_layer():
    layer = torch.nn.Linear(5, 3).double()
    inputs, labels = points(6, 5).double(), torch.arange(6) % 3
    expected = []
    for row, label in zip(inputs, labels, strict=True):
        layer.zero_grad()
        torch.nn.functional.cross_entropy(layer(row[None]), label[None]).backward()
        expected.append(float(layer.weight.grad.square().sum() + layer.bias.grad.square().sum()))
    probabilities = layer(inputs).softmax(1).detach()
    found = self_influence(probabilities, inputs, labels)
    assert found.tolist() == pytest.approx(expected)
    both = self_influence(torch.stack([probabilities] * 2), torch.stack([inputs] * 2), labels)
    assert torch.allclose(both, 2 * found)


def test_support_vectors_are_at_the_boundary():
    left, right = torch.linspace(-3, -1, 20), torch.linspace(1, 3, 20)
    rows = torch.cat([left, right]).unsqueeze(1)
    labels = torch.tensor([0] * 20 + [1] * 20)
    scores = support_scores(rows, labels, penalty=1000.0)
    assert scores.nonzero().flatten().tolist() == [19, 20]
    assert select_by_score(scores, 2).indices.sort().values.tolist() == [19, 20]


def test_the_middle_and_both_ends_of_a_score():
    scores = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0, float("inf")])
    assert select_by_score(scores, 2).indices.tolist() == [5, 0]
    assert select_by_score(scores, 2, keep="lowest").indices.tolist() == [1, 3]
    assert select_by_score(scores, 2, keep="middle").indices.tolist() == [4, 2]


def test_a_number_of_examples_may_be_a_tensor():
    assert torch.equal(random_selection(torch.tensor(100), 10).indices, random_selection(100, 10).indices)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=12), st.data())
def test_whole_numbers_are_ordered_to_the_last_digit(numbers, data):
    count = data.draw(st.integers(1, len(numbers)))
    highest = sorted(range(len(numbers)), key=lambda place: -numbers[place])
    assert select_by_score(torch.tensor(numbers), count).indices.tolist() == highest[:count]


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=8), share=st.floats(0, 1))
def test_quotas(sizes, share):
    count = max(len(sizes), round(share * sum(sizes)))
    found = quotas(sizes, count)
    assert sum(found) == count
    assert all(1 <= quota <= size for quota, size in zip(found, sizes, strict=True))


class Squares(Dataset):
    def __len__(self):
        return 9

    def __getitem__(self, index):
        return torch.tensor([float(index) ** 2]), index % 2


def test_a_subset_reads_like_a_data_set():
    kept = select_by_score(torch.arange(9.0), 3)
    for data in (Squares(), (torch.arange(9.0)[:, None] ** 2, torch.arange(9) % 2)):
        inputs, labels = LabeledData(kept.subset(data)).select([0, 1, 2])
        assert inputs.flatten().tolist() == [64.0, 49.0, 36.0]
        assert labels.tolist() == [0, 1, 0]
    with pytest.raises(InvalidArgumentError, match="made from 9 examples"):
        kept.subset((torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64)))


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda: k_center(points(5), 0), r"1…5"),
        (lambda: k_center(points(5), 6), r"1…5"),
        (lambda: k_center(torch.zeros(5), 2), "one row per example"),
        (lambda: herding(torch.full((5, 2), float("nan")), 2), "must be a number"),
        (lambda: craig(points(5), 2, labels=torch.zeros(4, dtype=torch.int64)), r"\(5,\)"),
        (lambda: craig(points(5), 2, labels=torch.arange(5)), "there are 5 classes"),
        (lambda: craig(points(5), 2, sample=0), "sample"),
        (lambda: select_by_score(torch.arange(5.0), 2, keep="best"), "'highest', 'lowest', 'middle'"),
        (lambda: el2n_scores(torch.ones(2, 3), torch.tensor([0, 1])), "must be probabilities"),
        (lambda: forgetting_scores(torch.ones(2, 3)), "bool tensor"),
        (lambda: support_scores(points(5), torch.zeros(5, dtype=torch.int64)), "two classes"),
        (lambda: self_influence(torch.ones(2, 3, 2) / 2, points(3), torch.tensor([0, 1, 0])), "2 checkpoints"),
        (lambda: random_selection(0, 1), "examples"),
        (lambda: random_selection(torch.tensor(2.5), 1), r"examples=tensor\(2.5000\)\): must be a whole number"),
        (lambda: random_selection(5, 1, seed=None), "seed"),
        (lambda: k_center(points(5), 2, seed=1.5), "seed"),
        (lambda: el2n_scores(torch.ones(2, 2) / 2, torch.tensor([0, 2])), "below 2"),
        (lambda: self_influence(torch.ones(3, 2) / 2, points(1), torch.tensor([0, 1, 0])), "one row per example"),
        (lambda: select_by_score([1.0, 2.0], 1), "must be a tensor"),
        (lambda: select_by_score(points(5), 1), r"scores=\(5, 3\)\): must be a tensor \(n,\), one number per example"),
        (lambda: select_by_score(torch.tensor([1.0, float("nan")]), 1), "scores='NaN'"),
    ],
)
def test_bad_arguments_are_refused(call, rule):
    with pytest.raises(InvalidArgumentError, match=rule):
        call()


def test_parts_of_data_sets_are_read_as_they_are():
    base = [(torch.full((1,), float(index)), index % 2) for index in range(100)]
    part = Subset(base, list(range(50, 100)))
    kept = random_selection(50, 3)
    expected = [part[index][0].item() for index in kept.indices.tolist()]
    assert [inputs.item() for inputs, _ in kept.subset(part)] == expected

    def halved(rows):
        inputs, labels = default_collate(rows)
        return inputs / 2, labels

    loader = DataLoader(part, collate_fn=halved)
    assert [inputs.item() for inputs, _ in kept.subset(loader)] == [value / 2 for value in expected]


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1.0])
def test_what_is_chosen_does_not_depend_on_the_unit(scale):
    rows = points(50, 4)
    for choose in (k_center, craig):
        plain, scaled = choose(rows, 12), choose(rows * scale, 12)
        assert torch.equal(scaled.indices, plain.indices)
        assert torch.equal(scaled.weights, plain.weights)
