"""Trends: the values of the same checks in earlier reports, and baselines, in one line a metric."""

import json

import pytest

GATE = """
@pytest.mark.compress_model("prune(density=0.5)")
def test_gate(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)
"""


def test_values_of_earlier_reports_are_shown_in_their_order(project):
    project.write_test(GATE)
    first = project.run("--cp-report-history=old/*.json", "--cp-report-html=page.html").report
    assert first["history"] == {"reports": 0, "trends": []}
    assert "--cp-report-history=old/*.json: no earlier report with checks matches" in first["notes"]
    folder = project.path / "old"
    folder.mkdir()
    agreement = first["checks"][0]["metrics"]["agreement"]
    for name, day, value in (("b", 2, 0.6), ("a", 3, "nan"), ("c", 1, 0.7)):
        first["created"] = f"2030-01-0{day}T00:00:00+01:00"
        first["checks"][0]["requirements"][0]["value"] = value
        (folder / f"{name}.json").write_text(json.dumps(first))
    outcome = project.run("--cp-report-history=**/*.json", "--cp-report-html=page.html")
    (trend,) = outcome.report["history"]["trends"]
    assert (trend["metric"], trend["candidate"]) == ("agreement", "prune(density=0.5)")
    assert [point["value"] for point in trend["points"]] == [0.7, 0.6, None]
    page = (project.path / "page.html").read_text()
    assert page.count('class="trend"') == 1
    assert f"now: {agreement:.4f}".rstrip("0") in page


def test_a_baseline_is_the_beginning_of_a_trend(project, monkeypatch):
    for name in ("CI", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    project.write_test(GATE)
    project.run("--cp-baseline=new")
    outcome = project.run("--cp-baseline=check", "--cp-report-html=page.html")
    (trend,) = outcome.report["history"]["trends"]
    assert trend["points"] == [{"created": "baseline", "value": outcome.report["checks"][0]["metrics"]["agreement"]}]
    outcome = project.run(
        "--cp-baseline=check", "--cp-seed=5", "--cp-report-html=page.html", "--cp-report-markdown=page.md"
    )
    assert outcome.failed_everywhere
    assert "    baseline: other seed" in outcome.result.stdout.str()
    for name in ("page.html", "page.md"):
        assert "baseline: other seed" in (project.path / name).read_text()


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"schema_version": 1, "checks": [1], "created": "today"}', '{"schema_version": 9}']
)
def test_a_file_that_is_no_report_is_refused_before_anything_runs(project, content):
    project.write_test(GATE)
    (project.path / "old.json").write_text(content)
    outcome = project.run("--cp-report-history=old.json")
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--cp-report-history: " in outcome.result.stderr.str()
    assert "old.json" in outcome.result.stderr.str()
