"""--cp-device, --cp-seed, --cp-batch-size: the command line, then the marker, then the ini file."""

import pytest

SHOW = """
from pytest_cp.checks.execution import current_execution

{marker}
def test_show(cp_device):
    print("RUNS WITH", current_execution(), cp_device)
"""


@pytest.mark.parametrize(
    ("arguments", "marker", "ini", "expected"),
    [
        ((), "", "", "Execution(device=None, seed=0, batch_size=256) {default}"),
        ((), "", "cp_seed = 5", "Execution(device=None, seed=5, batch_size=256) {default}"),
        ((), "@pytest.mark.cp_execution(seed=6)", "cp_seed = 5", "Execution(device=None, seed=6, batch_size=256)"),
        (("--cp-seed=7",), "@pytest.mark.cp_execution(seed=6)", "cp_seed = 5", "Execution(device=None, seed=7,"),
        (("--cp-device=cpu",), "", "cp_device = cuda", "Execution(device='cpu', seed=0, batch_size=256) cpu"),
        (("--cp-batch-size=9",), "", "cp_batch_size = 8", "Execution(device=None, seed=0, batch_size=9)"),
    ],
)
def test_order(project, arguments, marker, ini, expected):
    import torch

    project.pytester.makeini(f"[pytest]\n{ini}\n")
    project.write_test(SHOW.format(marker=marker))
    result = project.pytester.runpytest_inprocess("-s", *arguments)
    assert result.ret == 0
    default = "cuda" if torch.cuda.is_available() else "cpu"
    assert f"RUNS WITH {expected.format(default=default)}" in result.stdout.str()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--cp-batch-size=0", "whole number of 1 or more"),
        ("--cp-seed=-1", "whole number of 0 or more"),
        ("--cp-device=the GPU", "must be a torch device"),
        ("--cp-baseline=overwrite", "invalid choice"),
        ("--cp-report-json=.", "is a folder"),
    ],
)
def test_values_that_are_refused(project, argument, message):
    project.write_test(SHOW.format(marker=""))
    result = project.pytester.runpytest_inprocess(argument)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()


def test_device_that_is_not_there(project):
    project.write_test(SHOW.format(marker=""))
    outcome = project.run("--cp-device=cuda:77")
    assert outcome.failed_everywhere
    assert "cuda:77" in outcome.result.stdout.str()


def test_job_line_cannot_loosen_a_gate(pytester):
    """No option of the command line sets a bound, a tolerance or a confidence level."""
    text = pytester.runpytest_inprocess("--help").stdout.str()
    options = {word.split("=")[0] for word in text.split() if word.startswith("--cp-")}
    assert options == {
        "--cp-scheme",
        "--cp-codec",
        "--cp-device",
        "--cp-seed",
        "--cp-batch-size",
        "--cp-cache-dir",
        "--cp-report-json",
        "--cp-report-html",
        "--cp-report-history",
        "--cp-report-markdown",
        "--cp-spec",
        "--cp-origin",
        "--cp-baseline",
    }
