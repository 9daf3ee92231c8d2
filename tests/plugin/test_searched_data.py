"""No gate is made on examples that a search has seen, unless the ini file says so."""

import json

import pytest

from cp_compress.search import example_digests

GATE = """
@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)
"""
SEARCHED_IN_PROCESS = """
from cp_compress import Requirement
from cp_compress.search import Preserved, Real, SchemeSpace, search

def test_gate(reference_model, dataset):
    inputs, labels = dataset
    half, rest = (inputs[:60], labels[:60]), (inputs[60:], labels[60:])
    spec = Preserved("predictions", half, [Requirement("agreement", "min", 0.5)])
    space = SchemeSpace("prune(density={density})", density=Real(0.1, 1))
    best = search(reference_model, space, objective="parameters", constraints=spec, trials=4).best
    assert_preserved_predictions(best, reference_model, DATA, min_agreement=0.1)
"""


def write_result(project, count):
    project.write_test(GATE)
    subjects = {}
    exec((project.path / "subjects.py").read_text(), subjects)
    inputs, labels = subjects["make_data"]()
    digests = example_digests((inputs[:count] * 1.0, labels[:count]))
    (project.path / "search.json").write_text(json.dumps({"search_digests": digests}))


def use_result(project, *more):
    project.pytester.makeini("\n".join(["[pytest]", "cp_search_results = search.json", *more]))


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["serial", "xdist"])
def test_a_gate_on_searched_examples_fails_and_names_them(project, workers):
    write_result(project, 7)
    use_result(project)
    outcome = project.run(*workers, subprocess=bool(workers))
    assert outcome.failed_everywhere
    outcome.result.stdout.fnmatch_lines(["*7 of its 120 examples (#0, #1, #2, #3, #4*search*"])


def test_the_ini_file_may_allow_it_and_other_examples_are_no_matter(project):
    write_result(project, 7)
    use_result(project, "cp_allow_searched_data = true")
    assert project.run().result.ret == 0
    (project.path / "search.json").write_text(json.dumps({"search_digests": ["0" * 16]}))
    use_result(project)
    assert project.run().result.ret == 0


def test_a_file_that_is_no_result_is_a_usage_error(project):
    project.write_test(GATE)
    use_result(project)
    outcome = project.run()
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR
    outcome.result.stderr.fnmatch_lines(["*search.json is not a JSON result of a search*"])


@pytest.mark.parametrize(("data", "passes"), [("half", False), ("rest", True)])
def test_a_candidate_carries_what_it_was_searched_on(project, data, passes):
    project.write_test(SEARCHED_IN_PROCESS.replace("DATA", data))
    outcome = project.run()
    assert (outcome.result.ret == 0) == passes
    if not passes:
        outcome.result.stdout.fnmatch_lines(["*60 of its 60 examples*"])


USED = """
import copy, torch
from torch import nn
from cp_compress import Quantize, load, save
from cp_compress.model import CalibrationData
from cp_compress.inputs.seen import seen_digests

@pytest.fixture
def calibrated(reference_model, dataset):
    scheme = Quantize("int8", mode="static", calibration=CalibrationData((dataset[0][:50], dataset[1][:50])))
    return scheme.compress(reference_model)

def wrapped(model):
    return nn.Sequential(nn.Identity(), model)

def test_values(calibrated, reference_model, dataset):
    check = assert_preserved_predictions(calibrated, reference_model, dataset, min_agreement=0.1)
    assert any("50 of 120 examples" in note and "calibration" in note for note in check.measurement.notes)

def test_claim(calibrated, reference_model, dataset, tmp_path):
    save(calibrated, tmp_path / "model.cp")
    again = load(tmp_path / "model.cp", reference_model)
    assert seen_digests(again) == seen_digests(calibrated) == seen_digests(copy.deepcopy(wrapped(again)))
    rest = dataset[0][50:], dataset[1][50:]
    assert_preserved_predictions(again, reference_model, rest, min_agreement=0.1, confidence=0.9)
    with pytest.raises(ValueError, match="used for calibration"):
        check_preserved_predictions(wrapped(again), reference_model, dataset, min_agreement=0.1, confidence=0.9)
"""


def test_a_candidate_carries_what_it_was_calibrated_on_through_files_and_wrappers(project):
    project.write_test(USED)
    outcome = project.run()
    outcome.result.assert_outcomes(passed=2)
    outcome.result.stdout.fnmatch_lines(["error *", "1 error, 2 pass", "* = quantize(int8, mode=static*"])
