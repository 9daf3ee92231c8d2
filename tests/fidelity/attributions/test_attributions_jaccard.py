"""The Jaccard index against its definition, written out slowly, and its laws."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.fidelity.attributions.jaccard import split_jaccard, weighted_jaccard

values = st.floats(-(2.0**100), 2.0**100, width=32).filter(lambda value: value == 0 or abs(value) > 1e-30)
maps = arrays.array_shapes(min_dims=2, max_dims=4, max_side=4).flatmap(
    lambda shape: st.tuples(*[arrays.arrays(np.float32, shape, elements=values)] * 2)
)


def slow_split(a, b):
    def parts(values):
        total = sum(abs(float(v)) for v in values)
        return [part / total if total else 0.0 for v in values for part in (max(float(v), 0), max(-float(v), 0))]

    pairs = list(zip(parts(a), parts(b), strict=True))
    union = sum(max(pair) for pair in pairs)
    return sum(min(pair) for pair in pairs) / union if union else 1.0


@given(maps)
def test_split_form_is_its_definition(pair):
    a, b = map(torch.from_numpy, pair)
    expected = [slow_split(x.flatten(), y.flatten()) for x, y in zip(*pair, strict=True)]
    assert split_jaccard(a, b).tolist() == pytest.approx(expected, abs=1e-9)


@given(maps, st.floats(1e-3, 1e3))
def test_laws(pair, scale):
    a, b = (torch.from_numpy(part).double() for part in pair)
    index = split_jaccard(a, b)
    assert bool(((index >= 0) & (index <= 1)).all())
    assert torch.equal(index, split_jaccard(b, a))
    assert torch.allclose(index, split_jaccard(a * scale, b), atol=1e-12)
    assert bool((split_jaccard(a, a) == 1).all())
    assert torch.allclose(split_jaccard(a, -a), (~a.flatten(1).any(dim=1)).double(), atol=1e-12)


@given(maps)
def test_plain_form_is_its_definition(pair):
    a, b = (torch.from_numpy(part).abs() for part in pair)
    x, y = a.flatten(1).double(), b.flatten(1).double()
    union = torch.maximum(x, y).sum(dim=1)
    expected = torch.where(union > 0, torch.minimum(x, y).sum(dim=1) / union, torch.ones_like(union))
    assert torch.allclose(weighted_jaccard(a, b), expected, atol=1e-12)


@pytest.mark.parametrize("size", [1e-320, 1e-45, 1e38, 1e308])
def test_extreme_sizes_neither_vanish_nor_overflow(size):
    a = torch.tensor([[size, size]], dtype=torch.float64)
    b = torch.tensor([[size, 0.0]], dtype=torch.float64)
    assert weighted_jaccard(a, b).item() == pytest.approx(0.5)
    assert split_jaccard(a, -b).item() == 0
    assert split_jaccard(a, b).item() == pytest.approx(1 / 3)


def test_zero_maps():
    zero, one = torch.zeros(1, 3), torch.ones(1, 3)
    for index in (weighted_jaccard, split_jaccard):
        assert index(zero, zero).item() == 1
        assert index(zero, one).item() == 0
        assert index(one, zero).item() == 0


def test_signed_maps_are_refused_by_the_plain_form():
    with pytest.raises(InvalidArgumentError, match=r"second=-2\.0.*use split_jaccard"):
        weighted_jaccard(torch.ones(1, 2), torch.tensor([[1.0, -2.0]]))


@pytest.mark.parametrize("index", [weighted_jaccard, split_jaccard])
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), "one shape"),
        (torch.ones(3), torch.ones(3), "one example or more"),
        (torch.ones(0, 3), torch.ones(0, 3), "one example or more"),
        (torch.full((1, 2), torch.nan), torch.ones(1, 2), "NaN"),
        (torch.ones(1, 2), torch.full((1, 2), torch.inf), "infinite"),
    ],
)
def test_refusals(index, first, second, message):
    with pytest.raises(InvalidArgumentError, match=message):
        index(first, second)
