"""A process that ends by itself is a failed run: no report of an earlier one stays, and `cp-compress gate` fails."""

import json
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import jsonschema
import pytest
from forks import run_program

from cp_compress.cli import gate
from pytest_cp.report.schema import document_schema
from pytest_cp.report.unfinished import unfinished_document

GATE = """
import os, pytest
from pytest_cp import assert_preserved_predictions

@pytest.mark.compress_model("prune(density=0.9)")
def test_gate(compressed_model, reference_model, dataset):
    if os.environ.get("ENDS") == "in a test":
        os._exit(0)
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)
"""
ENDS = "\nimport os\nif os.environ.get('ENDS') == 'in conftest':\n    os._exit(0)\n"
KINDS = ("json", "markdown", "html")


def test_the_document_of_an_unfinished_run_is_valid():
    document = unfinished_document()
    jsonschema.validate(document, document_schema())
    assert document["verdict"]["kind"] == "fail"
    assert document["exit_status"] != 0


def test_no_green_report_outlives_a_process_that_ends_by_itself(project, monkeypatch):
    (project.path / "conftest.py").write_text((project.path / "conftest.py").read_text() + ENDS)
    (project.path / "test_gate.py").write_text(GATE)
    reports = [f"--cp-report-{kind}=report.{kind}" for kind in KINDS]
    arguments = ("-q", "--junitxml=junit.xml", *reports)

    def files():
        return [(project.path / name).read_text() for name in (*(f"report.{kind}" for kind in KINDS), "junit.xml")]

    for place in ("in a test", "in conftest"):
        monkeypatch.delenv("ENDS", raising=False)
        done = run_program("pytest", *arguments, folder=project.path)
        assert done.returncode == 0, done.stdout
        green = files()
        assert json.loads(green[0])["finished"]
        monkeypatch.setenv("ENDS", place)
        assert run_program("pytest", *arguments, folder=project.path).returncode == 0
        document, markdown, page, junit = files()
        assert not json.loads(document)["finished"]
        assert markdown.startswith("## ❌ Did not finish")
        assert "Did not finish" in page
        assert ElementTree.fromstring(junit).find("testsuite").get("errors") == "1"
    monkeypatch.setenv("ENDS", "in a test")
    done = run_program("pytest", *arguments, "-n1", "--max-worker-restart=0", folder=project.path)
    assert done.returncode == 1  # the process that writes the reports has lost a worker
    document = json.loads(files()[0])
    assert document["finished"]
    assert document["verdict"]["text"] == "Failed: some gates compared nothing; 1 failed without a check"


def test_only_files_are_replaced_and_only_old_ones_before_conftest(project):
    (project.path / "report.json").write_text("old")
    done = run_program("pytest", "--cp-report-json=report.json", "--no-such-option", folder=project.path)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert not json.loads((project.path / "report.json").read_text())["finished"]
    (project.path / "report.json").write_text("old")
    for harmless in ("--markers", "--version"):
        run_program("pytest", harmless, "--cp-report-json=report.json", "--junitxml=other.xml", folder=project.path)
    assert (project.path / "report.json").read_text() == "old"
    assert not (project.path / "other.xml").exists()


@pytest.mark.parametrize(("code", "mark", "told"), [(0, None, 4), (0, "1", 4), (1, None, 4), (0, "0", 0), (1, "1", 1)])
def test_the_gate_asks_for_the_mark_of_completion(monkeypatch, capsys, code, mark, told):
    writes = "" if mark is None else f"open(os.environ['CP_COMPRESS_COMPLETION'], 'w').write('{mark}');"
    program = [sys.executable, "-c", f"import os; {writes} os._exit({code})"]
    run = gate._run
    monkeypatch.setattr(gate, "_run", lambda command, environment: run(program, environment))
    assert gate.run(gate.argparse.Namespace(schema=False, specification="gate.toml", passed_on=[])) == told
    assert ("ended by itself" in capsys.readouterr().err) == (told == 4)


@pytest.fixture
def interruptible():
    """Undo that a shell lets what it runs in the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_gate_leaves_no_process(monkeypatch):
    """The child ignores the interruption here, and so has to be ended."""
    started = []

    class Child(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(gate.subprocess, "Popen", Child)
    monkeypatch.setattr(gate, "_SECONDS_TO_END", 0.2)
    code = "import os, signal, time; signal.signal(2, signal.SIG_IGN); os.kill(os.getppid(), 2); time.sleep(60)"
    assert gate._run([sys.executable, "-c", code], {}) == 130
    assert started[0].poll() is not None
