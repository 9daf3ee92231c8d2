"""Inputs on which two models disagree: closed forms, what must not be found, and the limits of the search."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cp_compress.base.batching import BatchSize
from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import (
    compare_divergence,
    find_divergence,
    observe,
)
from cp_compress.fidelity.divergence.labels import Labeler
from cp_compress.fidelity.divergence.search import Search
from cp_compress.fidelity.divergence.space import search_space
from cp_compress.model import parse_scheme


def halfspace(normal, level):
    """Class 1 where normal · x > level."""
    model = nn.Linear(len(normal), 2)
    with torch.no_grad():
        model.weight.copy_(torch.stack([-torch.tensor(normal), torch.tensor(normal)]) / 2)
        model.bias.copy_(torch.tensor([level, -level]) / 2)
    return model.eval()


def digit_seeds(count=24):
    return observe(digits_cnn(), digits()).data.select(range(count))[0]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_finds_the_wedge_between_parallel_planes_where_the_ball_reaches_it(norm):
    reference, candidate = halfspace([1.0, 0.0], 0.5), halfspace([1.0, 0.0], 0.51)
    seeds = torch.tensor([[0.3, 0.5], [0.45, 0.5], [0.7, 0.5], [0.0, 0.5]])
    found = find_divergence(candidate, reference, seeds, epsilon=0.25, norm=norm)
    assert found.found.tolist() == [True, True, True, False]
    hits = found.inputs[found.found]
    assert bool(((hits[:, 0] > 0.5) & (hits[:, 0] < 0.51)).all())
    assert bool((found.reference_classes[found.found] == 1).all())
    assert bool((found.candidate_classes[found.found] == 0).all())
    assert torch.equal(found.inputs[3], seeds[3])
    assert found.linf[3].isnan()


def test_halvings_are_logarithmic_in_the_width_of_the_wedge():
    reference = halfspace([1.0, 0.0], 0.5)
    seeds = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * 0.4
    for width in (1e-2, 1e-4):
        found = find_divergence(
            halfspace([1.0, 0.0], 0.5 + width), reference, seeds, epsilon=1.0, min_margin=0.0, restarts=0
        )
        assert bool(found.found.all())
        # the path is at most 1 long; one more query for its end and one for rounding
        assert int(found.queries.max()) <= np.ceil(np.log2(1 / width)) + 2


def test_minimised_inputs_lie_at_the_near_side_of_the_wedge():
    reference, candidate = halfspace([1.0, 0.0], 0.5), halfspace([1.0, 0.0], 0.6)
    found = find_divergence(candidate, reference, torch.tensor([[0.1, 0.5]]), epsilon=0.9, minimise=True)
    assert float(found.inputs[0, 0]) == pytest.approx(0.5, abs=2e-4)  # as near as the margin of 1e-4 allows
    assert float(found.linf[0]) == pytest.approx(0.4, abs=2e-4)


def test_every_hit_is_a_disagreement_inside_the_ball():
    model, seeds = digits_cnn(), digit_seeds()
    candidate = parse_scheme("quantize(int4)").compress(model)
    found = find_divergence(candidate, model, seeds, epsilon=0.25)
    assert int(found.found.sum()) >= 20
    for row in found.found.nonzero().flatten().tolist():
        one = found.inputs[row : row + 1]
        with torch.no_grad():
            assert int(model(one).argmax()) == int(found.reference_classes[row])
            assert int(candidate(one).argmax()) == int(found.candidate_classes[row])
        assert int(found.reference_classes[row]) != int(found.candidate_classes[row])
    assert float((found.inputs - seeds).abs().max()) <= 0.25 + 1e-6
    assert 0 <= float(found.inputs.min()) <= float(found.inputs.max()) <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_lattice_inputs_are_valid_images(norm):
    model = digits_cnn()
    seeds = (digit_seeds() * 255).round() / 255
    epsilon = 60 / 255 if norm == "linf" else 2.0
    found = find_divergence(
        parse_scheme("prune(density=0.3)").compress(model), model, seeds, epsilon=epsilon, norm=norm, lattice="uint8"
    )
    assert int(found.found.sum()) > int(found.already.sum())
    levels = (found.inputs * 255).round()
    assert torch.equal(levels / 255, found.inputs)
    assert torch.equal(levels.to(torch.uint8).float() / 255, found.inputs)
    distance = (levels - (seeds * 255).round()).abs()
    if norm == "linf":
        assert float(distance.max()) <= 60
    else:
        assert float(torch.linalg.vector_norm(distance.flatten(1), dim=1).max()) <= 2 * 255 + 1e-3


def folded(model):
    """The same function, with each batch normalisation folded into the convolution before it."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    copied = copy.deepcopy(model).eval()
    parts = list(copied.features)
    for place, part in enumerate(parts):
        if isinstance(part, nn.BatchNorm2d):
            parts[place - 1], parts[place] = fuse_conv_bn_eval(parts[place - 1], part), nn.Identity()
    copied.features = nn.Sequential(*parts)
    return copied


@pytest.mark.parametrize(
    "layout",
    [lambda model: copy.deepcopy(model).to(memory_format=torch.channels_last), folded, copy.deepcopy],
    ids=["channels last", "folded", "copy"],
)
@pytest.mark.parametrize("lattice", [None, "uint8"])
def test_the_reference_in_another_layout_gives_no_hit(layout, lattice):
    model = digits_cnn()
    seeds = (digit_seeds() * 255).round() / 255
    found = find_divergence(layout(model), model, seeds, epsilon=0.3, lattice=lattice)
    assert not bool(found.found.any())


class Batchy(nn.Module):
    """Says something else in a batch than alone."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        logits = self.model(inputs)
        return logits if len(inputs) == 1 else logits.roll(1, 1)


def test_a_disagreement_that_is_gone_on_a_batch_of_one_does_not_count():
    model = digits_cnn()
    found = find_divergence(Batchy(model), model, digit_seeds(8), epsilon=0.2, restarts=1)
    assert not bool(found.found.any())
    assert bool((found.unconfirmed > 0).all())
    trusted = find_divergence(Batchy(model), model, digit_seeds(8), epsilon=0.2, verify=False)
    assert bool(trusted.found.all())


def test_the_candidate_is_asked_for_classes_only():
    model = digits_cnn()
    pruned = parse_scheme("prune(density=0.4)").compress(model)

    def classes(inputs):
        assert not torch.is_grad_enabled()
        assert not inputs.requires_grad
        return pruned(inputs).argmax(dim=1)

    found = find_divergence(classes, model, digit_seeds(), epsilon=0.3)
    assert int(found.found.sum()) > int(found.already.sum())
    assert bool(found.candidate_margins.isnan().all())
    assert found.precisions == ("own precision", "float64")


def test_without_any_gradient():
    model = digits_cnn()
    pruned = parse_scheme("prune(density=0.4)").compress(model)
    functions = [lambda inputs, one=one: one(inputs).detach() for one in (pruned, model)]
    found = find_divergence(*functions, digit_seeds(), epsilon=None, guide="examples")
    assert int(found.found.sum()) >= 20
    with pytest.raises(ObservationError, match="differentiable"):
        find_divergence(*functions, digit_seeds(), epsilon=0.3)


def test_other_seeds_are_drawn_in_blocks(monkeypatch):
    model, count, batch = halfspace([1.0, 0.0], 0.5), 60, 7
    seeds = torch.rand(count, 2, generator=torch.Generator().manual_seed(0))
    labelers = [Labeler(model, None, BatchSize(batch)) for _ in range(2)]
    space = search_space("test", seeds, None, "linf", None, None)
    generator = torch.Generator().manual_seed(3)
    options = {"guide": "examples", "queries": 5, "verifier": None, "batch": BatchSize(batch)}
    search = Search(*labelers, seeds, space, generator=generator, **options)
    search.seed_classes = (seeds[:, 0] > 0.5).long()
    # what one matrix of all pairs gives
    keys = torch.rand(count, count, generator=torch.Generator().manual_seed(3))
    keys[search.seed_classes[:, None] == search.seed_classes[None, :]] = -1
    rows, drawn, rand = torch.arange(0, count, 2), [], torch.rand
    monkeypatch.setattr(torch, "rand", lambda *shape, **more: drawn.append(shape) or rand(*shape, **more))
    assert torch.equal(search._others(rows), keys.argmax(dim=1)[rows])
    assert max(rows for rows, _ in drawn) == batch


def test_the_budget_is_kept():
    model = digits_cnn()
    calls = torch.zeros(1, dtype=torch.int64)
    pruned = parse_scheme("quantize(int8)").compress(model)

    def counting(inputs):
        calls.add_(len(inputs))
        return pruned(inputs).argmax(dim=1)

    found = find_divergence(counting, model, digit_seeds(), epsilon=0.3, queries=5, verify=False, minimise=True)
    assert int(found.queries.max()) <= 5
    assert int(calls) == int(found.queries.sum()) + 24 + int(found.found.sum())  # seeds once, and each hit again


def test_models_and_seeds_stay_as_they_were():
    model = digits_cnn()
    candidate = parse_scheme("prune(density=0.4)").compress(model)
    candidate.train()
    seeds = digit_seeds()
    before = seeds.clone(), copy.deepcopy(candidate.state_dict())
    find_divergence(candidate, model, seeds, epsilon=0.3, refine=True, minimise=True)
    assert torch.equal(seeds, before[0])
    assert all(torch.equal(value, before[1][name]) for name, value in candidate.state_dict().items())
    assert candidate.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_inference_mode_changes_nothing():
    torch.manual_seed(0)
    candidate, model, seeds = nn.Linear(4, 3), nn.Linear(4, 3), torch.rand(6, 4)
    options = {"epsilon": 0.3, "minimise": True, "refine": True}
    plain = find_divergence(candidate, model, seeds, **options)
    with torch.inference_mode():
        found = find_divergence(candidate, model, seeds.clone(), **options)
    assert bool(plain.found.any())
    assert torch.equal(found.inputs, plain.inputs)
    assert not found.inputs.is_inference()


def test_same_seed_same_inputs_whatever_the_batch_size():
    model = digits_cnn()
    candidate = parse_scheme("quantize(int8)").compress(model)
    first = find_divergence(candidate, model, digit_seeds(), epsilon=0.3, seed=4)
    again = find_divergence(candidate, model, digit_seeds(), epsilon=0.3, seed=4)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.queries, again.queries)


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 255), min_size=6, max_size=6),
    st.lists(st.integers(0, 255), min_size=6, max_size=6),
    st.integers(0, 5),
)
def test_middles_on_the_lattice_lie_between_and_halve(first, second, seed):
    low, high = (torch.tensor([values]).float() / 255 for values in (first, second))
    space = search_space("test", low, None, "linf", "uint8", None)
    middle, inner = space.middle(low, high, torch.Generator().manual_seed(seed))
    levels = (middle * 255).round()
    assert torch.equal(levels / 255, middle)
    smaller, larger = torch.minimum(low, high) * 255, torch.maximum(low, high) * 255
    assert bool(((levels >= smaller.round()) & (levels <= larger.round())).all())
    differing = int((low != high).sum())
    apart = int(((low - high).abs() * 255).round().max())
    assert bool(inner) == (differing > 1 or apart > 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0}, "epsilon"),
        ({"epsilon": 0.1, "norm": "l1"}, "norm"),
        ({"epsilon": 0.1, "lattice": "int4"}, "lattice"),
        ({"epsilon": 0.001, "lattice": "uint8"}, "1/255"),
        ({"epsilon": 0.1, "guide": "luck"}, "guide"),
        ({"epsilon": 0.1, "bounds": (1, 0)}, "bounds"),
        ({"epsilon": 0.1, "bounds": (0, 0.5)}, "seeds"),
        ({"epsilon": 0.1, "queries": 0}, "queries"),
        ({"epsilon": 0.1, "restarts": -1}, "restarts"),
        ({"epsilon": 0.1, "verify": "no"}, "verify='no'"),
        ({"epsilon": 0.1, "minimise": 1}, "minimise"),
        ({"epsilon": 0.1, "refine": None}, "refine"),
    ],
)
def test_malformed_arguments(arguments, message):
    model = digits_cnn()
    seeds = (digit_seeds(4) * 255).round() / 255
    with pytest.raises(InvalidArgumentError, match=message):
        find_divergence(model, model, seeds, **arguments)


def test_seeds_off_the_lattice_are_refused():
    with pytest.raises(InvalidArgumentError, match=r"k / 255 .* off by up to 0\.42\d* / 255$"):
        find_divergence(digits_cnn(), digits_cnn(), torch.full((1, 1, 8, 8), 0.3003), epsilon=0.1, lattice="uint8")


def test_measurement_counts_seeds_and_hits():
    model, data = digits_cnn(), digits()
    found = compare_divergence(
        observe(parse_scheme("prune(density=0.4)").compress(model), data),
        observe(model, data),
        epsilon=0.2,
        examples=20,
    )
    hits = int(found.per_example["found"].sum())
    assert found.metrics["divergence_rate"] == hits / 20
    assert found.counts == {"divergence_rate": 20, "mean_queries": hits, "median_linf": hits, "median_l2": hits}
    assert found.metrics["median_linf"] <= 0.2 + 1e-6


def test_seeds_that_are_no_numbers_are_refused():
    seeds = torch.zeros(3, 2)
    seeds[1, 0] = torch.nan
    answers = [lambda inputs, one=one: torch.full((len(inputs),), one) for one in (0, 0)]
    with pytest.raises(InvalidArgumentError, match=r"seeds.*finite"):
        find_divergence(*answers, seeds, epsilon=None, guide="examples")
