"""The state file of a search: going on where it stopped, with more trials, and refusing what is of another search."""

import json
import math
import random

import numpy as np
import pytest
import search_subjects
import torch
from search_subjects import BOUND, find
from torch import nn

from cp_compress import CorruptStreamError, InvalidArgumentError, Prune
from cp_compress.base.digests import digest_model
from cp_compress.search import (
    DRUCB,
    Bayesian,
    Bisection,
    Integer,
    NoFeasibleCandidateError,
    SchemeSpace,
    TrialError,
)


def scaled_by(factor):
    def finish(candidate, scheme):
        candidate.bias.data *= factor
        return candidate

    return finish


def stumbling(candidate, scheme):
    """Finish a candidate, or stop the process when it is its turn; draws from all global generators."""
    if stumbling.left == 0:
        raise KeyboardInterrupt
    stumbling.left -= 1
    with torch.no_grad():
        candidate.bias += 1e-3 * torch.rand(2) + 1e-3 * random.random() + 1e-3 * float(np.random.rand())
    return candidate


@pytest.mark.parametrize(
    ("strategy", "trials", "batch"), [(Bisection(), 6, 1), (DRUCB(), 5, 1), (Bayesian(initial=2), 4, 2)]
)
def test_a_search_stopped_at_any_trial_goes_on_to_the_same_result(tmp_path, strategy, trials, batch):
    options = {"finish": stumbling, "strategy": strategy, "batch": batch, "trials": trials, "seed": 5}
    stumbling.left = math.inf
    whole = find(state=tmp_path / "whole.json", **options)
    for stop in range(trials):
        state = tmp_path / f"{stop}.json"
        stumbling.left = stop
        with pytest.raises(KeyboardInterrupt):
            find(state=state, **options)
        stumbling.left = math.inf
        resumed = find(state=state, **options)
        assert resumed.trials == whole.trials
        assert digest_model(resumed.best) == digest_model(whole.best) == whole.trial.digest
    # nothing is left to try, so only the best candidate is made again
    stumbling.left = 1
    assert find(state=tmp_path / "whole.json", **options).trials == whole.trials


def test_a_search_leaves_the_random_states_alone():
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    expected = torch.rand(1), random.random(), np.random.rand()
    model = search_subjects.model()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    stumbling.left = math.inf
    find(model=model, finish=stumbling, strategy=Bayesian(initial=2), trials=4)
    assert (torch.rand(1), random.random(), np.random.rand()) == expected


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("seed", {"seed": 1}),
        ("batch", {"batch": 2}),
        ("strategy", {"strategy": "drucb"}),
        ("objective", {"objective": "artifact_bytes"}),
        ("space", {"space": search_subjects.space(low=0.1)}),
        ("constraints", {"constraints": search_subjects.agreement(0.8)}),
        ("data", {"constraints": search_subjects.agreement(BOUND, dataset=search_subjects.data(2.0))}),
        ("model", {"model": nn.Linear(search_subjects.EXAMPLES, 2)}),
        ("finish", {"finish": stumbling}),
        ("finish", {"finish": scaled_by(2.0)}),
    ],
)
def test_the_file_of_another_search_is_refused(tmp_path, name, other):
    state = tmp_path / "state.json"
    find(state=state, trials=2, finish=scaled_by(1.0))
    content = state.read_bytes()
    with pytest.raises(InvalidArgumentError, match=rf"another search \(.*{name}: "):
        find(**{"state": state, "trials": 2, "finish": scaled_by(1.0), **other})
    assert state.read_bytes() == content


@pytest.mark.parametrize("content", ["", "[]", '{"version": 1}', '{"version": 9, "search": {}, "trials": []}'])
def test_a_damaged_file_is_refused(tmp_path, content):
    state = tmp_path / "state.json"
    state.write_text(content)
    with pytest.raises(CorruptStreamError, match=r"state\.json"):
        find(state=state)


def test_a_callable_that_makes_other_schemes_now_is_noticed(tmp_path):
    def space(scope):
        return SchemeSpace(lambda point: Prune(point["eighths"] / 8, scope=scope), eighths=Integer(1, 7))

    find(space=space("global"), state=tmp_path / "state.json", trials=2)
    with pytest.raises(InvalidArgumentError, match=r"another search \(space: "):
        find(space=space("layer"), state=tmp_path / "state.json", trials=2)


def test_trials_of_other_schemes_are_noticed(tmp_path):
    state = tmp_path / "state.json"
    find(state=state, trials=2)
    state.write_text(state.read_text().replace('"scheme": "prune(density=', '"scheme": "prune(scope=layer, density='))
    with pytest.raises(InvalidArgumentError, match="library versions"):
        find(state=state, trials=2)


def test_a_search_that_is_done_goes_on_with_more_trials(tmp_path):
    state = tmp_path / "state.json"
    short = find(state=state, trials=2)
    kept = [trial.seconds for trial in short.trials]
    long = find(state=state, trials=5)
    assert [trial.seconds for trial in long.trials[:2]] == kept  # not made again
    assert len(long.trials) == 5
    assert long.trials == find(trials=5).trials


def test_a_file_is_written_by_one_search_at_a_time(tmp_path):
    state = tmp_path / "state.json"

    def nested(candidate, scheme):
        return find(state=state).best

    with pytest.raises(TrialError, match="another search is writing"):
        find(state=state, finish=nested)


def test_a_changed_candidate_from_an_earlier_run_is_judged_again(tmp_path):
    state = tmp_path / "state.json"
    find(state=state, trials=6)
    document = json.loads(state.read_text())
    for trial in document["trials"]:  # as if training had come out otherwise, and no density had been too small
        trial["digest"] = "0" * 64
    state.write_text(json.dumps(document))
    found = find(state=state, trials=6)
    assert f"trial {found.trial.number} was repeated with another outcome: pass" in found.notes
    assert found.trial.digest == digest_model(found.best)


def unsteady(candidate, scheme):
    """Ruin candidates from the second run on, as training that does not repeat may do."""
    if unsteady.ruins:
        nn.init.zeros_(candidate.weight)
    return candidate


def test_what_cannot_be_made_again_is_not_returned(tmp_path):
    state = tmp_path / "state.json"
    unsteady.ruins = False
    assert find(state=state, finish=unsteady, trials=4).trial.feasible
    unsteady.ruins = True
    with pytest.raises(NoFeasibleCandidateError, match="trial 3 was repeated with another outcome: fail"):
        find(state=state, finish=unsteady, trials=4)
