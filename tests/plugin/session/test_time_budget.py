"""cp_time_budget bounds what explains a check, and what lasts is told beforehand."""

import pytest

from cp_compress.base.showing import work

FAILING = """
import copy

def damaged(model):
    candidate = copy.deepcopy(model)
    candidate[0].weight.data[:6] *= -1
    return candidate

{marker}
def test_it(reference_model, dataset):
    assert_preserved_predictions(damaged(reference_model), reference_model, dataset, min_agreement=0.999)
"""
SPENT = "0.000000001"


@pytest.mark.parametrize("where", ["ini", "marker"])
def test_a_spent_budget_is_told_and_changes_no_value(project, where):
    project.write_test(FAILING.format(marker=""))
    whole = project.run().report["checks"][0]
    marker = f"@pytest.mark.cp_execution(time_budget={SPENT})" if where == "marker" else ""
    project.write_test(FAILING.format(marker=marker))
    project.pytester.makeini(f"[pytest]\n{f'cp_time_budget = {SPENT}' if where == 'ini' else ''}\n")
    outcome = project.run("--cp-report-html=report.html")
    (check,) = outcome.report["checks"]
    assert outcome.failed_everywhere
    assert (check["metrics"], check["outcome"]) == (whole["metrics"], "fail")
    assert whole["origin"]["layers"]
    assert not check["origin"]["layers"]
    outcome.result.stdout.fnmatch_lines(["*note: the time budget was spent: 1 layers were not looked at (0)"])


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf"])
def test_a_budget_that_is_none_is_refused(project, value):
    project.write_test(FAILING.format(marker=""))
    project.pytester.makeini(f"[pytest]\ncp_time_budget = {value}\n")
    outcome = project.run()
    assert outcome.result.ret != 0
    told = [*outcome.result.outlines, *outcome.result.errlines]
    assert any(f"cp time budget '{value}': must be a number of seconds above 0" in line for line in told)


def test_work_that_lasts_is_told_on_a_line_of_its_own(project, monkeypatch):
    monkeypatch.setattr(work, "TOLD_SECONDS", 0.0)
    handlers = [*work.LOGGER.handlers]
    project.write_test(
        "import copy\n"
        "def test_it(reference_model, dataset):\n"
        "    candidate = copy.deepcopy(reference_model)\n"
        "    candidate[2].weight.data *= 1.01\n"
        "    check = check_boundary_distance(candidate, reference_model, dataset, max_median_change=1.0, examples=2)\n"
        "    assert check.passed\n"
    )
    told = "boundaries along * rays: up to * forward passes, up to about * s"
    project.run().result.stdout.fnmatch_lines([told])
    assert "forward passes" not in project.run("-q").result.stdout.str()
    assert work.LOGGER.handlers == handlers
