"""Numbers for a person: no more digits than needed, and never the same text for two values that differ."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cp_compress.base.numbers import bound_text, headroom_text, number, percent

shares = st.floats(0, 1)


@given(shares, shares)
def test_a_value_and_its_bound_look_as_different_as_they_are(value, bound):
    texts = number(value, bound), number(bound, value)
    assert (texts[0] == texts[1]) == (value == bound)
    if value != bound:
        assert (float(texts[0]) < float(texts[1])) == (value < bound)


@given(shares)
def test_only_one_is_written_as_one(value):
    assert (number(value) == "1") == (value == 1)
    assert (number(value, digits=6) == "1") == (value == 1)
    assert (percent(value) == "100.0%") == (value == 1)
    assert (percent(value) == "0.0%") == (value == 0)
    assert (bound_text(value) == "1") == (value == 1)


@given(st.floats(-5, 5))
def test_headroom_is_100_percent_and_nothing_only_where_it_is(headroom):
    text = headroom_text(headroom)
    assume(headroom == 1 or abs(headroom - 1) > 1e-9)
    assert (text == "100 %") <= (headroom >= 1)
    assert text.lstrip("<> ").startswith("-") == (headroom < 0)


def test_ordinary_numbers_stay_short():
    assert [number(value) for value in (0.97, 0.123456, 12.5, 1e-5, 38768.0, math.inf, "nan")] == [
        "0.97", "0.1235", "12.5", "1e-05", "3.877e+04", "inf", "nan"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "bound", "shown"),
    [(0.99998, 1.0, ("0.99998", "1")), (0.969996, 0.97, ("0.969996", "0.97")), (2e-5, 1e-5, ("2e-05", "1e-05"))],
)
def test_pairs(value, bound, shown):
    assert (number(value, bound), number(bound, value)) == shown
