"""pytest's short summary keeps metric, value and bound at 80 columns, and says why each gate failed."""

import pytest

from pytest_cp.checks.messages import example_change, in_brief

GATES = """
import pytest
from pytest_cp import assert_preserved_predictions

@pytest.mark.compress_model("prune(density=0.4)")
def test_short(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.99)

@pytest.mark.compress_model("prune(density=0.4)")
def test_with_a_name_that_leaves_no_room_for_anything_else(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.99)

@pytest.mark.compress_model("prune(density=0.4)")
def test_nothing(compressed_model):
    pass

@pytest.mark.compress_model("prune(density=0.4)")
def test_passes(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)
"""


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)


def summary_of(outcome):
    lines = outcome.result.stdout.lines
    start = next(place for place, line in enumerate(lines) if "short test summary info" in line)
    return lines[start + 1 : -1]


def test_metric_value_and_bound_are_there(project, narrow):
    project.write_test(GATES)
    outcome = project.run()
    lines = summary_of(outcome)
    text = " ".join(" ".join(lines).split())
    assert "FAILED test_gate.py::test_short[prune(density=0.4)] - agreement 0.7167 < 0.99" in text
    assert "anything_else[prune(density=0.4)]: agreement = 0.7167, required ≥ 0.99" in text
    assert "nothing was compared: the test uses a compressed model" in text
    assert "pytest_cp.errors" not in text
    assert "Failed:" not in text
    assert all(len(line) <= 80 or line.startswith("FAILED") for line in lines)
    # other reports are told all of it
    assert any(message.startswith("pytest_cp.errors.Predictions") for message in outcome.junit_messages)


def test_pytest_may_be_called_from_another_folder(project, narrow, monkeypatch):
    project.write_test(GATES)
    (project.path / "below").mkdir()
    monkeypatch.chdir(project.path / "below")
    outcome = project.run("..", "-k", "test_short")
    assert "FAILED ../test_gate.py::test_short[prune(density=0.4)] - " in " ".join(summary_of(outcome))


def test_gates_that_were_left_out_take_one_paragraph(project, narrow):
    project.write_test("".join(GATES.replace("def test_", f"def test_{place}_") for place in range(10)))
    outcome = project.run("-k", "nosuch")
    lines = outcome.result.stdout.lines
    start = next(place for place, line in enumerate(lines) if "preservation under compression" in line)
    told = " ".join(" ".join(lines[start:]).split())
    assert len(lines) - start < 15
    assert "not compared: 40 gates, " in told
    assert "and 37 more gates: deselected by -k 'nosuch'" in told


def test_a_claim_that_is_not_proven_is_no_value_beyond_its_bound():
    entry = {"metric": "agreement", "value": 0.957, "bound": 0.94, "direction": "min", "confidence": 0.95}
    told = "agreement = 0.957, required ≥ 0.94"
    assert in_brief(entry | {"outcome": "fail"}) == told
    assert in_brief(entry | {"outcome": "inconclusive"}) == f"inconclusive: {told}, not proven at 95%"


@pytest.mark.parametrize(
    ("comparison", "label", "told"),
    [
        ("predictions", "cat", "#3 (label cat): a → b"),
        ("outputs", "none", "#3: a → b"),
        ("detections", "image 3", "#3: a → b"),
        ("language", "19 tokens", "#3 (19 tokens): a → b"),
    ],
)
def test_an_example_is_called_what_it_is_called(comparison, label, told):
    assert example_change(comparison, {"index": 3, "label": label, "before": "a", "after": "b"}) == told
