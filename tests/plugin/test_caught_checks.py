"""A failed check that something swallows fails its test in every phase, and is not saved; a look is no assertion."""

import json

import pytest

CAUGHT = """
import contextlib, unittest
import subjects
from cp_compress import Prune

FAILING = {"min_agreement": 1.0}

def fail(model, reference, data):
    with contextlib.suppress(AssertionError):
        assert_preserved_predictions(model, reference, data, **FAILING)

def look(model, reference, data, **bounds):
    return check_preserved_predictions(model, reference, data, **bounds or {"min_agreement": 0.1})

@pytest.fixture
def in_setup(compressed_model, reference_model, dataset):
    fail(compressed_model, reference_model, dataset)

@pytest.fixture
def in_setup_that_skips(in_setup):
    pytest.skip("busy")

@pytest.fixture
def in_teardown(compressed_model, reference_model, dataset):
    yield
    fail(compressed_model, reference_model, dataset)

pytestmark = pytest.mark.compress_model("prune(density=0.4)")

@pytest.mark.usefixtures("in_setup")
def test_setup(compressed_model, reference_model, dataset):
    look(compressed_model, reference_model, dataset)

@pytest.mark.usefixtures("in_setup_that_skips")
def test_setup_skips(compressed_model, reference_model, dataset):
    look(compressed_model, reference_model, dataset)

@pytest.mark.usefixtures("in_teardown")
def test_teardown(compressed_model, reference_model, dataset):
    look(compressed_model, reference_model, dataset)

def test_skips(compressed_model, reference_model, dataset):
    fail(compressed_model, reference_model, dataset)
    pytest.skip("busy")

def test_unittest_skips(compressed_model, reference_model, dataset):
    fail(compressed_model, reference_model, dataset)
    raise unittest.SkipTest("busy")

def test_looks_at_the_same(compressed_model, reference_model, dataset):
    fail(compressed_model, reference_model, dataset)
    look(compressed_model, reference_model, dataset, **FAILING)

def test_looked_at_the_same(compressed_model, reference_model, dataset):
    look(compressed_model, reference_model, dataset, **FAILING)
    fail(compressed_model, reference_model, dataset)
"""
CASE = """
class TestCase(unittest.TestCase):
    def test_case_skips(self):
        reference, data = subjects.make_model(), subjects.make_data()
        fail(Prune(0.4).compress(reference), reference, data)
        self.skipTest("busy")
"""
DEVIATIONS = """
def test_known(compressed_model, reference_model, dataset):
    fail(compressed_model, reference_model, dataset)
    pytest.xfail("a known deviation")

@pytest.mark.xfail(reason="a known deviation")
def test_marked(compressed_model, reference_model, dataset):
    fail(compressed_model, reference_model, dataset)
"""
TWICE = """
@pytest.mark.compress_model("prune(density=0.4)")
@pytest.mark.parametrize("order", ["look, assert", "assert, look", "assert, assert"])
def test_gate(compressed_model, reference_model, dataset, order):
    for kind in order.split(", "):
        call = {"look": check_preserved_predictions, "assert": assert_preserved_predictions}[kind]
        call(compressed_model, reference_model, dataset, min_agreement=0.1)
"""


def test_a_failed_check_that_is_caught_fails_in_every_phase_and_is_not_saved(project):
    case = CASE.replace("class", '@pytest.mark.filterwarnings("ignore")\nclass', 1)
    project.write_test(CAUGHT, name="test_caught")
    project.write_test(CAUGHT.partition("pytestmark")[0] + case, name="test_case")
    project.write_test(CAUGHT.partition("@pytest.mark.usefixtures")[0] + DEVIATIONS, name="test_deviations")
    outcome = project.run("--cp-baseline=new")
    assert outcome.failed_everywhere
    # a failure in teardown is of a test that passed before
    outcome.result.assert_outcomes(failed=5, errors=3, passed=1, xfailed=2)
    assert len(outcome.junit_messages) == 8
    assert all("a failed check was caught" in told for told in outcome.junit_messages), outcome.junit_messages
    assert not (project.path / "cp_baselines").exists()


def test_a_look_at_the_same_is_no_run_of_an_assertion_and_hides_no_baseline(project):
    project.write_test(TWICE)
    assert project.run("--cp-baseline=new").result.ret == 0
    saved = json.loads((project.path / "cp_baselines" / "test_gate.json").read_text())["checks"]
    orders = ("assert, assert", "assert, look", "look, assert")
    tests = [f"test_gate[prune(density=0.4)-{order}]" for order in orders]
    assert sorted(saved) == [f"{test} assert_preserved_predictions(agreement)" for test in tests]
    assert project.run("--cp-baseline=check").result.ret == 0


RERUN = """
attempts = []

@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset):
    if attempts:
        {ending}("busy")
    attempts.append(1)
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=1.0)
"""


@pytest.mark.parametrize("ending", ["pytest.skip", "pytest.xfail"])
def test_a_rerun_that_skips_or_xfails_undoes_no_failed_check(project, ending):
    project.write_test(RERUN.format(ending=ending))
    outcome = project.run("--reruns=1")
    assert outcome.failed_everywhere
    assert "a rerun does not undo a failed check" in outcome.junit_messages[0]
    assert "PredictionsNotPreservedError: agreement" in outcome.junit_messages[0]
