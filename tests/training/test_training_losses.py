"""Preservation terms: zero for the reference itself, closed forms, and multipliers that make a constraint hold."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.examples import digits, digits_cnn, digits_training
from cp_compress.fidelity import compare_embeddings, compare_predictions, minibatch_cka, observe
from cp_compress.fidelity.attributions.jaccard import split_jaccard
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.model import Prune
from cp_compress.search import (
    PreserveAgreement,
    PreserveAttribution,
    PreserveCost,
    PreserveEmbedding,
    train_compressed,
)
from cp_compress.training.loop import Task, see
from cp_compress.training.losses import Batch
from cp_compress.training.multipliers import Multipliers

NAMES = tuple("abcd")
GROUPS = {"first": [0, 1], "second": [2, 3]}
TERMS = [
    PreserveAgreement(0.1),
    PreserveCost(0.1, GROUPS),
    PreserveEmbedding(0.1, layer="layer"),
    PreserveAttribution(0.1),
]


def make_batch(candidate, reference, inputs):
    """Return a batch with the logits of two networks as their only features."""
    leaf = inputs.clone().requires_grad_()
    logits, before = candidate(leaf), reference(inputs).detach()
    features = {"layer": logits}, {"layer": before}
    return Batch(leaf, logits, before, *features, reference)


@pytest.fixture
def networks():
    torch.manual_seed(0)
    return nn.Linear(6, 4), nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))


def value(term, batch):
    return term.bind(NAMES, torch.device("cpu"))(batch)


@pytest.mark.parametrize("term", TERMS, ids=lambda term: type(term).__name__)
def test_a_term_is_positive_has_a_gradient_and_vanishes_for_the_reference(networks, term):
    candidate, reference = networks
    inputs = torch.randn(8, 6)
    found = value(term, make_batch(candidate, reference, inputs))
    assert float(found.detach()) > 0.01
    (gradient,) = torch.autograd.grad(found, candidate.weight)
    assert gradient.any()
    assert gradient.isfinite().all()
    expected = 0.0
    if isinstance(term, PreserveCost):  # in expectation even the reference's own probabilities cost something
        probabilities, classes = reference(inputs).softmax(1).detach(), reference(inputs).argmax(1)
        other = torch.tensor([[0.0, 0, 1, 1]] * 2 + [[1.0, 1, 0, 0]] * 2)
        expected = float((probabilities * other[classes]).sum(1).mean())
    assert float(value(term, make_batch(reference, reference, inputs)).detach()) == pytest.approx(expected, abs=1e-5)


def test_agreement_is_the_softened_divergence(networks):
    batch = make_batch(*networks, torch.randn(8, 6))
    p, q = (F.softmax(logits.detach() / 3, 1) for logits in (batch.reference_logits, batch.logits))
    expected = 9 * (p * (p / q).log()).sum(1).mean()
    assert float(value(PreserveAgreement(0.1, temperature=3), batch).detach()) == pytest.approx(float(expected))


def test_a_certain_change_costs_its_distance_and_weighs_its_class():
    reference = torch.tensor([[9.0, 0, 0, 0], [9.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 9.0, 0]])
    after = torch.tensor([[99.0, 0, 0, 0], [0, 99.0, 0, 0], [0, 0, 99.0, 0], [99.0, 0, 0, 0]])
    batch = Batch(torch.zeros(4, 1), after, reference)
    assert float(value(PreserveCost(1.0), batch)) == pytest.approx(0.75)
    assert float(value(PreserveCost(1.0, GROUPS), batch)) == pytest.approx(0.5)
    assert float(value(PreserveCost(1.0, GROUPS, {"c": 3.0}), batch)) == pytest.approx(4 / 6)


def test_embeddings_may_turn_and_scale_but_not_mix():
    torch.manual_seed(0)
    features = torch.randn(10, 4)
    turn = torch.linalg.qr(torch.randn(4, 4))[0]
    batch = Batch(features, features, features, {"layer": 3 * features @ turn + 1}, {"layer": features})
    assert float(value(PreserveEmbedding(0.1, layer="layer"), batch)) == pytest.approx(0.0, abs=1e-5)
    stretched = features * torch.tensor([9.0, 1, 1, 1])
    batch = Batch(features, features, features, {"layer": stretched}, {"layer": features})
    expected = 1 - minibatch_cka(stretched, features)
    assert expected > 0.1
    assert float(value(PreserveEmbedding(0.1, layer="layer"), batch)) == pytest.approx(expected, rel=1e-4)


def test_features_are_what_a_layer_gave_before_it_was_overwritten():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))
    inputs, task = torch.randn(9, 5), SimpleNamespace(terms=(PreserveEmbedding(0.1, layer="0"),))
    batch = see(task, inputs, Runner(model), Runner(model))
    assert torch.equal(batch.features["0"], model[0](inputs))
    assert torch.equal(batch.reference_features["0"], model[0](inputs))
    weight = model[0].weight
    (gradient,) = torch.autograd.grad(batch.features["0"].square().sum(), weight)
    assert torch.allclose(gradient, torch.autograd.grad(model[0](inputs).square().sum(), weight)[0])


@pytest.mark.parametrize("layer", ["features.3", "classifier.1"])
def test_the_embedding_term_is_what_level_b_measures(layer):
    model, data = digits_cnn(), digits()
    candidate = Prune(0.2).compress(model)
    inputs, labels = data.tensors[0][:64], data.tensors[1][:64]
    measured = compare_embeddings(observe(candidate, (inputs, labels)), observe(model, (inputs, labels)), layer)
    task = Task(data, NAMES, F.cross_entropy, (PreserveEmbedding(0.1, layer=layer),), 64, 0, None, None, None)
    batch = see(task, inputs, Runner(candidate), Runner(model))
    expected = 1 - measured.metrics["cka"]
    assert expected > 0.001
    assert float(value(task.terms[0], batch).detach()) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_embedding_term_of_unrelated_features_is_one_however_wide_they_are():
    torch.manual_seed(0)
    for width in (64, 1536):
        batch = Batch(torch.zeros(64, 1), *torch.zeros(2, 64, 4), *({"layer": torch.randn(64, width)} for _ in "ab"))
        assert float(value(PreserveEmbedding(0.1, layer="layer"), batch)) == pytest.approx(1, abs=0.1)


def test_the_embedding_term_of_batches_that_say_nothing_does_not_hold():
    mine = torch.randn(3, 5, requires_grad=True)
    batch = Batch(torch.zeros(3, 1), *torch.zeros(2, 3, 4), {"layer": mine}, {"layer": mine.detach()})
    found = value(PreserveEmbedding(0.1, layer="layer"), batch)
    assert float(found.detach()) == 1
    assert not torch.autograd.grad(found, mine)[0].any()


def test_attribution_goes_with_the_jaccard_index_that_judges_it(networks):
    candidate, reference = networks
    inputs = torch.randn(1, 6)
    distance = 2 * float(value(PreserveAttribution(0.1), make_batch(candidate, reference, inputs)).detach())
    maps = []
    for model in networks:
        leaf = inputs.clone().requires_grad_()
        maps.append(torch.autograd.grad(model(leaf)[0, reference(inputs).argmax()], leaf)[0])
    assert float(split_jaccard(*maps)) == pytest.approx((2 - distance) / (2 + distance), rel=1e-5)


def test_multipliers_grow_while_a_constraint_is_violated_and_never_below_zero():
    multipliers = Multipliers([1.0, 1.0], rate=0.1, start=0.25)
    for _ in range(40):
        multipliers.update(torch.tensor([5.0, 0.0]))
    assert multipliers.values.tolist() == pytest.approx([4.25, 0.0])
    combined = multipliers.combine(torch.tensor(2.0), [torch.tensor(3.0), torch.tensor(7.0)])
    assert float(combined) == pytest.approx((2.0 + 4.25 * 2.0) / 5.25)
    assert float(Multipliers([], rate=0.1).combine(torch.tensor(2.0), [])) == 2.0


def test_a_constrained_problem_is_solved_by_its_multiplier():
    # min x² subject to (x − 2)² ≤ 1 has its solution at x = 1
    x = torch.tensor(0.0, requires_grad=True)
    multipliers = Multipliers([1.0], rate=0.02)
    optimizer = torch.optim.SGD([x], lr=0.02)
    for _ in range(3000):
        optimizer.zero_grad()
        term = (x - 2) ** 2
        multipliers.combine(x**2, [term]).backward()
        optimizer.step()
        multipliers.update(term.detach().view(1))
    assert float(x.detach()) == pytest.approx(1.0, abs=0.02)
    assert float(multipliers.values) == pytest.approx(1.0, abs=0.1)  # 2x + λ·2(x − 2) = 0


def test_training_keeps_what_plain_training_gives_up():
    """Labels are turned round, so that the loss alone leads away from the reference; the constraint holds it."""
    model = digits_cnn()
    inputs, labels = digits_training().tensors
    data = inputs[:512], (labels[:512] + 1) % 10
    options = {"epochs": 6, "batch_size": 64, "multiplier_rate": 0.2}
    plain = train_compressed(model, Prune(0.3), data, **options)
    kept = train_compressed(model, Prune(0.3), data, preserve=[PreserveAgreement(at_most=0.1)], **options)
    found = [
        compare_predictions(observe(result.model, data), observe(model, data)).metrics["agreement"]
        for result in (plain, kept)
    ]
    assert found[0] < 0.5
    assert found[1] > 0.9
    last = kept.history[-1]
    assert last["multiplier of PreserveAgreement"] > kept.history[0]["multiplier of PreserveAgreement"]


@pytest.mark.parametrize(
    ("kind", "arguments", "name"),
    [
        (PreserveAgreement, {"at_most": 0}, "at_most"),
        (PreserveAgreement, {"at_most": 0.1, "temperature": 0}, "temperature"),
        (PreserveCost, {"at_most": -1}, "at_most"),
        (PreserveEmbedding, {"at_most": 0.1}, "layer"),
        (PreserveAttribution, {"at_most": float("nan")}, "at_most"),
    ],
)
def test_arguments_out_of_range_are_refused(kind, arguments, name):
    with pytest.raises(InvalidArgumentError, match=rf"{kind.__name__}\({name}="):
        kind(**arguments)
