"""Rank correlation against SciPy, strongest places against brute force, and the laws of both."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.fidelity import rank_correlation, top_fraction_iou

# few different values, so that many are tied
values = st.integers(-3, 3).map(float)
pairs = arrays.array_shapes(min_dims=2, max_dims=4, max_side=4).flatmap(
    lambda shape: st.tuples(*[arrays.arrays(np.float32, shape, elements=values)] * 2)
)
fractions = st.floats(0.05, 0.95)


@given(pairs)
def test_rank_correlation_is_scipys(pair):
    found = rank_correlation(*map(torch.from_numpy, pair)).tolist()
    for value, a, b in zip(found, *pair, strict=True):
        a, b = a.flatten(), b.flatten()
        flat = [len(set(part.tolist())) == 1 for part in (a, b)]
        expected = float(all(flat)) if any(flat) else stats.spearmanr(a, b).statistic
        assert value == pytest.approx(expected, abs=1e-12)


@given(pairs)
def test_laws_of_rank_correlation(pair):
    a, b = map(torch.from_numpy, pair)
    found = rank_correlation(a, b)
    assert torch.equal(found, rank_correlation(b, a))
    assert torch.allclose(found, rank_correlation(a.double().exp(), b), atol=1e-12)
    assert torch.allclose(rank_correlation(a, a), torch.ones(len(a), dtype=torch.float64))
    varied = torch.tensor([len(set(row.flatten().tolist())) > 1 for row in a])
    assert torch.allclose(rank_correlation(a, -a)[varied], torch.tensor(-1.0).double())


def slow_top(a, b, fraction):
    """Intersection over union with exact shares, place by place."""

    def taken(rows):
        strengths = np.abs(rows.astype(float))
        strengths = (strengths.sum(axis=0) if strengths.ndim > 2 else strengths).flatten().tolist()
        count = max(1, round(fraction * len(strengths)))
        last = sorted(strengths, reverse=True)[count - 1]
        above, tied = sum(s > last for s in strengths), sum(s == last for s in strengths)
        share = Fraction(count - above, tied)
        return [Fraction(1) if s > last else share if s == last else Fraction(0) for s in strengths]

    if not a.any() or not b.any():
        return float(not a.any() and not b.any())
    both = list(zip(taken(a), taken(b), strict=True))
    return float(sum(map(min, both)) / sum(map(max, both)))


@given(pairs, fractions)
def test_strongest_places_are_those_of_brute_force(pair, fraction):
    found = top_fraction_iou(*map(torch.from_numpy, pair), fraction).tolist()
    expected = [slow_top(a, b, fraction) for a, b in zip(*pair, strict=True)]
    assert found == pytest.approx(expected, abs=1e-12)


@given(pairs, fractions)
def test_laws_of_strongest_places(pair, fraction):
    a, b = map(torch.from_numpy, pair)
    found = top_fraction_iou(a, b, fraction)
    assert bool(((found >= 0) & (found <= 1)).all())
    assert torch.equal(found, top_fraction_iou(b, a, fraction))
    assert torch.equal(found, top_fraction_iou(-3 * a, b, fraction))
    assert torch.equal(top_fraction_iou(a, a, fraction), torch.ones(len(a), dtype=torch.float64))


def test_the_stated_chance_level():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 400, 1, 32, 32, generator=generator)
    for fraction in (0.1, 0.3):
        found = float(top_fraction_iou(a, b, fraction).mean())
        assert found == pytest.approx(fraction / (2 - fraction), rel=0.03)
    assert float(rank_correlation(a, b).mean()) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("fraction", [0, 1, 1.5, math.nan, "tenth"])
def test_fractions_are_shares(fraction):
    with pytest.raises(InvalidArgumentError, match="share of the places"):
        top_fraction_iou(torch.ones(1, 3), torch.ones(1, 3), fraction)


@pytest.mark.parametrize("function", [rank_correlation, top_fraction_iou])
def test_bad_maps_are_refused(function):
    good = torch.ones(2, 3)
    for bad in (torch.ones(2, 4), torch.ones(2), good * math.nan, good * math.inf, [1, 2]):
        with pytest.raises(InvalidArgumentError):
            function(good, bad)
