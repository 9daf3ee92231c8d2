"""Strategies against closed forms, brute force, and noise of a known size."""

import itertools
import statistics

import numpy as np
import pytest
import search_subjects
from hypothesis import given
from hypothesis import strategies as st

from cp_compress import InvalidArgumentError
from cp_compress.search import (
    DRUCB,
    Bayesian,
    Bisection,
    Categorical,
    Integer,
    Real,
    SchemeSpace,
    Trial,
    parse_strategy,
)

UNIT = SchemeSpace("prune(density={density})", density=Real(0, 1))


def threshold(place):
    return lambda point: point["density"] - place


@given(st.floats(0, 1), st.integers(1, 14))
def test_bisection_without_noise_halves_the_range_and_returns_nothing_infeasible(place, trials):
    tried, best = search_subjects.drive(Bisection(), UNIT, threshold(place), trials)
    if best is None:
        assert place > 1 - 2.0**-trials - 1e-8
    else:
        assert 0 <= best.objective - place <= 2.0**-trials + 1e-8
    assert len(tried) == trials


@given(st.floats(0.02, 0.98), st.integers(1, 5), st.integers(1, 4))
def test_bisection_in_batches_divides_the_range_by_one_more_than_the_batch(place, rounds, batch):
    _, best = search_subjects.drive(Bisection(), UNIT, threshold(place), rounds * batch, batch=batch)
    width = (batch + 1.0) ** -rounds
    if best is None:
        assert place > 1 - width - 1e-8
    else:
        assert 0 <= best.objective - place <= width + 1e-8


@given(st.integers(1, 300), st.integers(1, 200), st.sampled_from(["linear", "log"]), st.data())
def test_bisection_of_whole_numbers_finds_the_smallest_and_then_stops(low, span, scale, data):
    smallest = data.draw(st.integers(low, low + span))
    searched = SchemeSpace("prune(density={n})", n=Integer(low, low + span, scale))
    tried, best = search_subjects.drive(Bisection(), searched, lambda point: point["n"] - smallest, 100)
    assert best.point == {"n": smallest}
    assert (
        len({trial.point["n"] for trial in tried}) == len(tried) <= span.bit_length() * (3 if scale == "log" else 1) + 2
    )


def test_the_mild_end_can_be_the_low_one():
    searched = SchemeSpace("prune(density={tolerance})", tolerance=Real(0, 1))
    _, best = search_subjects.drive(
        Bisection(feasible_at="low"),
        searched,
        lambda point: 0.3 - point["tolerance"],
        12,
        objective=lambda point: -point["tolerance"],
    )
    assert 0.3 - 2**-12 <= best.point["tolerance"] <= 0.3


def test_candidates_that_cannot_be_judged_push_bisection_to_the_mild_end():
    _, best = search_subjects.drive(
        Bisection(), UNIT, lambda point: None if point["density"] < 0.4 else point["density"] - 0.3, 10
    )
    assert 0.4 <= best.objective < 0.402


def noisy(place, slope, noise, seed):
    errors = np.random.default_rng(seed)
    return lambda point: float(slope * (point["density"] - place) + errors.normal(0, noise))


def violations(strategy, noise, runs=120, trials=16):
    places = np.random.default_rng(1).uniform(0.1, 0.9, runs).tolist()
    gaps = []
    for seed, place in enumerate(places):
        _, best = search_subjects.drive(strategy, UNIT, noisy(place, 1.0, noise, seed), trials)
        if best is not None:
            gaps.append(best.objective - place)
    return statistics.mean(gap < 0 for gap in gaps), statistics.median(map(abs, gaps)), len(gaps) / runs


def test_bisection_that_knows_of_the_noise_keeps_its_confidence():
    share, gap, found = violations(Bisection(noise=0.05, confidence=0.9), 0.05)
    naive_share, _, _ = violations(Bisection(), 0.05)
    assert share <= 0.1 + 0.05  # 120 runs: three standard errors of a share of 0.1 are 0.08
    assert naive_share > 2 * share
    assert gap < 0.1
    assert found > 0.9


def test_a_lucky_trial_is_not_trusted():
    run = Bisection(noise=0.1).start(UNIT, 10, 0)
    for number, (place, margin) in enumerate([(0.5, -0.1), (0.5, -0.1), (0.5, 0.05)], 1):
        run.tell({"density": place}, search_subjects.made(number, {"density": place}, place, margin))
    assert not run.trusts({"density": 0.5})
    run.tell({"density": 0.9}, search_subjects.made(4, {"density": 0.9}, 0.9, 0.3))
    assert run.trusts({"density": 0.9})


def falling(point):
    """Return the margin of an accuracy that is flat where little is compressed, and falls steeply: 0 at 0.3."""
    return 0.02 - 0.02 * (0.3 / max(point["density"], 1e-3)) ** 4


@pytest.mark.parametrize(
    ("strategy", "batch"),
    [(DRUCB(), 1), (DRUCB(), 3), (DRUCB(gamma=0.3), 1), (Bayesian(4), 1), (Bayesian(4), 3), (Bayesian(4, 0.9), 1)],
)
def test_gaussian_processes_come_near_the_threshold(strategy, batch):
    tried, best = search_subjects.drive(strategy, search_subjects.space(), falling, 12, batch=batch)
    assert len(tried) == 12
    assert 0.3 - 1e-9 <= best.objective < 0.42


def test_drucb_restricts_its_domain_as_defined():
    tried, _ = search_subjects.drive(DRUCB(first_stage=1), search_subjects.space(), falling, 10)
    low, previous = 0.0, None
    strengths = [1 - (trial.point["density"] - 0.02) / 0.96 for trial in tried]
    for strength, trial in zip(strengths, tried, strict=True):
        assert strength > low
        if (previous is None or strength > previous) and trial.feasible:
            low = strength
        previous = strength
    assert low > 0


def test_drucb_lowers_the_objective_among_what_is_feasible_in_its_second_stage():
    tried, best = search_subjects.drive(
        DRUCB(first_stage=0.5),
        search_subjects.space(),
        lambda point: point["density"] - 0.2,
        12,
        objective=lambda point: (point["density"] - 0.6) ** 2,
    )
    later = [trial.point["density"] for trial in tried[6:]]
    assert min(abs(density - 0.6) for density in later) < 0.02
    assert abs(best.point["density"] - 0.6) < 0.02


SEVERAL = SchemeSpace(
    lambda point: None, density=Real(0.05, 1, "log"), blocks=Integer(1, 8), dtype=Categorical(("float32", "int8"))
)


def several_margin(point):
    return 0.1 * point["density"] ** 0.5 + 0.01 * point["blocks"] - (0.07 if point["dtype"] == "int8" else 0.05)


def several_cost(point):
    return point["density"] * (1 if point["dtype"] == "int8" else 4) + 0.05 * point["blocks"]


def test_bayesian_search_of_three_parameters_beats_random_points():
    grid = itertools.product(np.geomspace(0.05, 1, 100), range(1, 9), ("float32", "int8"))
    points = [{"density": density, "blocks": blocks, "dtype": dtype} for density, blocks, dtype in grid]
    costs = sorted(several_cost(point) for point in points if several_margin(point) >= 0)
    _, best = search_subjects.drive(Bayesian(), SEVERAL, several_margin, 20, batch=2, objective=several_cost)
    assert best.objective >= 0.29 - 1e-9
    # density 0.09, 4 blocks, int8: where 0.1·√0.09 + 0.04 = 0.07
    assert best.objective == pytest.approx(0.29, abs=0.01)
    assert best.objective < costs[len(costs) // 500]


@pytest.mark.parametrize("strategy", [Bisection(), Bisection(noise=0.01), DRUCB(), Bayesian(initial=3, confidence=0.9)])
def test_a_run_depends_on_nothing_but_what_it_was_told(strategy):
    first, _ = search_subjects.drive(strategy, search_subjects.space(), falling, 6, seed=3, batch=2)
    state = np.random.get_state()[1].copy()
    again, _ = search_subjects.drive(strategy, search_subjects.space(), falling, 6, seed=3, batch=2)
    assert first == again
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize("strategy", [Bisection(), DRUCB()])
def test_strategies_of_one_number_refuse_other_spaces(strategy):
    with pytest.raises(InvalidArgumentError, match=r"SEVERAL|one numeric parameter"):
        strategy.start(SEVERAL, 10, 0)


@pytest.mark.parametrize(
    "strategy", [Bisection(noise=0.01, feasible_at="low"), DRUCB(gamma=0.9, first_stage=0.5), Bayesian(3, 0.9)]
)
def test_a_strategy_is_its_text(strategy):
    assert parse_strategy(str(strategy)) == strategy


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("bisection(noise=-1)", "0 or more"),
        ("bisection(confidence=1)", r"\[0.5, 1\)"),
        ("bisection(feasible_at=middle)", "must be one of 'high', 'low'"),
        ("drucb(gamma=2)", r"\[0, 1\]"),
        ("drucb(first_stage=0)", r"\(0, 1\]"),
        ("bayesian(initial=0)", "1 or more"),
        ("bayesian(confidence=1)", r"\[0.5, 1\)"),
        ("annealing", "no strategy is called 'annealing'"),
        ("drucb | bayesian", "give one"),
    ],
)
def test_bad_settings_are_refused(text, rule):
    with pytest.raises(InvalidArgumentError, match=rule):
        parse_strategy(text)


@pytest.mark.parametrize("strategy", [Bisection(), Bisection(noise=0.01), DRUCB(), Bayesian(initial=3)])
def test_points_too_mild_to_be_made_lead_to_stronger_ones(strategy):
    """Above 0.3 nothing would become smaller; the constraint holds from 0.1 upwards."""
    run = strategy.start(search_subjects.space(), 12, 0)
    feasible = []
    for number in range(1, 13):
        points = run.ask(1)
        if not points:
            break
        (point,) = points
        density = point["density"]
        if density > 0.3:
            trial = Trial(number, point, "", "error", None, (None,), error="nothing smaller", too_mild=True)
        else:
            trial = search_subjects.made(number, point, density, density - 0.1)
        run.tell(point, trial)
        feasible += [density] if trial.feasible else []
    assert feasible
    assert min(feasible) < 0.16


@pytest.mark.parametrize(
    ("strategy", "space"),
    [
        (DRUCB(), SchemeSpace("nm_prune(n={n}, m=8)", n=Integer(1, 4))),
        (Bisection(), SchemeSpace("nm_prune(n={n}, m=8)", n=Integer(1, 4))),
        (Bayesian(initial=6), SchemeSpace("nm_prune(n={n}, m=8)", n=Integer(1, 4))),
        (Bayesian(initial=1), SchemeSpace("quantize({dtype})", dtype=Categorical(("int8", "float16", "int4")))),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_no_point_of_a_finite_space_is_tried_twice(strategy, space, batch):
    tried, best = search_subjects.drive(
        strategy, space, lambda point: 0.1, 20, batch=batch, objective=lambda point: float(len(str(point)))
    )
    points = [tuple(trial.point.items()) for trial in tried]
    assert len(set(points)) == len(points) <= 4
    assert best is not None
