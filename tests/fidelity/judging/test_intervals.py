"""Confidence bounds against closed forms, exact enumeration and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cp_compress.fidelity.judging.intervals import (
    BoundedMean,
    PairedDrop,
    Proportion,
    Quantile,
    examples_needed,
)
from cp_compress.fidelity.judging.mean_tests import hoeffding_bentkus_log_p


@pytest.mark.parametrize(("successes", "total"), [(0, 10), (3, 10), (10, 10), (846, 900)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_proportion_is_the_exact_binomial_interval(successes, total, confidence):
    found = Proportion(successes, total).interval(confidence)
    two_sided = stats.binomtest(successes, total).proportion_ci(1 - 2 * (1 - confidence), method="exact")
    assert (found.low, found.high) == pytest.approx((two_sided.low, two_sided.high))


@settings(max_examples=20)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 200))
def test_paired_drop_is_antisymmetric(lost, gained, others):
    total = lost + gained + others
    if total == 0:
        return
    one, other = PairedDrop(lost, gained, total).interval(0.95), PairedDrop(gained, lost, total).interval(0.95)
    assert one.low == pytest.approx(-other.high, abs=1e-9)
    assert -1 <= one.low <= (lost - gained) / total <= one.high <= 1


@pytest.mark.parametrize("size", [5, 40, 400])
@pytest.mark.parametrize("shape", [(0.2, 5.0), (0.5, 0.5), (20.0, 5.0)])
def test_bounded_mean_covers_skewed_means(size, shape):
    generator = np.random.default_rng(0)
    true = shape[0] / sum(shape)
    bounds = [BoundedMean.of(generator.beta(*shape, size)).interval(0.9) for _ in range(120)]
    assert np.mean([bound.high < true for bound in bounds]) <= 0.1
    assert np.mean([bound.low > true for bound in bounds]) <= 0.1


def test_bounded_mean_of_zeros_claims_no_certainty():
    bounds = BoundedMean.of(np.zeros(20)).interval(0.95)
    assert bounds.low == 0
    assert 1 - 0.05 ** (1 / 20) < bounds.high < 0.5  # never below the exact binomial bound


def test_bounded_mean_scales_with_its_range():
    values = np.array([0.0, 3.0, 6.0, 1.5])
    wide = BoundedMean.of(values, 0.0, 6.0).interval(0.9)
    unit = BoundedMean.of(values / 6).interval(0.9)
    assert (wide.low, wide.high) == pytest.approx((6 * unit.low, 6 * unit.high))


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_quantile_bounds_cover(level):
    generator = np.random.default_rng(1)
    true = stats.expon.ppf(level)
    bounds = [Quantile(generator.exponential(size=80), level).interval(0.9) for _ in range(400)]
    assert np.mean([bound.high < true for bound in bounds]) <= 0.1 + 0.03
    assert np.mean([bound.low > true for bound in bounds]) <= 0.1 + 0.03


def test_quantile_of_too_few_values_is_unbounded():
    bounds = Quantile(np.array([1.0, 2.0]), 0.5).interval(0.95)
    assert (bounds.low, bounds.high) == (-math.inf, math.inf)


@pytest.mark.parametrize("size", [1.5, 12.6, 40.2, 40.0])
@pytest.mark.parametrize("mean", [0.9, 0.97, 0.999, 1.0])
def test_fractional_sizes_prove_no_more_than_their_divergence(size, mean):
    log_p = hoeffding_bentkus_log_p(mean, size, 0.9995)
    assert -math.inf < log_p <= 0
    wide, narrow = (BoundedMean(mean, 0.01, each).interval(0.95) for each in (size, 4 * size))
    assert wide.low <= narrow.low <= mean <= narrow.high <= wide.high


@pytest.mark.parametrize("evidence", [Proportion(97, 100), PairedDrop(4, 1, 100), BoundedMean(0.9, 0.01, 50)])
def test_needed_examples_decide_and_fewer_do_not(evidence):
    estimate = {Proportion: 0.97, PairedDrop: 0.03, BoundedMean: 0.9}[type(evidence)]

    def decides(interval):
        return interval.high - estimate < 0.01

    needed = examples_needed(evidence, decides, 0.95)
    factor = (evidence.count + needed) / evidence.count
    assert decides(evidence.scaled(factor).interval(0.95))
    assert not decides(evidence.scaled(factor * 0.97).interval(0.95))


def test_no_number_of_examples_decides_a_bound_that_is_met_exactly():
    assert examples_needed(Proportion(90, 100), lambda interval: interval.low >= 0.9, 0.95) is None
