"""Metadata: conditions on columns, and files that do not fit."""

import pytest

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.inputs.metadata import Metadata, read_metadata

METADATA = Metadata(
    {"time": ("day", "night", "", "day"), "age": ("3", "41.5", "", "18"), "seen": ("true", "False", "", "x")}
)


@pytest.mark.parametrize(
    ("column", "condition", "mask"),
    [
        ("time", {"equals": "day"}, [1, 0, 0, 1]),
        ("time", {"one_of": ["night", ""]}, [0, 1, 1, 0]),
        ("age", {"equals": 41.5}, [0, 1, 0, 0]),
        ("age", {"at_least": 18}, [0, 1, 0, 1]),
        ("age", {"at_most": 18}, [1, 0, 0, 1]),
        ("age", {"at_least": 4, "at_most": 20}, [0, 0, 0, 1]),
        ("seen", {"equals": True}, [1, 0, 0, 0]),
        ("seen", {"equals": False}, [0, 1, 0, 0]),
    ],
)
def test_conditions(column, condition, mask):
    assert METADATA.where(column, **condition).int().tolist() == mask


def test_equals_and_one_of_are_both_met():
    metadata = Metadata({"time": ("day", "night", "day")})
    assert metadata.where("time", equals="night", one_of=["day"]).tolist() == [False] * 3
    assert metadata.where("time", equals="day", one_of=["day", "night"]).tolist() == [True, False, True]


def test_the_slices_of_a_column_part_the_examples():
    slices = METADATA.slices("time")
    assert list(slices) == ["", "day", "night"]
    assert sum(mask.int() for mask in slices.values()).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("column", "condition", "told"),
    [
        ("tme", {"equals": "day"}, "known are time, age, seen"),
        ("time", {}, "give a condition"),
        ("time", {"at_least": 3}, "compared with a number"),
    ],
)
def test_conditions_that_cannot_be_meant(column, condition, told):
    with pytest.raises(InvalidArgumentError, match=told):
        METADATA.where(column, **condition)


def test_a_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('\ufeffname,age\r\n"a, b",3\r\nÄ,4\r\n', encoding="utf-8")
    metadata = read_metadata(path, 2)
    assert dict(metadata.columns) == {"name": ("a, b", "Ä"), "age": ("3", "4")}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "header"),
        (b"a,a\n1,2\n3,4\n", "distinct column names"),
        (b"a,\n1,2\n3,4\n", "header"),
        (b"a,b\n1,2\n3\n", "row 3"),
        (b"a\n1\n", "1 rows for 2 examples"),
        (b"a\n\xff\n1\n", "not a CSV"),
        (b'a\n"1\n2\n', "not a CSV"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path, content, told):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=told):
        read_metadata(path, 2)
