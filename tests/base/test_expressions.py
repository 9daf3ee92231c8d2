"""Expressions: `parse(str(value)) == value` for any frozen dataclass, and clear refusals."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.expressions import format_expression, parse_expression


@dataclass(frozen=True)
class Sample:
    kind: object
    size: object = None
    names: object = ()
    expression_name: ClassVar[str] = "sample"
    positional_fields: ClassVar[tuple[str, ...]] = ("kind",)


literals = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(literals, literals, st.lists(literals).map(tuple))
def test_parsing_inverts_writing(kind, size, names):
    value = Sample(kind, size, names)
    assert parse_expression(format_expression(value), {"sample": Sample}, "sample") == [value]


@given(st.lists(literals, min_size=1, max_size=4))
def test_pipes_keep_their_order(kinds):
    values = [Sample(kind) for kind in kinds]
    text = " | ".join(map(format_expression, values))
    assert parse_expression(text, {"sample": Sample}, "sample") == values


def test_identifiers_need_no_quotes():
    assert format_expression(Sample("float16", size="layer")) == "sample(float16, size=layer)"
    assert parse_expression("sample(kind=float16)", {"sample": Sample}, "sample") == [Sample("float16")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sample(",
        "other(1)",
        "sample",
        "sample(1) + sample(2)",
        "sample(__import__('os').getcwd())",
        "sample(1, **{})",
        "sample(1, colour=2)",
        "sample(1, size=2, size=3)",
        "sample.other(1)",
        "sample(1)(2)",
        "3",
    ],
)
def test_refusals(text):
    with pytest.raises(InvalidArgumentError, match="sample"):
        parse_expression(text, {"sample": Sample}, "sample")


def test_keywords_are_quoted():
    assert format_expression(Sample("global")) == "sample('global')"


@pytest.mark.parametrize("letters", ["ª", "ﬁlter", "ℌead"])
def test_letters_that_python_reads_as_others_survive(letters):
    sample = Sample(letters, names=letters)
    assert parse_expression(format_expression(sample), {"sample": Sample}, "sample") == [sample]


@pytest.mark.parametrize("text", ["sample(global)", "sample( lambda , size=1)", "sample(1, names=class) | sample(in)"])
def test_pythons_own_words_may_be_values(text):
    words = {"global", "lambda", "class", "in"}
    found = parse_expression(text, {"sample": Sample}, "sample")
    assert {sample.kind for sample in found} | {sample.names for sample in found} <= words | {1, ()}
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        parse_expression("sample(global global)", {"sample": Sample}, "sample")
