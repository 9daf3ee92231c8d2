"""Search spaces: the unit interval and back, schemes from points, and what is refused."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_compress import InvalidArgumentError, Prune
from cp_compress.base.showing.describing import describe
from cp_compress.search import Bisection, Categorical, Integer, Real, SchemeSpace

reals = st.floats(1e-3, 1e3).map(lambda number: float(f"{number:.6g}"))


@given(reals, reals, st.floats(0, 1), st.sampled_from(["linear", "log"]))
def test_real_numbers_keep_their_place(one, other, unit, scale):
    if one == other:
        return
    parameter = Real(min(one, other), max(one, other), scale)
    value = parameter.from_unit(unit)
    assert parameter.low <= value <= parameter.high
    assert float(f"{value:.9g}") == value
    reached = parameter.from_unit(parameter.to_unit(value))
    assert reached == pytest.approx(value, rel=1e-8)
    assert parameter.from_unit(0) == pytest.approx(parameter.low)
    assert parameter.from_unit(1) == pytest.approx(parameter.high)


@given(st.integers(1, 1000), st.integers(1, 1000), st.floats(0, 1), st.sampled_from(["linear", "log"]))
def test_every_whole_number_is_reached_and_comes_back(low, span, unit, scale):
    parameter = Integer(low, low + span, scale)
    assert [parameter.from_unit(parameter.to_unit(value)) for value in range(low, low + span + 1)] == list(
        range(low, low + span + 1)
    )
    assert isinstance(parameter.from_unit(unit), int)
    assert low <= parameter.from_unit(unit) <= low + span


def test_a_point_is_a_scheme_by_template_and_by_callable():
    space = SchemeSpace(
        "prune(density={d}, scope={scope}) | quantize({dtype})",
        d=Real(0.1, 1),
        scope=Categorical(("global", "layer")),
        dtype=Categorical(("float16", "int8")),
    )
    point = {"d": 0.25, "scope": "global", "dtype": "int8"}
    assert str(space.scheme(point)) == "prune(density=0.25) | quantize(int8)"
    assert space.ends()[0] == {"d": 0.1, "scope": "global", "dtype": "float16"}
    own = SchemeSpace(lambda point: Prune(point["eighths"] / 8), eighths=Integer(1, 7))
    assert own.scheme({"eighths": 2}) == Prune(0.25)


def test_what_is_no_scheme_is_refused():
    with pytest.raises(InvalidArgumentError, match="must return a scheme"):
        SchemeSpace(lambda point: "prune(density=0.5)", d=Real(0.1, 1)).scheme({"d": 0.5})


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Real(1, 0), "above low"),
        (lambda: Real(0, 1, "log"), "positive"),
        (lambda: Real(0, float("inf")), "finite"),
        (lambda: Real(0, 1, "square"), "'linear', 'log'"),
        (lambda: Integer(0.5, 2), "whole number"),
        (lambda: Integer(0, 8, "log"), "positive"),
        (lambda: Categorical(("one",)), "two different values"),
        (lambda: Categorical(("one", "one")), "two different values"),
        (lambda: Categorical((None, 1)), "text or a number"),
        (lambda: SchemeSpace("prune(density=0.5)"), "at least one"),
        (lambda: SchemeSpace("prune(density={d})", density=Real(0.1, 1)), r"names \['d'\] in braces"),
        (lambda: SchemeSpace("prune(density={d)", d=Real(0.1, 1)), "cannot be read"),
        (lambda: SchemeSpace("prune(density={d})", d=(0.1, 1)), "must be a Real"),
        (lambda: SchemeSpace(3, d=Real(0.1, 1)), "text such as"),
    ],
)
def test_malformed_spaces_are_refused(make, rule):
    with pytest.raises(InvalidArgumentError, match=rule):
        make()


def test_texts_tell_callables_apart():
    first, second = functools.partial(round, ndigits=1), functools.partial(round, ndigits=2)
    assert describe(first) == describe(functools.partial(round, ndigits=1)) != describe(second)
    assert describe(Bisection()) == "bisection()"
    assert "object at 0x" not in describe(object())
