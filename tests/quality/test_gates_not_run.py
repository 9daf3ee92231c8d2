"""Gates that were collected and compared nothing are named in every report, and no session passes without them."""

import pytest

GATE = """
@pytest.mark.compress_model("prune(density={density})"){marks}
def test_{name}(compressed_model, reference_model, dataset):
    {body}
"""
CHECK = "assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)"


def gate(name, body=CHECK, marks="", density=0.4):
    """Return a gate; those of one density are run one after the other."""
    return GATE.format(name=name, body=body, marks=marks, density=density)


def missing(outcome):
    """Return the reason of each gate that was not compared, by the function's name."""
    return {
        entry["test"].partition("::")[2].partition("[")[0]: entry["reason"] for entry in outcome.report["not_compared"]
    }


@pytest.fixture
def summary(project, monkeypatch):
    path = project.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    return path


def test_expected_failures_that_did_not_compare_are_listed(project):
    known = "\n@pytest.mark.xfail(reason='known', run={})"
    project.write_test(
        gate("a_good")
        + gate("b_not_run", marks=known.format(False))
        + gate("c_stops", body="pytest.xfail('not now')")
        + gate("d_compares", body=CHECK.replace("0.1", "1.0"), marks=known.format(True))
    )
    outcome = project.run()
    assert outcome.result.ret == 0
    not_run = "xfail: known" if pytest.version_tuple >= (9,) else "xfail: [NOTRUN] known"
    assert missing(outcome) == {"test_b_not_run": not_run, "test_c_stops": "xfail: not now"}
    outcome.result.stdout.fnmatch_lines(["not compared: test_gate.py::test_b_not_run*: xfail: *known"])


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest 8 runs last what has no parameters of the session")
def test_a_session_that_ends_early_does_not_end_well(project, summary):
    project.write_test(
        gate("a_good") + "\ndef test_b(): pytest.exit('enough', returncode=0)\n" + gate("c_late", density=0.3)
    )
    outcome = project.run()
    assert outcome.failed_everywhere
    assert missing(outcome) == {"test_c_late": "did not run: the session ended early"}
    assert "test_c_late" in outcome.junit_messages[0]
    text = summary.read_text()
    assert text.startswith("## ❌ Failed: some gates compared nothing")
    assert "not compared: test\\_gate.py::test\\_c\\_late" in text


def test_gates_behind_the_end_are_listed(project, summary):
    project.write_test("def test_a(): assert False\n" + "".join(gate(f"late_{number:02}") for number in range(12)))
    outcome = project.run("--maxfail=1")
    assert outcome.result.ret == 1
    reason = "did not run: stopping after 1 failures"
    assert missing(outcome) == {f"test_late_{number:02}": reason for number in range(12)}
    outcome.result.stdout.fnmatch_lines(
        [f"not compared: 12 gates, test_gate.py::test_late_00*; and 9 more gates: {reason}"]
    )
    assert "late" in summary.read_text()


def test_a_worker_that_dies_names_its_gate(project, summary):
    """No check is made in this session, and its summary is written all the same."""
    project.write_test(gate("b_dies", body="import os; os._exit(0)") + gate("c_late"))
    outcome = project.run("-n1", "--max-worker-restart=0", subprocess=True)
    assert outcome.result.ret != 0
    found = missing(outcome)
    assert found.keys() == {"test_b_dies", "test_c_late"}
    assert "crashed while running" in found["test_b_dies"]
    assert "crashed while running" in summary.read_text()


def test_a_session_without_gates_writes_no_summary(project, summary):
    project.write_test("def test_a(): pass\ndef test_b(): assert 0\n")
    assert project.pytester.runpytest_inprocess().ret == 1
    assert not summary.exists()


def verdict(outcome):
    return outcome.report["verdict"]["text"]


OWN_SUBJECTS = """
def test_own_subjects(reference_model, dataset):
    assert_preserved_predictions(torch.nn.Identity(), reference_model, dataset, min_agreement=0.1)
"""


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("-k", "a_good"), "deselected by -k 'a_good'"),
        (("-m", "not slow"), "deselected by -m 'not slow'"),
        (("--deselect=test_gate.py::test_b_bad", "--deselect=test_gate.py::test_own"), "deselected by --deselect"),
        (("-k", "a_good", "-n2"), "deselected by -k 'a_good'"),
    ],
)
def test_gates_that_were_left_out_are_in_the_verdict(project, summary, arguments, reason):
    slow = "\n@pytest.mark.slow"
    project.pytester.makeini("[pytest]\nmarkers = slow: takes long\n")
    bad = gate("b_bad", body=CHECK.replace("0.1", "1.0"), marks=slow)
    project.write_test(gate("a_good") + bad + slow + OWN_SUBJECTS + slow + "\ndef test_other(): pass\n")
    outcome = project.run(*arguments, "--cp-report-html=page.html", subprocess="-n2" in arguments)
    assert outcome.result.ret == 0
    assert missing(outcome) == {"test_b_bad": reason, "test_own_subjects": reason}
    assert {entry["kind"] for entry in outcome.report["not_compared"]} == {"deselected"}
    told = "Preserved: 1 of 3 gates; 2 deselected"
    assert outcome.report["verdict"] == {"kind": "noted", "text": told}
    assert summary.read_text().startswith(f"## ⚠️ {told}\n")
    assert told in (project.path / "page.html").read_text()
    outcome.result.stdout.fnmatch_lines(["1 of 3 gates compared something", f"not compared: *test_b_bad*: {reason}"])
    project.pytester.makeini("[pytest]\nmarkers = slow: takes long\ncp_fail_on_deselected = true\n")
    if "-n2" not in arguments:
        outcome = project.run(*arguments)
        assert outcome.failed_everywhere
        assert "2 gates were left out of this session" in outcome.junit_messages[0]


def test_last_failed_shards_and_ignored_files_are_in_the_verdict(project):
    project.write_test(gate("a_good") + gate("b_bad", body=CHECK.replace("0.1", "1.0")))
    project.write_test(gate("elsewhere"), name="test_more")
    assert verdict(project.run()) == "Not preserved: 1 fail"
    found = project.run("--lf")
    assert missing(found)[""] == "deselected by --lf: no test of this file failed last time"
    assert verdict(found) == "Not preserved: 1 fail; 2 deselected"
    found = project.run("--ignore=test_more.py", "-x")
    assert missing(found) == {"": "left out by --ignore"}
    sharded = "\ndef pytest_collection_modifyitems(items):\n    items[:] = items[::2]\n"
    (project.path / "conftest.py").write_text((project.path / "conftest.py").read_text() + sharded)
    found = project.run()
    assert missing(found) == {"test_b_bad": "left out by a plugin or by conftest.py"}
    assert verdict(found) == "Preserved: 2 of 3 gates; 1 deselected"
    chosen = project.run("test_more.py::test_elsewhere")  # what a node ID does not name was not collected
    assert verdict(chosen) == "Preserved: all 1 checks hold"
    assert verdict(project.run("--collect-only")) == "No gate was compared: 2 did not run, 1 deselected"


def test_the_headline_counts_gates_without_a_check(project, summary):
    project.write_test(
        gate("a_bad", body=CHECK.replace("0.1", "1.0"))
        + gate("b_raises", body="raise ValueError")
        + gate("c_skips", body="pytest.skip('later')")
        + gate("d_late")
    )
    outcome = project.run("--maxfail=2", "-k", "not d_late")
    told = "1 failed without a check, 1 did not run, 1 deselected"
    assert verdict(outcome) == f"Not preserved: 1 fail; {told}"
    assert f"1 fail; gates that compared nothing: {told}" in summary.read_text()
