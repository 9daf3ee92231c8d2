"""Constraints: one specification for a gate and a search, at every level, with one signed margin."""

import pickle

import numpy as np
import pytest
import search_subjects
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cp_compress import InvalidArgumentError, ObservationError, Prune, observe, parse_scheme
from cp_compress.data import random_selection
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import Requirement, judge
from cp_compress.fidelity.judging.intervals import Proportion, Quantile
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.proposals import propose
from cp_compress.search import (
    CodecSpace,
    Integer,
    Preserved,
    Real,
    SchemeSpace,
    example_digests,
    find_smallest,
    find_smallest_subset,
    search,
    shared_examples,
)
from cp_compress.search.constraints import conservative_margin


@given(st.integers(0, 200), st.floats(0.01, 0.99), st.sampled_from(["min", "max"]), st.sampled_from([None, 0.9, 0.99]))
def test_the_margin_is_that_of_the_exact_bound_and_its_sign_is_the_verdict(successes, bound, direction, confidence):
    share = successes / 200
    measurement = Measurement("own", {"share": share}, {"share": 200}, {"share": Proportion(successes, 200)})
    check = judge(measurement, [Requirement("share", direction, bound, confidence)])
    value = share
    if confidence is not None and direction == "min":  # Clopper and Pearson 1934
        value = stats.beta.ppf(1 - confidence, successes, 201 - successes) if successes else 0.0
    elif confidence is not None:
        value = stats.beta.ppf(confidence, successes + 1, 200 - successes) if successes < 200 else 1.0
    expected = value - bound if direction == "min" else bound - value
    assert conservative_margin(check) == pytest.approx(expected, abs=1e-9)
    assert (conservative_margin(check) >= 0) == check.passed


def test_the_least_margin_of_several_requirements_counts():
    measurement = Measurement("own", {"a": 0.9, "b": 0.4}, {"a": 10, "b": 10})
    check = judge(measurement, [Requirement("a", "min", 0.5), Requirement("b", "max", 0.3)])
    assert conservative_margin(check) == pytest.approx(-0.1)


def test_margins_that_are_not_known():
    measurement = Measurement("own", {"a": float("nan"), "b": 1.0}, {"a": 10, "b": 10})
    assert np.isnan(conservative_margin(judge(measurement, [Requirement(name, "min", 0.5) for name in "ab"])))
    few = Quantile(np.array([0.5, 0.7]), 0.5)
    measurement = Measurement("own", {"median": 0.6}, {"median": 2}, {"median": few})
    assert conservative_margin(judge(measurement, [Requirement("median", "min", 0.5, 0.95)])) == -np.inf


@pytest.fixture(scope="module")
def reference():
    return digits_cnn()


@pytest.mark.parametrize(
    ("comparison", "requirement", "options", "harsh"),
    [
        ("predictions", Requirement("agreement", "min", 0.95, 0.9), {}, 0.1),
        ("predictions", Requirement("cost", "max", 0.05), {"class_distance": {"a": range(5), "b": range(5, 10)}}, 0.1),
        ("attributions", Requirement("corrected_iou", "min", 0.3), {"examples": 30}, 0.1),
        (
            "boundaries",
            Requirement("mean_abs_log_ratio", "max", 0.3),
            {"examples": 4, "steps": 8, "bisections": 6},
            0.25,
        ),
    ],
)
def test_every_level_tells_a_mild_candidate_from_a_harsh_one(reference, comparison, requirement, options, harsh):
    spec = Preserved(comparison, digits(), requirement, options)
    mildly, harshly = (spec(Prune(density).compress(reference), reference) for density in (0.8, harsh))
    assert mildly.passed
    assert conservative_margin(mildly) >= 0 > conservative_margin(harshly)


def test_a_candidate_with_nan_logits_cannot_be_judged():
    model = search_subjects.model()
    broken = parse_scheme("prune(density=0.5)").compress(model)
    torch.nn.init.constant_(broken.bias, float("nan"))
    with pytest.raises(ObservationError, match="NaN"):
        search_subjects.agreement(0.5)(broken, model)


class OneScale(torch.nn.Module):
    """Rounds its input with one scale for the batch, as dynamic quantisation does."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, 3)

    def forward(self, inputs):
        scale = inputs.abs().amax() / 3
        return self.inner((inputs / scale).round() * scale)


def test_what_a_gate_refuses_no_search_takes(tmp_path):
    torch.manual_seed(0)
    model = OneScale()
    inputs = torch.randn(120, 4) * torch.linspace(0.1, 1, 120)[:, None]
    with torch.no_grad():
        labels = model.inner(inputs).argmax(1)
    data, wrong, accuracy = (inputs, labels), (inputs, labels[torch.randperm(120)]), Requirement("accuracy", "min", 0.2)
    agreement = Requirement("agreement", "min", 0.5)
    space = SchemeSpace("prune(density={density})", density=Real(0.1, 1.0))
    family = CodecSpace("zfp(precision={planes}, clip=None)", planes=Integer(4, 20))

    def run(reference, read, requirement, deployed=None):
        sizes = {"deployed_batch_size": deployed}
        judged = Preserved("predictions", read, requirement, batch_size=64, **sizes)
        yield lambda: search(reference, space, objective="parameters", constraints=judged, trials=1)
        yield lambda: find_smallest(
            family, reference, read, requirement, trials=1, neighbours=0, batch_size=64, **sizes
        )
        yield lambda: find_smallest(
            family, reference, read, requirement, trials=1, neighbours=0, repair=lambda one, codec: one, **sizes
        )
        if requirement is agreement:
            seen = [
                observe(one, read, deployed_batch_size=deployed) for one in (reference, Prune(0.9).compress(reference))
            ]
            yield lambda: propose(seen, levels=["predictions"])

    for refused in run(model, data, agreement):
        with pytest.raises(ObservationError, match=r"answers depend on who else is in the batch.*deployed_batch_size="):
            refused()
    for refused in run(model.inner, wrong, accuracy):
        with pytest.raises(ObservationError, match="is no better than chance on these labels"):
            refused()
    allowed = list(run(model, data, agreement, deployed=32))
    assert allowed[1]().trials
    assert allowed[3]()
    with pytest.raises(InvalidArgumentError, match=r"deployed_batch_size"):
        Preserved("predictions", data, agreement, batch_size=16, deployed_batch_size=17)
    with pytest.raises(ObservationError, match="is no better than chance"):
        propose(
            [observe(one, wrong) for one in (model.inner, Prune(0.9).compress(model.inner))], levels=["predictions"]
        )
    with pytest.raises(ObservationError, match=r"so nothing can be told|logits are the same"):
        find_smallest_subset(
            lambda: torch.nn.Linear(4, 3),
            (torch.zeros(90, 4), torch.arange(90) % 3),
            lambda count: random_selection(90, count),
            (inputs * 0, labels),
            agreement,
            steps=2,
            trials=1,
            allow_shared_examples=True,
        )


def test_the_same_specification_on_other_data():
    spec = search_subjects.agreement(0.5, 0.9)
    other = spec.on(search_subjects.data(2.0))
    assert other.requirements == spec.requirements
    assert len(shared_examples(other.dataset, example_digests(spec.dataset))) == 0
    model = search_subjects.model()
    assert pickle.loads(pickle.dumps(other))(model, model).passed


def test_its_text_tells_specifications_apart():
    data, requirement = search_subjects.data(), Requirement("cost", "max", 0.1)
    first, second, third = (
        str(Preserved("predictions", data, requirement, {"weights": weights}))
        for weights in (torch.ones(64), torch.arange(64.0), list(range(64)))
    )
    assert len({first, second, third}) == 3
    assert "on 64 examples" in first


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (("prediction", Requirement("agreement", "min", 1)), "known are attributions, boundaries"),
        (("reconstruction", Requirement("rmse", "max", 1)), "no comparison of that name"),
        (("predictions", []), "at least one Requirement"),
        (("predictions", ["agreement"]), "at least one Requirement"),
        (
            ("predictions", Requirement("agreement", "min", 1), {"layer": "conv1"}),
            "unexpected keyword argument 'layer'",
        ),
        (("predictions", Requirement("agreement", "min", 1), {}, None, 0), "1 or more"),
    ],
)
def test_a_malformed_specification_is_refused(arguments, rule):
    comparison, requirements, *rest = arguments
    with pytest.raises(InvalidArgumentError, match=rule):
        Preserved(comparison, search_subjects.data(), requirements, *rest)


def test_digests_know_examples_again_in_any_form():
    inputs = torch.rand(20, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20)
    rows = [(inputs[index], 7) for index in range(20)]
    expected = example_digests((inputs, labels))
    assert example_digests(rows, batch_size=3) == expected
    assert example_digests((inputs.double(), labels)) == expected
    assert len(set(expected)) == 20
    assert example_digests((inputs.reshape(20, 4, 3), labels)) != expected
    assert example_digests((-torch.zeros(1, 2), labels[:1])) == example_digests((torch.zeros(1, 2), labels[:1]))
    moved = inputs.clone()
    moved[4, 0, 0] += 1e-6
    assert shared_examples((moved, labels), expected) == [index for index in range(20) if index != 4]
