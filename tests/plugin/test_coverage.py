"""What a candidate changed: in every row, report and message, and as a requirement of a session."""

import re

import pytest

GATE = """
from cp_compress.model import Quantize

@pytest.mark.compress_model("quantize(int8, include='2')")
def test_scheme(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.0)

@pytest.mark.parametrize("name", ["copy", "callable"])
def test_own(name, reference_model, dataset):
    candidate = Quantize("float16").compress(reference_model)
    candidate = candidate if name == "copy" else lambda batch: reference_model(batch) + 1e-3 * batch.flatten(1)[:, :1]
    assert_preserved_predictions(candidate, reference_model, dataset, min_agreement=0.0)

def test_footprint(reference_model):
    candidate = Quantize("int8", include="2").compress(reference_model)
    check = check_footprint(candidate, reference_model, min_coverage=0.9)
    assert not check.passed and 0 < check.measurement.metrics["coverage"] < 0.9
    assert check_footprint(candidate, reference_model, min_coverage=0.01).passed
    assert check_footprint(lambda batch: batch, reference_model, min_coverage=0.01).outcome == "error"
"""


def test_every_report_says_it_and_a_session_may_require_it(project):
    project.write_test(GATE)
    outcome = project.run("--cp-report-markdown=r.md", "--cp-report-html=r.html")
    assert outcome.result.ret == 0
    records = outcome.report["checks"]
    shown = {record["test"]: record["subjects"]["candidate"]["coverage"] for record in records}
    partly = shown[next(test for test in shown if "test_scheme" in test)]
    whole, unknown = (shown[f"test_gate.py::test_own[{name}]"] for name in ("copy", "callable"))
    assert whole["share"] == 1
    assert unknown["share"] is None
    assert partly["text"] == "1 of 2 layers, 27 % of weights"
    assert any("unchanged, largest first" in note for note in records[0]["notes"] + partly["notes"])
    pages = [outcome.result.stdout.str(), *(project.path.joinpath(name).read_text() for name in ("r.md", "r.html"))]
    for page in pages:
        assert partly["text"] in page
        assert "coverage unknown: the candidate is a function" in page
        assert page.index("coverage unknown") < page.index(f"only {partly['text']} changed")

    project.pytester.makeini("[pytest]\ncp_min_coverage = 0.9\ncp_junit_properties = true\n")
    outcome = project.run("-k", "not footprint")
    assert outcome.result.ret == 1
    assert outcome.junit["failures"] == 2
    messages = "\n".join(outcome.junit_messages)
    assert re.search(r"coverage = 0\.\d+, required ≥ 0\.9", messages)
    assert "it is unknown what the candidate changed, and unknown is never enough" in messages
    assert f"changed: {partly['text']}" in outcome.result.stdout.str()
    assert 'name="cp.changed" value="unknown"' in (project.path / "junit.xml").read_text()


@pytest.mark.parametrize("value", ["0", "1.5", "nan", "most"])
def test_what_is_no_share_is_refused(project, value):
    project.pytester.makeini(f"[pytest]\ncp_min_coverage = {value}\n")
    result = project.pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "must be a share of the weights above 0 and at most 1" in result.stderr.str()
