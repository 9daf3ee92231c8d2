"""Baselines for which no collected test answers: found in all folders that were collected, and in no others."""

import json

import pytest

ENTRY = {
    "metrics": {"agreement": {"value": 0.9, "n": 120, "interval": None, "direction": "min"}},
    "measured_on": {},
    "environment": {},
}


def saved_check(test):
    """Return the text of a file with one saved check of a test."""
    name = f"{test} assert_preserved_predictions(agreement)"
    return json.dumps({"schema_version": 2, "checks": {name: ENTRY}})


TOLD = {
    "test_renamed.json": "a module that was not collected or has no tests left: test_renamed.py",
    "test_second.json": "a check whose test no longer exists: test_second assert_",
    "test_deleted.json": "a module that no longer exists",
    "test_alone.json": "a module that no longer exists",
}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def left(project):
    """A project with saved checks of a test, of modules and tests that are gone, and of some that are left out."""
    text = saved_check("test_gate")
    write(project.path / "test_kept.py", "def test_gate():\n    pass\n")
    write(project.path / "cp_baselines" / "test_kept.json", text)
    for name in ("test_renamed", "test_deleted", "alone/deep/test_alone", "build/test_built", "left_out/test_left_out"):
        path = project.path / f"{name}.json"
        write(path.parent / "cp_baselines" / path.name, text)
    write(project.path / "cp_baselines" / "test_second.json", saved_check("test_second"))
    write(project.path / "skipped" / "cp_baselines" / "test_skipped.json", text)
    write(project.path / "skipped" / "test_skipped.py", "import pytest\npytest.importorskip('nowhere')\n")
    write(project.path / "test_renamed.py", "def gate_of_another_name():\n    pass\n")
    write(project.path / "test_second.py", "def test_first():\n    pass\n")
    write(project.path / "conftest.py", "collect_ignore = ['left_out']\n")
    return project


def told(outcome):
    """Return what the session's own failed test says of baselines that nobody answers for, by file."""
    lines = [line.rpartition("/cp_baselines/")[2] for line in outcome.result.outlines if "/cp_baselines/" in line]
    return {line.partition(" ")[0]: line for line in lines if "no longer exists" in line or "no tests left" in line}


def test_files_and_checks_of_tests_that_are_gone_fail_the_session(left):
    outcome = left.run("--cp-baseline=check", "-x")
    assert outcome.failed_everywhere
    found = told(outcome)
    assert found.keys() == TOLD.keys()
    assert all(sentence in found[name] for name, sentence in TOLD.items()), found


def test_looked_at_are_the_folders_that_are_collected(left):
    beside = "test_deleted.json"  # beside a module that is collected
    named = left.run("--cp-baseline=check", "alone", "build", "test_kept.py")
    assert told(named).keys() == {"test_alone.json", "test_built.json", beside}
    ignoring = left.run("--cp-baseline=check", "--ignore=alone", "--ignore=test_renamed.py")
    assert told(ignoring).keys() == {"test_second.json", beside}


@pytest.mark.parametrize("narrowing", [["-k", "gate"], ["-m", "not slow"], ["test_kept.py::test_gate"]])
def test_a_command_line_that_picks_tests_leaves_the_others_alone(left, narrowing):
    assert told(left.run("--cp-baseline=check", *narrowing)) == {}
    assert told(left.run()) == {}
