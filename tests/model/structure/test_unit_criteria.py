"""The criteria that rank filters and neurons: closed forms, brute force, and their laws."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.model import FilterPrune
from cp_compress.model.settings import CRITERIA
from cp_compress.model.structure.criteria import unit_strengths

ROWS = torch.tensor([[3.0, -4.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, -5.0]])
SETS = st.integers(0, 1000).map(
    lambda seed: torch.randn(5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
)


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        ("l1", [7, 3, 5]),
        ("l2", [5, 3**0.5, 5]),
        ("max", [4, 1, 5]),
        ("mean", [7 / 3, 1, 5 / 3]),
        ("geometric_median", [30**0.5 + 50**0.5, 30**0.5 + 38**0.5, 50**0.5 + 38**0.5]),
    ],
)
def test_closed_forms(criterion, expected):
    torch.testing.assert_close(unit_strengths([ROWS], criterion), torch.tensor(expected, dtype=torch.float64))


@given(SETS)
def test_geometric_median_is_the_sum_of_all_distances(rows):
    expected = [sum(float((a - b).norm()) for b in rows) for a in rows]
    torch.testing.assert_close(unit_strengths([rows], "geometric_median").tolist(), expected)


@given(SETS, st.sampled_from(CRITERIA))
def test_coupled_layers_are_judged_as_their_rows_joined(rows, criterion):
    parts = [rows[:, :1], rows[:, 1:]]
    torch.testing.assert_close(unit_strengths(parts, criterion), unit_strengths([rows], criterion))


@given(SETS, st.sampled_from(CRITERIA), st.floats(0.1, 10))
def test_strengths_scale_with_the_weights_and_ignore_signs(rows, criterion, scale):
    scaled = unit_strengths([-scale * rows], criterion)
    torch.testing.assert_close(scaled, scale * unit_strengths([rows], criterion))


def test_products_and_subtractions_give_the_same_distances(monkeypatch):
    rows = 100 + torch.randn(30, 50, generator=torch.Generator().manual_seed(0))
    exact = unit_strengths([rows], "geometric_median")
    monkeypatch.setattr("cp_compress.model.structure.criteria._EXACT", 0)
    torch.testing.assert_close(unit_strengths([rows], "geometric_median"), exact, rtol=1e-9, atol=0)


def test_the_most_replaceable_filter_goes_first_by_geometric_median_and_the_smallest_by_norm():
    model = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 1, 1))
    model[0].weight.data = torch.tensor([1.0, 5.0, 6.0]).view(3, 1, 1, 1)
    kept = {}
    for criterion in CRITERIA:
        pruned = FilterPrune(2 / 3, norm=criterion, shrink=False, example_shape=(1, 4, 4)).compress(model)
        kept[criterion] = pruned[0].weight.flatten().tolist()
    assert kept.pop("geometric_median") == [1, 0, 6]
    assert set(itertools.chain.from_iterable(kept.values())) == {0, 5, 6}


def test_another_criterion_is_refused():
    with pytest.raises(InvalidArgumentError, match="geometric_median"):
        unit_strengths([ROWS], "l3")
