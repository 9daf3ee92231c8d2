"""`--cp-baseline`: new adds, update replaces, check compares; one file a test module."""

import json

import pytest

GATE = """
@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)
"""


def saved(project):
    return project.path / "cp_baselines" / "test_gate.json"


def edit(project, **metrics):
    content = json.loads(saved(project).read_text())
    (entry,) = content["checks"].values()
    entry["metrics"] |= metrics
    saved(project).write_text(json.dumps(content))


@pytest.fixture
def with_baseline(project):
    project.write_test(GATE)
    assert project.run("--cp-baseline=new").result.ret == 0
    return project


def test_the_file_is_sorted_and_holds_what_was_measured(with_baseline):
    content = json.loads(saved(with_baseline).read_text())
    (name,) = content["checks"]
    assert name == "test_gate[prune(density=0.4)] assert_preserved_predictions(agreement)"
    assert content["checks"][name]["counts"] == {"agreement": 120}
    assert saved(with_baseline).read_text() == json.dumps(content, indent=2, sort_keys=True) + "\n"


def test_without_a_mode_nothing_is_read_or_written(project):
    project.write_test(GATE)
    assert project.run().result.ret == 0
    assert not saved(project).exists()


def test_new_leaves_what_is_there(with_baseline):
    edit(with_baseline, agreement=0.5)
    with_baseline.run("--cp-baseline=new")
    assert "0.5" in saved(with_baseline).read_text()


def test_update_replaces_and_says_so(with_baseline):
    edit(with_baseline, agreement=0.5)
    outcome = with_baseline.run("--cp-baseline=update")
    assert "{'agreement': 0.5} →" in outcome.result.stdout.str()
    assert with_baseline.run("--cp-baseline=check").result.ret == 0


def test_better_than_the_baseline_passes(with_baseline):
    edit(with_baseline, agreement=0.5)
    assert with_baseline.run("--cp-baseline=check").result.ret == 0


def test_tolerance(with_baseline):
    content = json.loads(saved(with_baseline).read_text())
    (entry,) = content["checks"].values()
    edit(with_baseline, agreement=entry["metrics"]["agreement"] + 0.001)
    assert with_baseline.run("--cp-baseline=check").failed_everywhere
    with_baseline.pytester.makeini("[pytest]\ncp_baseline_tolerance = 0.002\n")
    assert with_baseline.run("--cp-baseline=check").result.ret == 0


def test_baseline_of_another_reference_is_stale(with_baseline):
    content = json.loads(saved(with_baseline).read_text())
    (entry,) = content["checks"].values()
    entry["subjects"]["reference"] = "another"
    saved(with_baseline).write_text(json.dumps(content))
    outcome = with_baseline.run("--cp-baseline=check")
    assert outcome.failed_everywhere
    assert "measured on other reference" in outcome.junit_messages[0]


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 99, "checks": {}}'])
def test_unreadable_baseline_fails(with_baseline, content):
    saved(with_baseline).write_text(content)
    assert with_baseline.run("--cp-baseline=check").failed_everywhere


def test_failed_checks_are_not_saved(project):
    project.write_test(GATE.replace("min_agreement=0.1", "min_agreement=1.0"))
    assert project.run("--cp-baseline=new").result.ret == 1
    assert not saved(project).exists()


@pytest.mark.parametrize("mode", ["new", "update"])
def test_writing_is_refused_in_ci(project, monkeypatch, mode):
    monkeypatch.setenv("CI", "true")
    project.write_test(GATE)
    outcome = project.run(f"--cp-baseline={mode}")
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR
    assert not saved(project).exists()


def test_folder_named_in_the_ini_file(project):
    project.pytester.makeini("[pytest]\ncp_baseline_dir = saved/checks\n")
    project.write_test(GATE)
    project.run("--cp-baseline=new")
    assert (project.path / "saved" / "checks" / "test_gate.json").exists()


def test_workers_write_nothing_and_the_controller_everything(project):
    project.write_test(GATE + GATE.replace("0.4", "0.5").replace("test_gate", "test_other"))
    assert project.run("--cp-baseline=new", "-n2", subprocess=True).result.ret == 0
    assert len(json.loads(saved(project).read_text())["checks"]) == 2
    assert project.run("--cp-baseline=check", "-n2", subprocess=True).result.ret == 0
