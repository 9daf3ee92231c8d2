"""What stands behind a check on the page: pictures without maps, the classes that fell most, and absolute sizes."""

import copy
import itertools
import json

import pytest
import torch
from torch import nn

from cp_compress import TaskDataset
from cp_compress.fidelity import Requirement, compare_predictions, judge, observe
from cp_compress.fidelity.footprints import compare_footprints
from pytest_cp.checks.evidence import gather_evidence
from pytest_cp.checks.records import not_asserting, record_check
from pytest_cp.report.page import render_page


def page_of(measurement, requirement, evidence=None):
    """Return the page of one check."""
    subjects = {"candidate": {"name": "small", "digest": "c"}, "reference": {"name": "large", "digest": "r"}}
    with not_asserting():
        record = record_check(judge(measurement, [requirement]), "check_it", subjects)
    record |= {"test": "test_it", "evidence": evidence}
    empty = {name: [] for name in ("not_compared", "waivers", "sections", "notes")}
    return render_page(
        {
            "exit_status": 1,
            "outcomes": {"fail": 1},
            "checks": [json.loads(json.dumps(record))],
            "created": "now",
            "duration": 1.0,
            "provenance": {},
            "execution": {"device": None, "seed": 0},
            "environment": {},
            **empty,
        }
    )


@pytest.mark.parametrize(
    ("task", "network", "shape", "told"),
    [
        ("dense", nn.Conv2d(3, 4, 1), (6, 8, 8), "one answer per position"),
        ("multi_label", nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), (6, 5), "several labels"),
    ],
)
def test_structured_tasks_have_pictures_and_a_word_about_maps(task, network, shape, told):
    data = TaskDataset((torch.rand(6, 3, 8, 8), torch.randint(0, 2, shape)), task)
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(-1)
    candidate, reference = observe(other.eval(), data), observe(network.eval(), data)
    measurement = compare_predictions(candidate, reference)
    evidence = gather_evidence(measurement, candidate, reference)
    (note,) = evidence["notes"]
    assert note.startswith("no attribution maps: ")
    assert told in note
    assert evidence["examples"]
    assert all(row["image"] and "reference_map" not in row for row in evidence["examples"])
    page = page_of(measurement, Requirement("agreement", "min", 1.0), evidence)
    assert told in page
    assert 'class="picture' in page


def test_of_many_classes_those_that_fell_most_are_shown():
    labels = torch.arange(100).repeat(4)
    inputs, matrix = nn.functional.one_hot(labels, 100).float(), torch.eye(100)
    broken = matrix.clone()
    broken[70] = matrix[71]
    data = inputs, labels
    measurement = compare_predictions(observe(lambda x: x @ broken, data), observe(lambda x: x @ matrix, data))
    page = page_of(measurement, Requirement("max_class_accuracy_drop", "max", 0.5))
    assert "(the 40 of 100 whose accuracy fell most)" in page
    assert page.count(", before: ") == 40
    assert page.index("class 70, before") < page.index("class 0, before")


def test_a_footprint_is_shown_in_absolute_figures_and_times(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("cp_compress.model.footprints.time.perf_counter", lambda: next(clock) * 0.5)
    small, large = nn.Linear(10, 100), nn.Sequential(nn.Linear(10, 100), nn.Linear(100, 100))
    measurement = compare_footprints(small, large, torch.zeros(3, 10), ["speedup", "flops_ratio"])
    assert measurement.details["candidate"]["latency_seconds"] == 0.5
    page = page_of(measurement, Requirement("speedup", "min", 2.0))
    for title, before, after in (
        ("parameters", "11,200", "1,100"),
        ("FLOPs per batch", "66,000", "6,000"),
        ("milliseconds per batch (median)", "500", "500"),
    ):
        assert f'<tr><th scope="row">{title}</th><td class="n">{before}</td><td class="n">{after}</td></tr>' in page
    assert "bytes on disk" in page
