"""Accuracy against size in the report: which points share a chart, and which lie on the front."""

import itertools
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_cp.report.figures import accuracy_against_cost, place_labels
from pytest_cp.report.sizes import candidate_of, size_table


def sized_record(name, accuracy, size, digest=None, reference="r", data="d", before=1.0, test="test_gate"):
    """Return what the size table reads of a check of predictions; digests are the names where none is given."""
    sizes = {
        "candidate": {"model": {"artifact_bytes": size}, "bytes_per_example": None},
        "reference": {"model": {"artifact_bytes": 1000}, "bytes_per_example": None},
    }
    return {
        "test": test,
        "subjects": {
            "candidate": {"name": name, "digest": digest or name},
            "reference": {"name": "Net", "digest": reference},
            "data": {"name": "TensorDataset", "digest": data},
        },
        "metrics": {"accuracy": accuracy, "reference_accuracy": before},
        "evidence": {"sizes": sizes},
        "comparison": "predictions",
        "details": {},
    }


def test_the_front_is_what_none_beats():
    records = [
        sized_record("a", 0.9, 100),
        sized_record("b", 0.8, 200),
        sized_record("c", 0.95, 200),
        sized_record("d", 0.9, 100),
    ]
    (chart,) = size_table(records)
    assert chart["title"] == "Models"
    assert {point["name"]: point["on_front"] for point in chart["points"]} == {
        "a": True,
        "b": False,
        "c": True,
        "d": True,
        "the reference": True,
    }


@pytest.mark.parametrize("differs", ["reference", "data"])
def test_each_reference_and_data_set_has_its_own_chart(differs):
    records = [
        sized_record("int8", accuracy, size, digest=digest, before=before, **{differs: digest})
        for digest, accuracy, size, before in (("1", 0.8, 100, 0.85), ("2", 0.18, 300, 0.2))
    ]
    first, second = size_table(records)
    for chart, digest, accuracy, before in ((first, "1", 0.8, 0.85), (second, "2", 0.18, 0.2)):
        told = {"reference": "Net", "data": "TensorDataset", differs: None}
        told[differs] = f"{'Net' if differs == 'reference' else 'TensorDataset'} ({digest})"
        assert chart["title"] == f"Models compared with {told['reference']} on {told['data']}"
        found = {point["name"]: point["accuracy"] for point in chart["points"]}
        assert found == {"int8": accuracy, "the reference": before}


def test_candidates_of_one_name_are_two_points():
    (chart,) = size_table([sized_record("Net", 0.9, 100, "good"), sized_record("Net", 0.1, 100, "bad")])
    found = {point["name"]: point["accuracy"] for point in chart["points"]}
    assert found == {"Net (good)": 0.9, "Net (bad)": 0.1, "the reference": 1.0}


def test_candidates_without_digests_are_told_apart_by_their_tests():
    records = [sized_record("f", accuracy, 100, test=test) for accuracy, test in ((0.9, "test_a"), (0.1, "test_b"))]
    for record in records:
        record["subjects"]["candidate"]["digest"] = None
    (chart,) = size_table(records)
    assert {point["name"] for point in chart["points"]} == {"f (test_a)", "f (test_b)", "the reference"}


def test_sizes_may_come_from_the_check_of_the_footprint():
    found, size = sized_record("a", 0.9, 100), sized_record("a", 0.9, 100)
    found["evidence"] = size["evidence"] = None
    size |= {"comparison": "footprint", "metrics": {}}
    size["details"] = {"candidate": {"artifact_bytes": 70}, "reference": {"artifact_bytes": 90}}
    del size["subjects"]["data"]
    (chart,) = size_table([found, size])
    assert [(point["name"], point["size"]) for point in chart["points"]] == [("a", 70), ("the reference", 90)]


def test_stored_data_have_charts_of_their_own():
    record = sized_record("Net", 0.9, 100, digest="r")
    record["subjects"]["compressed_data"] = {"name": "jpeg(quality=20)", "digest": "j"}
    record["evidence"]["sizes"]["candidate"]["bytes_per_example"] = 12.5
    (chart,) = size_table([record])
    assert chart["title"] == "Stored data"
    assert [(point["name"], point["size"]) for point in chart["points"]] == [("jpeg(quality=20)", 12.5)]


def test_who_failed_is_neither_on_the_front_nor_hides_who_passed():
    records = [sized_record("good", 0.9, 100), sized_record("broken", 0.99, 10)]
    outcomes = {candidate_of(records[0]): "pass", candidate_of(records[1]): "fail"}
    (chart,) = size_table(records, outcomes)
    assert {point["name"]: point["on_front"] for point in chart["points"]} == {
        "good": True,
        "broken": False,
        "the reference": True,
    }
    drawn = accuracy_against_cost(chart["points"], "bytes on disk")
    assert 'class="mark fail"' in drawn
    assert drawn.count('class="joined"') == 1


def test_one_outlier_does_not_squash_the_rest():
    points = [
        {"name": str(number), "outcome": "pass", "accuracy": 0.99 - number / 1000, "size": 10 * number + 10}
        for number in range(4)
    ]
    outlier = {"name": "ruined", "outcome": "fail", "accuracy": 0.1, "size": 5}
    drawn = accuracy_against_cost([*points, outlier], "bytes on disk")
    heights = [float(place) for place in re.findall(r'class="mark pass" d="M[\d.]+ ([\d.]+)m', drawn)]
    assert max(heights) - min(heights) >= 60
    assert 'class="break"' in drawn
    assert 'class="break"' not in accuracy_against_cost(points, "bytes on disk")


@given(st.lists(st.tuples(st.floats(80, 380), st.floats(30, 200)), min_size=1, max_size=12))
@settings(max_examples=50)
@example([(200.0, 100.0)] * 8)
def test_labels_do_not_overlap(spots):
    texts = [str(number) for number in range(1, len(spots) + 1)]
    places = place_labels(spots, texts, (420, 260))
    boxes = [
        (x - 3.5 * len(text), y - 5, x + 3.5 * len(text), y + 5) for (x, y), text in zip(places, texts, strict=True)
    ]
    for one, other in itertools.combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
