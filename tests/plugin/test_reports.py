"""The JSON report, the terminal summary and failure messages say what was found, and are written whole."""

import json
import os
import re
import shlex
import sys

import pytest

from cp_compress.base.files import write_atomically

GATE = """
@pytest.mark.compress_model("prune(density={density})")
def test_gate(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement={bound}, max_cost=0.9)
"""


def test_report_holds_the_evidence(project):
    project.write_test(GATE.format(density=0.9, bound=0.5))
    report = project.run().report
    (check,) = report["checks"]
    assert check["test"] == "test_gate.py::test_gate[prune(density=0.9)]"
    assert check["subjects"]["candidate"]["name"] == "prune(density=0.9)"
    assert check["subjects"]["data"]["count"] == 120
    assert {entry["metric"] for entry in check["requirements"]} == {"agreement", "cost"}
    agreement = check["metrics"]["agreement"]
    assert check["requirements"][0]["margin"] == pytest.approx(agreement - 0.5)
    assert check["metrics"]["cost"] == pytest.approx(1 - agreement)
    assert sum(flip["count"] for flip in check["details"]["flips"]) == round((1 - agreement) * 120)
    assert report["schema_version"] == 1
    assert report["environment"]["packages"]["torch"]


def test_report_of_a_failure(project):
    project.write_test(GATE.format(density=0.5, bound=1.0))
    outcome = project.run()
    assert outcome.report["exit_status"] == 1
    assert outcome.report["outcomes"] == {"error": 0, "fail": 1, "inconclusive": 0, "pass": 0, "waived": 0}


def test_failure_message(project):
    project.write_test(GATE.format(density=0.5, bound=1.0))
    outcome = project.run("--cp-seed=3")
    (check,) = outcome.report["checks"]
    message = outcome.junit_messages[0]
    assert message.startswith("pytest_cp.errors.PredictionsNotPreservedError: agreement = 0.")
    assert "required ≥ 1, n = 120" in message
    change = check["examples"][0]
    text = outcome.result.stdout.str()
    assert f"#{change['index']} (label {change['label']}): {change['before']} → {change['after']}" in text
    assert "reproduce: pytest 'test_gate.py::test_gate[prune(density=0.5)]' --cp-seed=3" in text


def test_the_line_that_reproduces_a_failure_runs_where_pytest_was_called(project, monkeypatch):
    (project.path / "gates").mkdir()
    project.write_test(GATE.format(density=0.5, bound=1.0))
    (project.path / "test_gate.py").rename(project.path / "gates" / "test_gate.py")
    project.pytester.makeini("[pytest]\ncp_seed = 3\n")
    monkeypatch.chdir(project.path / "gates")
    for arguments in ((), ("-c", "../tox.ini")):
        text = project.run(*arguments).result.stdout.str()
        (line,) = {line.partition("reproduce: ")[2] for line in text.splitlines() if "reproduce: " in line}
        assert line == shlex.join(["pytest", "test_gate.py::test_gate[prune(density=0.5)]", *arguments])
        again = project.run(*shlex.split(line)[1:])
        assert again.junit["failures"] == 1
        assert f"reproduce: {line}" in again.result.stdout.str()


@pytest.mark.parametrize("bound", ["min_slice_agreement=0.99", "max_slice_accuracy_drop=0.01"])
def test_a_failing_slice_is_named_with_its_own_count(project, bound):
    project.write_test(f"""
@pytest.mark.compress_model("prune(density=0.3)")
def test_gate(compressed_model, reference_model, dataset):
    same = compressed_model(dataset[0]).argmax(dim=1) == dataset[1]
    slices = {{"day": same, "night": ~same}}
    assert_preserved_predictions(compressed_model, reference_model, dataset, slices=slices, {bound})
""")
    outcome = project.run("--cp-report-markdown=report.md")
    (check,) = outcome.report["checks"]
    count = check["details"]["slices"][1]["count"]
    assert 0 < count < 120
    assert check["requirements"][0]["count"] == count
    (message,) = outcome.junit_messages
    assert f", n = {count}" in message.partition("\n")[0]
    told = f"night: agreement 0, accuracy 100.0% → 0.0% (n = {count})"
    assert f"slices that changed, worst first:\n    {told}\n" in message
    assert f"- slice {told}" in (project.path / "report.md").read_text()
    assert "day:" not in message


def test_summary_shows_the_worst_first(project):
    project.pytester.makeini("[pytest]\ncp_schemes =\n    prune(density=0.9)\n    prune(density=0.2)\n")
    project.write_test("""
def test_gate(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.9)

def test_looking(compressed_model, reference_model, dataset):
    check_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.9)
""")
    outcome = project.run()
    outcome.result.stdout.fnmatch_lines(
        [
            "*preservation under compression*",
            "outcome*#*metric*value*bound*n*test",
            "fail*2*agreement*≥ 0.9*120*test_gate",
            "pass*1*agreement*≥ 0.9*120*test_gate",
            "2 fail, 2 pass",
            "#  predictions",
            "1  pass 100 %",
            "2  fail -* %",
            "1 = prune(density=0.9): changed: 2 of 2 layers, 100 % of weights",
            "2 = prune(density=0.2): *",
            "may ship: prune(density=0.9), passes at predictions, the only level compared",
        ]
    )
    assert "fail (not asserted)" in outcome.result.stdout.str()
    assert outcome.junit["failures"] == 1


def test_sessions_without_gates_see_nothing_of_the_plugin(project):
    project.pytester.makeconftest("")
    project.pytester.makepyfile(test_plain="def test_plain():\n    pass\n")
    result = project.pytester.runpytest_inprocess()
    assert result.ret == 0
    assert "preservation" not in result.stdout.str()
    result = project.pytester.runpytest_inprocess("-k", "nothing")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_checks_up_to_an_interrupt_are_reported(project):
    project.write_test(GATE.format(density=0.9, bound=0.5) + "\ndef test_stop():\n    raise KeyboardInterrupt\n")
    outcome = project.run("--cp-report-markdown=report.md", "--cp-report-html=page.html", subprocess=True)
    assert outcome.result.ret == pytest.ExitCode.INTERRUPTED
    told = "Interrupted: the results are incomplete"
    assert (project.path / "report.md").read_text().startswith(f"## ❌ {told}\n\n1 pass\n")
    assert f"</span> {told}</h1>" in (project.path / "page.html").read_text()
    assert len(outcome.report["checks"]) == 1
    assert outcome.report["exit_status"] == pytest.ExitCode.INTERRUPTED


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError("disk full")])
def test_interrupted_writing_keeps_the_old_file(tmp_path, monkeypatch, interruption):
    target = tmp_path / "report.json"
    write_atomically(target, "old")

    def interrupt(descriptor):
        raise interruption

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises((KeyboardInterrupt, OSError)):
        write_atomically(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_report_folder_is_made(project):
    project.write_test(GATE.format(density=0.9, bound=0.5))
    path = project.path / "deep" / "folder" / "report.json"
    assert project.pytester.runpytest_inprocess(f"--cp-report-json={path}").ret == 0
    assert json.loads(path.read_text())["checks"]


NO_PROC = pytest.mark.skipif(sys.platform != "linux", reason="needs a folder in which not even root can write")


@pytest.mark.parametrize("path", ["test_gate.py/report.md", pytest.param("/proc/none/report.md", marks=NO_PROC)])
def test_report_path_that_cannot_be_written_is_refused_before_the_run(project, path):
    project.write_test(GATE.format(density=0.9, bound=0.5))
    outcome = project.run(f"--cp-report-markdown={path}")
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"--cp-report-markdown={path}: cannot be written: " in outcome.result.stderr.str()
    assert outcome.report is None


def test_report_that_cannot_be_written_fails_and_spares_the_others(project):
    lost = "\ndef test_lost():\n    import pathlib\n    pathlib.Path('report.md').unlink()\n"
    lost += "    pathlib.Path('report.md').mkdir()\n"
    project.write_test(GATE.format(density=0.9, bound=0.5) + lost)
    outcome = project.run("--cp-report-markdown=report.md", "--cp-report-html=page.html")
    assert outcome.result.ret == pytest.ExitCode.TESTS_FAILED
    assert outcome.failed_everywhere
    told = "--cp-report-markdown=report.md: the report could not be written: "
    assert outcome.junit_messages[0].startswith(told)
    assert "preservation under compression" in outcome.result.stdout.str()
    assert outcome.report["exit_status"] == pytest.ExitCode.TESTS_FAILED
    assert any(note.startswith(told) for note in outcome.report["notes"])
    assert told in (project.path / "page.html").read_text()


def test_summary_that_cannot_be_written_is_noted(project, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path))
    project.write_test(GATE.format(density=0.9, bound=0.5))
    outcome = project.run()
    assert outcome.result.ret == 0
    assert "note: GITHUB_STEP_SUMMARY: the summary could not be written" in outcome.result.stdout.str()


def test_hypothesis_draws_are_one_row(project):
    project.write_test("""
from hypothesis import given, settings, strategies as st

@settings(max_examples=7, deadline=None, database=None)
@given(bound=st.floats(0.1, 0.2))
@pytest.mark.compress_model("prune(density=0.9)")
def test_gate(compressed_model, reference_model, dataset, bound):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.2)
""")
    outcome = project.run()
    assert outcome.result.ret == 0, outcome.result.stdout.str()
    (check,) = outcome.report["checks"]
    assert check["runs"] >= 5


HOSTILE_NAMES = ["a\n::error file=x::forged", "b\x1b[1A\x1b[2K ##[error]", "c\r\u202e##vso[task.complete]"]


def test_texts_of_strangers_are_shown_and_not_obeyed(project, monkeypatch):
    """Names of classes, of files and of slices, and texts of exceptions, in whatever is printed or written."""
    summary = project.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    project.write_test(f"""
NAMES = {HOSTILE_NAMES!r}

class Named(torch.utils.data.TensorDataset):
    classes = NAMES

@pytest.mark.compress_model("prune(density=0.3)")
def test_gate(compressed_model, reference_model, dataset):
    half = torch.arange(120) < 60
    slices = {{NAMES[0]: half, NAMES[1]: ~half}}
    assert_preserved_predictions(compressed_model, reference_model, Named(*dataset), slices=slices, min_agreement=1)

@pytest.mark.compress_model("prune(density=0.3)")
def test_error(compressed_model, reference_model, dataset):
    raise ValueError("\\n".join(NAMES))

@pytest.mark.compress_model("prune(density=0.3)")
def test_skip(compressed_model):
    pytest.skip(NAMES[0] + NAMES[2])
""")
    outcome = project.run("-rA", "--cp-report-markdown=report.md", "--cp-report-html=page.html")
    told = outcome.result.stdout.str()
    written = [path.read_text() for path in (project.path / "report.md", project.path / "page.html", summary)]
    for text in (told, *written, *outcome.junit_messages):
        assert not re.search(r"^\s*::", text, re.MULTILINE)
        assert not re.search(r"##\w*\[|[\x1b\r\u202e]", text)
    assert r"a\n::error file=x::forged" in told
    (check,) = outcome.report["checks"]
    assert HOSTILE_NAMES[1] in str(check["details"]["slices"][1]["slice"])  # the data say what is there
