"""Paired drops keep their stated error at every number of pairs: by enumeration of all samples, and by simulation."""

import numpy as np
import pytest
from scipy import stats

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.fidelity import Measurement, Requirement, judge
from cp_compress.fidelity.judging import paired_tests
from cp_compress.fidelity.judging.intervals import PairedDrop
from cp_compress.fidelity.judging.paired_tests import p_value, upper_limit


def worst_error(total, drop, error, *, more):
    """Return how often a true drop at the bound is called less (or more), over all samples, at the worst share."""
    bound, confidence = (drop if more else -drop), 1 - error
    called = np.full(total + 1, -1)
    for gained in range(total + 1):  # the p-value grows with the losses: bisect
        low, high = -1, total - gained + 1
        while high - low > 1:
            middle = (low + high) // 2
            if p_value(middle, gained, total, bound, confidence) <= error:
                low = middle
            else:
                high = middle
        called[gained] = low
    least = max(0.0, -bound)
    shares = np.concatenate([np.linspace(least, (1 - bound) / 2, 200), least + np.geomspace(1e-5, 0.3, 100)])
    gains, worst = np.arange(total + 1), 0.0
    for share in shares[shares <= (1 - bound) / 2]:
        chances = stats.binom.pmf(gains, total, share)
        lost_share = min(1.0, max(0.0, share + bound) / (1 - share)) if share < 1 else 0.0
        below = np.where(called < 0, 0.0, stats.binom.cdf(called, total - gains, lost_share))
        worst = max(worst, float((chances * below).sum()))
    return worst


@pytest.mark.parametrize(
    ("total", "drop", "error"),
    [(1, 0.5, 0.5), (5, 0.2, 0.1), (14, 0.05, 0.2), (25, 0.1, 0.05), (32, 0.05, 0.1), (60, 0.02, 0.0001), (40, 0, 0.5)],
)
@pytest.mark.parametrize("more", [True, False])
def test_a_drop_at_its_bound_is_called_otherwise_no_more_often_than_stated(total, drop, error, more):
    found = worst_error(total, drop, error, more=more)
    assert found <= error
    assert found > 0 or total < 25  # too few pairs prove nothing


@pytest.mark.parametrize(
    ("confidence", "drop", "total"),
    [(0.95, 0.01, 268), (0.95, 0.02, 133), (0.95, 0.05, 52), (0.9, 0.02, 81), (0.8, 0.05, 14)],
)
def test_a_sample_without_any_change_proves_what_its_chance_allows(confidence, drop, total):
    def outcome(total):
        evidence = {"accuracy_drop": PairedDrop(0, 0, total)}
        measured = Measurement("predictions", {"accuracy_drop": 0.0}, {"accuracy_drop": total}, evidence)
        return judge(measured, [Requirement("accuracy_drop", "max", drop, confidence)]).outcome

    assert (1 - drop) ** total > 1 - confidence
    assert outcome(total) == "inconclusive"
    enough = int(np.ceil(np.log(1 - confidence) / np.log(1 - drop) * 1.02)) + 1
    assert outcome(enough) == "pass"  # and little more than the exact binomial test of newly wrong answers needs


@pytest.mark.parametrize(("total", "share"), [(1000, 0.0), (1000, 0.03), (4000, 0.01)])
def test_the_error_holds_in_large_samples_by_simulation(total, share):
    generator, drop = np.random.default_rng(0), 0.02
    counts = generator.multinomial(total, [share + drop, share, 1 - drop - 2 * share], size=1500)
    rows, times = np.unique(counts[:, :2], axis=0, return_counts=True)
    near = rows[:, 0] - rows[:, 1] < total * drop * 0.97  # the others lie at the bound or above it
    wrong = sum(
        int(count)
        for (lost, gained), count in zip(rows[near], times[near], strict=True)
        if _clearly_below(lost, gained, total, drop) and p_value(int(lost), int(gained), total, drop, 0.95) <= 0.05
    )
    assert 0 < wrong / 1500 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1500)


def _clearly_below(lost, gained, total, drop):
    """Leave out what no test would call less, to save time."""
    return lost - gained - total * drop < -1.2 * np.sqrt(lost + gained + 1)


@pytest.mark.parametrize("pair", [(0, 0, 100), (3, 1, 60), (20, 15, 200), (0, 30, 60)])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.9999])
def test_the_bounds_are_those_that_the_test_allows(pair, confidence):
    interval = PairedDrop(*pair).interval(confidence)
    assert interval.low <= PairedDrop(*pair).value <= interval.high
    for end, index, side in ((interval.high, 0, 1), (interval.low, 1, -1)):
        inside, outside = (PairedDrop(*pair).p_values(end + side * step, confidence)[index] for step in (-1e-3, 1e-6))
        assert outside <= 1 - confidence + 1e-9 <= inside + 1e-9 or end == PairedDrop(*pair).value


@pytest.mark.parametrize("counts", [(3, 1, 3), (-1, 0, 5), (0.5, 0, 5), (0, 0, 0)])
def test_counts_are_whole_numbers_of_pairs(counts):
    with pytest.raises(InvalidArgumentError, match="whole numbers"):
        PairedDrop(*counts)


@pytest.mark.parametrize("pair", [(100, 0, 10000), (0, 100, 10000), (3, 0, 1000), (2, 1, 60), (0, 0, 500)])
@pytest.mark.parametrize("bound", [-0.9, -0.05, -0.01, 0.0, 0.01, 0.05, 0.9])
def test_no_bound_is_refuted_from_both_sides(pair, bound):
    more, less = PairedDrop(*pair).p_values(bound)
    assert max(more, less) > 0.4
    assert (more > 0.4) if bound <= PairedDrop(*pair).value else (less > 0.4)


@pytest.mark.parametrize(
    ("lost", "gained", "total"), [(1100, 900, 20_000), (2500, 2500, 50_000), (1500, 9000, 50_000), (3000, 0, 30_000)]
)
def test_the_bound_for_many_pairs_is_above_the_exact_probability_and_close(lost, gained, total, monkeypatch):
    estimate, spread = (lost - gained) / total, np.sqrt(lost + gained) / total
    drops = [estimate + step * spread for step in (-1, 0.5, 1.7, 3.5)]
    quick = upper_limit(lost, gained, total, 0.95)
    bounds = [p_value(lost, gained, total, drop, 0.95) for drop in drops]
    monkeypatch.setattr(paired_tests, "_MANY", total + 1)
    p_value.cache_clear()
    upper_limit.cache_clear()
    exact = [p_value(lost, gained, total, drop, 0.95) for drop in drops]
    limit = upper_limit(lost, gained, total, 0.95)
    p_value.cache_clear()
    upper_limit.cache_clear()
    assert all(one <= bound <= 1.1 * one + 0.01 for one, bound in zip(exact, bounds, strict=True))
    assert limit <= quick + 1e-9
    assert quick - limit <= 1 / total
