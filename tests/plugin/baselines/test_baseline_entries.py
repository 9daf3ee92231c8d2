"""What a file of baselines may hold: values that can be, of checks that are still made, of references that tell."""

import json
from types import SimpleNamespace

import pytest

from pytest_cp.baselines import Baselines
from pytest_cp.baselines.files import BaselineFileError, read_entries


def entry(metric="agreement", value=0.9):
    metrics = {metric: {"value": value, "n": 120, "interval": None, "direction": "min"}}
    return {"metrics": metrics, "measured_on": {}, "environment": {}}


def write(path, **checks):
    path.parent.mkdir(exist_ok=True)
    named = {f"{test} assert_preserved_predictions(agreement)": one for test, one in checks.items()}
    path.write_text(json.dumps({"schema_version": 2, "checks": named}))


@pytest.mark.parametrize(
    ("metric", "value"),
    [("agreement", -1e308), ("agreement", "-inf"), ("agreement", 1.01), ("mean_kl", -0.1), ("iou_quantile_0.1", 2)],
)
def test_a_value_that_its_metric_cannot_have_is_damage(tmp_path, metric, value):
    path = tmp_path / "saved.json"
    write(path, test_gate=entry(metric, value))
    with pytest.raises(BaselineFileError, match=rf"{metric} has the value .*, outside its range \["):
        read_entries(path)


@pytest.mark.parametrize(("metric", "value"), [("agreement", 1), ("psnr", "inf"), ("corrupted_mood", -5)])
def test_a_value_that_its_metric_can_have_is_read(tmp_path, metric, value):
    path = tmp_path / "saved.json"
    write(path, test_gate=entry(metric, value))
    assert len(read_entries(path)) == 1


@pytest.mark.parametrize(("mode", "kept"), [("update", ["test_failed", "test_other"]), ("new", None), ("check", None)])
def test_update_removes_what_a_test_that_passed_no_longer_makes(tmp_path, mode, kept):
    path = tmp_path / "cp_baselines" / "test_gate.json"
    write(path, test_gate=entry(), test_other=entry(), test_failed=entry())
    config = SimpleNamespace(
        rootpath=tmp_path, getoption=lambda name: mode, getini={"cp_baseline_dir": "cp_baselines"}.get
    )
    outcomes = {"test_gate.py::test_gate": "passed", "test_gate.py::test_failed": "failed"}
    notes = Baselines(config).write([], outcomes)
    names = [name.partition(" ")[0] for name in json.loads(path.read_text())["checks"]]
    assert sorted(names) == (kept or ["test_failed", "test_gate", "test_other"])
    name = "test_gate assert_preserved_predictions(agreement)"
    assert notes == ([f"baseline {name}: agreement 0.9 → removed"] if kept else [])


FUNCTIONS = """
import subjects
model = subjects.make_model()

def serve(batch):
    return model(batch)

def telling(batch):
    return model(batch)

telling.content_digest = "weights 7"

@pytest.mark.compress_model("prune(density=0.4)")
@pytest.mark.parametrize("reference", [serve, telling], ids=["serve", "telling"])
def test_gate(compressed_model, dataset, reference):
    assert_preserved_predictions(compressed_model, reference, dataset, min_agreement=0.1)
"""


def test_no_baseline_is_of_a_function_that_does_not_tell_what_it_is(project):
    project.write_test(FUNCTIONS)
    for mode in ("new", "check"):
        outcome = project.run(f"--cp-baseline={mode}")
        outcome.result.assert_outcomes(passed=1, failed=1)
        assert "give it an attribute content_digest" in outcome.junit_messages[0]
        (name,) = json.loads((project.path / "cp_baselines" / "test_gate.json").read_text())["checks"]
        assert "telling" in name
