"""Claims about the worst group and about each: Holm's method step by step, and error rates by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cp_compress.fidelity import Measurement, Requirement, judge
from cp_compress.fidelity.judging.groups import LargestDrop, SmallestShare, holm
from cp_compress.fidelity.judging.intervals import PairedDrop, Proportion


@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_step_by_step(p_values):
    """Holm 1979: the k-th smallest of m is rejected at an error of α if p(j) ≤ α / (m − j + 1) for each j up to k."""
    found = holm(p_values)
    ordered = sorted(p_values)
    for error in (0.01, 0.05, 0.3, *(min(0.999, len(p_values) * p) for p in p_values)):
        allowed = [p * (len(ordered) - place) <= error + 1e-12 for place, p in enumerate(ordered)]
        rejected = allowed.index(False) if False in allowed else len(ordered)
        largest = ordered[rejected - 1] if rejected else -1.0
        assert [p <= error + 1e-12 for p in found] == [p <= largest for p in p_values]


def test_largest_drop_takes_the_worst_group():
    groups = (PairedDrop(1, 0, 50), PairedDrop(20, 0, 50), PairedDrop(0, 5, 50))
    found = LargestDrop(groups, ("a", "b", "c")).interval(0.95)
    assert found.high == groups[1].interval(0.95).high
    assert groups[0].interval(0.95).low < found.low < groups[1].interval(0.95).low


def test_smallest_share_takes_the_worst_group():
    groups = (Proportion(49, 50), Proportion(30, 50))
    found = SmallestShare(groups, ("a", "b")).interval(0.95)
    assert found.low == groups[1].interval(0.95).low
    assert groups[1].interval(0.95).high < found.high < groups[0].interval(0.95).high


@pytest.mark.parametrize("bound", [0.02, 0.1, 0.3])
def test_a_single_group_is_proven_exactly_where_its_bound_is(bound):
    for lost in range(0, 40, 3):
        drop = PairedDrop(lost, 2, 100)
        (found,) = LargestDrop((drop,), ("only",)).verdicts(bound, 0.95)
        interval = drop.interval(0.95)
        expected = "proven" if interval.high <= bound else "refuted" if interval.low >= bound else "undecided"
        assert found.verdict == expected


def test_binomial_p_values():
    share = Proportion(90, 100)
    (found,) = SmallestShare((share,), ("only",)).verdicts(0.8, 0.95)
    assert found.p_proven == pytest.approx(stats.binomtest(90, 100, 0.8, alternative="greater").pvalue)
    assert found.p_refuted == pytest.approx(stats.binomtest(90, 100, 0.8, alternative="less").pvalue)


def measurement(*drops):
    worst = max((drop.lost - drop.gained) / drop.total for drop in drops)
    evidence = LargestDrop(drops, tuple(f"group {place}" for place in range(len(drops))))
    name = "max_class_accuracy_drop"
    return Measurement("predictions", {name: worst}, {name: evidence.count}, {name: evidence})


def test_a_failed_claim_says_which_group_broke_it():
    found = measurement(PairedDrop(0, 0, 400), PairedDrop(60, 0, 400), PairedDrop(2, 1, 20))
    result = judge(found, [Requirement("max_class_accuracy_drop", "max", 0.05, confidence=0.95)]).results[0]
    assert result.outcome == "fail"
    assert [group.verdict for group in result.groups] == ["proven", "refuted", "undecided"]
    assert result.to_json()["groups"][1]["group"] == "group 1"


def test_a_proven_claim_is_one_about_all_groups():
    found = measurement(*[PairedDrop(3, 1, 400)] * 8)
    result = judge(found, [Requirement("max_class_accuracy_drop", "max", 0.05, confidence=0.95)]).results[0]
    assert result.outcome == "pass"
    assert {group.verdict for group in result.groups} == {"proven"}


def simulated(runs, groups, size, drops, churn, seed):
    """Draw lost and gained counts (runs, groups) of paired examples with true drops and a share that changes."""
    generator = np.random.default_rng(seed)
    gained = (churn - np.asarray(drops)) / 2
    lost = gained + np.asarray(drops)
    counts = generator.multinomial(size, np.stack([lost, gained, 1 - lost - gained], axis=1), size=(runs, groups))
    return counts[..., 0], counts[..., 1]


@pytest.mark.parametrize(("drops", "false"), [([0.05] * 5, 5), ([0.05, 0.05, 0.0, 0.0, -0.02], 2)])
def test_groups_that_break_their_bound_are_rarely_called_proven(drops, false):
    runs, size, bound = 400, 150, 0.05
    lost, gained = simulated(runs, 5, size, drops, 0.12, 0)
    wrong = 0
    for row in range(runs):
        evidence = LargestDrop(
            tuple(PairedDrop(int(a), int(b), size) for a, b in zip(lost[row], gained[row], strict=True)), tuple("abcde")
        )
        wrong += any(group.verdict == "proven" for group in evidence.verdicts(bound, 0.95)[:false])
    assert wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
