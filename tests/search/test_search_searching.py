"""A whole search on a model with a known answer: what it returns, what it refuses, and how it goes on."""

import gc
import json
import math
import os
import weakref

import pytest
import search_subjects
import torch
from search_subjects import BOUND, find
from torch import nn

from cp_compress import CompressionError, InvalidArgumentError, Prune
from cp_compress.base.digests import digest_model
from cp_compress.fidelity import Requirement, compare_predictions
from cp_compress.search import (
    Bisection,
    Categorical,
    Integer,
    NoFeasibleCandidateError,
    Preserved,
    Real,
    SchemeSpace,
    Trial,
    TrialError,
    search,
    shared_examples,
)


def kept_weights(found):
    return int(found.best.weight.count_nonzero())


@pytest.mark.parametrize("bound", [0.5, 0.75, 0.99])
def test_the_smallest_density_that_holds_is_found(bound):
    model = search_subjects.model()
    before = digest_model(model)
    found = find(search_subjects.agreement(bound), model=model)
    kept = math.ceil(bound * search_subjects.EXAMPLES)
    assert kept_weights(found) == kept
    assert found.trial.point["density"] >= search_subjects.smallest_density(bound)
    assert found.trial.objective == kept + 1  # the bias that is not zero
    assert found.reference_objective == 2 * search_subjects.EXAMPLES + 1
    assert found.trial.values[0]["agreement"] == pytest.approx(kept / search_subjects.EXAMPLES)
    assert str(found.scheme) == found.trial.scheme == f"prune(density={found.trial.point['density']})"
    assert digest_model(model) == before
    assert digest_model(found.best) == found.trial.digest


def test_every_trial_is_in_the_trace_with_its_true_verdict():
    found = find()
    for number, trial in enumerate(found.trials, 1):
        kept = math.floor(trial.point["density"] * 2 * search_subjects.EXAMPLES + 0.5)
        agreement = min(1, kept / search_subjects.EXAMPLES)
        assert trial.number == number
        assert trial.margins == (pytest.approx(agreement - BOUND),)
        assert trial.feasible == (agreement >= BOUND)
    best = min((trial for trial in found.trials if trial.feasible), key=lambda trial: trial.objective)
    assert found.trial == best != found.trials[-1]


def test_a_claim_needs_more_than_the_value_shows():
    by_value, by_claim = find(), find(search_subjects.agreement(BOUND, 0.95))
    assert by_claim.trial.objective > by_value.trial.objective
    assert by_claim.trial.margin >= 0
    assert any(trial.outcome == "inconclusive" and not trial.feasible for trial in by_claim.trials)


def test_the_result_can_be_read_and_stored():
    found = find(gate_data=search_subjects.data(2.0))
    text = str(found)
    assert text.startswith(
        f"best of 10 trials by bisection(): {found.scheme}, parameters() {found.trial.objective:.6g}"
    )
    assert f"*{found.trial.number:>6}" in text
    assert "fresh data: agreement ≥ 0.75" in text
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert tuple(map(Trial.from_json, document["trials"])) == found.trials
    assert document["gate"][0]["results"][0]["value"] >= BOUND
    assert not shared_examples(search_subjects.data(2.0), document["search_digests"])
    assert shared_examples(search_subjects.data(), document["search_digests"]) == list(range(search_subjects.EXAMPLES))


def test_no_candidate_but_the_best_stays_in_memory():
    made = []

    def finish(candidate, scheme):
        made.append(weakref.ref(candidate))
        return candidate

    found = find(finish=finish)
    gc.collect()
    assert [reference() for reference in made if reference() is not None] == [found.best]
    assert len(made) == 10


def test_sharing_examples_with_the_gate_is_refused():
    inputs, labels = search_subjects.data(2.0)
    overlapping = torch.cat([inputs, search_subjects.data()[0][60:62].double()]), torch.cat([labels, labels[:2]])
    with pytest.raises(InvalidArgumentError, match=r"2 of its examples \(#64, #65\) "):
        find(gate_data=overlapping)
    found = find(gate_data=(overlapping[0].float(), overlapping[1]), allow_shared_examples=True)
    assert found.gate_passed
    assert any("2 examples of the gate data" in note for note in found.notes)


def test_the_best_candidate_is_judged_on_fresh_data():
    assert find().gate_passed is None
    assert "has not been judged on fresh data" in find().notes[-1]
    inputs, labels = search_subjects.data(2.0)
    weak = inputs[: search_subjects.EXAMPLES // 4], labels[: search_subjects.EXAMPLES // 4]  # pruned first of all
    found = find(gate_data=weak)
    assert found.gate_passed is False
    assert found.gate[0].measurement.metrics["agreement"] < 0.1
    assert found.notes[-1] == "the candidate fails on fresh data"


def test_with_nothing_feasible_there_is_no_result_but_the_trace():
    space = search_subjects.space(low=0.02, high=0.3)
    with pytest.raises(NoFeasibleCandidateError, match=r"no trial was feasible in 4 trials") as caught:
        find(space=space, trials=4)
    assert [trial.outcome for trial in caught.value.trials] == ["fail"] * 4
    assert "density=0.16" in str(caught.value)


def test_a_scheme_that_cannot_be_applied_is_an_infeasible_trial_with_its_reason():
    found = find(space=search_subjects.space(low=0.001))
    assert found.trial.feasible
    space = SchemeSpace("prune(density={density}, include='missing')", density=Real(0.1, 0.9))
    with pytest.raises(NoFeasibleCandidateError, match="include pattern 'missing'") as caught:
        find(space=space, trials=2)
    assert all(trial.error.startswith("CompressionError") for trial in caught.value.trials)


def poison(candidate, scheme):
    """Break every candidate that is sparser than 0.6, as an overflow does."""
    if scheme.density < 0.6:
        nn.init.constant_(candidate.weight, float("nan"))
    return candidate


def test_nan_outputs_are_infeasible():
    found = find(finish=poison)
    assert found.trial.point["density"] >= 0.6
    assert kept_weights(found) == round(0.6 * 128)
    broken = [trial for trial in found.trials if trial.point["density"] < 0.6]
    assert broken
    assert all(trial.outcome == "error" and "NaN" in trial.error and trial.margin is None for trial in broken)


class NaNObjective:
    """NaN for candidates below a density of 0.7."""

    def measure(self, candidate, reference, example_input):
        kept = int(candidate.weight.count_nonzero())
        return kept if kept >= 0.7 * candidate.weight.numel() else float("nan")


def test_an_objective_that_is_nan_is_infeasible():
    found = find(objective=NaNObjective())
    assert found.trial.objective >= 0.7 * 128
    assert any(trial.error and "is nan" in trial.error for trial in found.trials)


def crash(candidate, scheme):
    raise ZeroDivisionError("a bug of the user's")


def test_any_other_error_names_the_point():
    with pytest.raises(
        TrialError, match=r"trial 1 at density=0.5 \(prune\(density=0.5\)\) ended with ZeroDivisionError"
    ):
        find(finish=crash)
    with pytest.raises(TrialError, match="finish returned NoneType"):
        find(finish=lambda candidate, scheme: None)


def test_a_candidate_that_is_no_smaller_than_the_reference_is_none():
    with pytest.raises(NoFeasibleCandidateError, match=r"with less parameters\(count=total\)"):
        find(objective="parameters(count=total)")


def test_a_specification_that_the_reference_does_not_pass_is_refused_before_the_first_trial():
    never = []
    with pytest.raises(InvalidArgumentError, match=r"the reference itself .*more examples would decide"):
        find(search_subjects.agreement(0.99, 0.95), finish=lambda *arguments: never.append(arguments))
    accuracy = Preserved(
        "predictions", (search_subjects.data()[0], torch.ones(64).long()), Requirement("accuracy", "min", 0.5)
    )
    with pytest.raises(InvalidArgumentError, match="the reference itself"):
        find(accuracy, finish=lambda *arguments: never.append(arguments))
    assert not never


def test_several_constraints_all_hold():
    inputs, labels = search_subjects.data(2.0)
    strict = search_subjects.agreement(0.9, dataset=(inputs, labels))
    found = find([search_subjects.agreement(0.5), strict])
    assert kept_weights(found) == math.ceil(0.9 * search_subjects.EXAMPLES)
    assert len(found.trial.margins) == 2
    assert found.trial.margin == min(found.trial.margins)
    assert len(found.search_digests) == 2 * search_subjects.EXAMPLES


def test_any_callable_is_a_constraint():
    def keeps_half(candidate, reference):
        return search_subjects.agreement(0.5)(candidate, reference)

    found = find(keeps_half)
    assert kept_weights(found) == math.ceil(0.5 * search_subjects.EXAMPLES)
    assert "is a callable" in found.notes[0]
    with pytest.raises(InvalidArgumentError, match="gate_data"):
        find(keeps_half, gate_data=search_subjects.data())


def test_two_parameters_against_brute_force():
    space = SchemeSpace(
        lambda point: Prune(point["eighths"] / 8, scope=point["scope"]),
        eighths=Integer(1, 7),
        scope=Categorical(("global", "layer")),
    )
    found = find(space=space, strategy="bayesian(initial=4)", trials=14)
    assert found.trial.point["eighths"] == math.ceil(search_subjects.smallest_density(BOUND) * 8)


def test_the_default_strategy_follows_the_space():
    assert find(trials=2).strategy == "bisection()"
    space = SchemeSpace("prune(density={d}, scope={scope})", d=Real(0.4, 0.9), scope=Categorical(("global", "layer")))
    assert find(space=space, trials=3).strategy == "bayesian()"


def test_a_strategy_may_have_nothing_left_to_ask():
    space = SchemeSpace(lambda point: Prune(point["eighths"] / 8), eighths=Integer(1, 7))
    found = find(space=space, trials=10)
    assert len(found.trials) == 3
    assert "after 3 of 10 trials" in found.notes[0]


def test_progress_is_shown_when_asked(capsys):
    find(trials=3)
    assert not capsys.readouterr().err
    find(trials=3, progress=True)
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("model", {"model": torch.sin}),
        ("space", {"space": "prune(density=0.5)"}),
        ("space", {"space": search_subjects.space(low=0.0)}),
        ("trials", {"trials": 0}),
        ("jobs", {"jobs": -1}),
        ("batch", {"batch": 0}),
        ("backend", {"backend": "threading"}),
        ("seed", {"seed": -1}),
        ("finish", {"finish": 3}),
        ("strategy", {"strategy": Bisection}),
        ("objective", {"objective": None}),
        ("example_input", {"objective": "flops"}),
        ("constraints", {"constraints": [None]}),
        ("state", {"state": "/nowhere/at/all/state.json"}),
    ],
)
def test_bad_arguments_are_refused_by_name(name, options):
    with pytest.raises(InvalidArgumentError, match=rf"search\({name}="):
        find(**options)


def test_a_parameter_that_compresses_the_other_way_is_noticed():
    space = SchemeSpace(lambda point: Prune(1 - point["sparsity"]), sparsity=Real(0.02, 0.98))
    found = find(search_subjects.agreement(0.5), space=space, trials=5)
    assert any("feasible_at=low" in note for note in found.notes)
    found = find(search_subjects.agreement(0.99), space=space, trials=8, strategy="bisection(feasible_at=low)")
    assert not any("feasible_at" in note for note in found.notes)


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"constraints": None}, "constraints=None"),
        ({"model": nn.Flatten()}, "it has no parameters"),
        ({"state": "."}, "it is a folder"),
        ({"backend": "dask"}, "active distributed.Client"),
        ({"space": SchemeSpace(lambda point: 1 / 0, density=Real(0.1, 1))}, "ZeroDivisionError"),
    ],
)
def test_bad_arguments_of_a_search_are_refused(arguments, rule):
    given = {"model": search_subjects.model(), "space": search_subjects.space(), "objective": "parameters"}
    if "backend" in arguments:
        pytest.importorskip("distributed")
    with pytest.raises(InvalidArgumentError, match=rule):
        search(**{**given, "constraints": search_subjects.agreement(0.8), **arguments})


def test_a_worker_that_dies_is_told():
    with pytest.raises(TrialError, match="a worker process died during one of these: trial 1 at density="):
        find(finish=lambda candidate, scheme: os._exit(1), jobs=2, trials=2)


def test_no_constraint_at_all_is_refused():
    with pytest.raises(InvalidArgumentError, match="the smallest model would win"):
        search(search_subjects.model(), search_subjects.space(), objective="parameters", constraints=[])


def test_an_objective_that_the_reference_does_not_have_stops_the_search():
    model = nn.Sequential(nn.Flatten(), nn.PReLU())
    with pytest.raises(CompressionError, match="no floating-point operations"):
        find(model=model, objective="flops", example_input=torch.zeros(1, 64), constraints=lambda c, r: None)


def test_a_comparison_of_ones_own_is_a_level_too():
    def compare_bias(candidate, reference, *, scale):
        measurement = compare_predictions(candidate, reference)
        measurement.metrics["half"] = measurement.metrics["agreement"] / scale
        measurement.counts["half"] = measurement.counts["agreement"]
        return measurement

    spec = Preserved(compare_bias, search_subjects.data(), Requirement("half", "min", 0.3), {"scale": 2})
    found = find(spec)
    assert kept_weights(found) == math.ceil(0.6 * search_subjects.EXAMPLES)
