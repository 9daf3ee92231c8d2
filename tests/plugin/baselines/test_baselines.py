"""`--cp-baseline`: new adds, update replaces, check compares; one file a test module."""

import importlib.metadata
import json

import pytest

GATE = """
@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)
"""


def saved(project):
    return project.path / "cp_baselines" / "test_gate.json"


def edit(project, change=lambda entry: None, **metrics):
    """Change the one saved check: the values of its metrics, and whatever `change` does to it."""
    content = json.loads(saved(project).read_text())
    (entry,) = content["checks"].values()
    for name, value in metrics.items():
        entry["metrics"][name]["value"] = value
    change(entry)
    saved(project).write_text(json.dumps(content))


def saved_agreement(project):
    (entry,) = json.loads(saved(project).read_text())["checks"].values()
    return entry["metrics"]["agreement"]["value"]


def verdict(outcome):
    (check,) = outcome.report["checks"]
    return check["baseline"]["verdict"]


@pytest.fixture
def with_baseline(project):
    project.write_test(GATE)
    assert project.run("--cp-baseline=new").result.ret == 0
    return project


def test_the_file_is_sorted_and_holds_what_was_measured(with_baseline):
    content = json.loads(saved(with_baseline).read_text())
    (name,) = content["checks"]
    assert name == "test_gate[prune(density=0.4)] assert_preserved_predictions(agreement)"
    entry = content["checks"][name]
    metric = entry["metrics"]["agreement"]
    assert (metric["n"], metric["direction"], metric["interval"]) == (120, "min", None)
    assert entry["measured_on"]["candidate"] == "prune(density=0.4)"
    assert len(entry["measured_on"]["reference"]) == len(entry["measured_on"]["data"]) == 64
    assert entry["measured_on"]["seed"] == 0
    assert entry["environment"]["torch"] == importlib.metadata.version("torch")
    assert entry["environment"]["device"].startswith(("cpu", "cuda"))
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
    assert "agreement 0.5 → agreement 0.7" in outcome.result.stdout.str()
    assert with_baseline.run("--cp-baseline=check").result.ret == 0


def test_the_same_again_is_ok(with_baseline):
    assert verdict(with_baseline.run("--cp-baseline=check")) == "ok"


def test_better_than_the_baseline_passes_and_says_how_to_keep_it(with_baseline):
    edit(with_baseline, agreement=0.5)
    outcome = with_baseline.run("--cp-baseline=check")
    assert outcome.result.ret == 0
    assert verdict(outcome) == "improved"
    outcome.result.stdout.fnmatch_lines(["*is better than its baseline 0.5*--cp-baseline=update"])


def test_a_ratchet_insists_that_what_is_better_is_kept(with_baseline):
    edit(with_baseline, agreement=0.5)
    with_baseline.pytester.makeini("[pytest]\ncp_ratchet = true\n")
    outcome = with_baseline.run("--cp-baseline=check")
    assert outcome.failed_everywhere
    assert "better than its baseline" in outcome.junit_messages[0]


@pytest.mark.parametrize("tolerance", ["0.002", "0.5%", "0\n agreement 0.002", "0\n agreement = 0.5%"])
def test_tolerance_of_the_ini_file(with_baseline, tolerance):
    edit(with_baseline, agreement=saved_agreement(with_baseline) + 0.001)
    assert verdict(with_baseline.run("--cp-baseline=check")) == "regressed"
    with_baseline.pytester.makeini(f"[pytest]\ncp_baseline_tolerance = {tolerance}\n")
    outcome = with_baseline.run("--cp-baseline=check")
    assert outcome.result.ret == 0
    assert verdict(outcome) == "ok"


@pytest.mark.parametrize("tolerance", ["0.002", '"0.5%"', '{"agreement": 0.002}'])
def test_tolerance_of_a_test_stands_above_that_of_the_ini_file(with_baseline, tolerance):
    edit(with_baseline, agreement=saved_agreement(with_baseline) + 0.001)
    with_baseline.write_test(f"@pytest.mark.cp_baseline(tolerance={tolerance}){GATE}")
    assert with_baseline.run("--cp-baseline=check").result.ret == 0
    with_baseline.write_test(f'@pytest.mark.cp_baseline(tolerance={{"cost": 0.002}}){GATE}')
    assert with_baseline.run("--cp-baseline=check").failed_everywhere


@pytest.mark.parametrize("tolerance", ["-1", "nan", "inf", "much", "1 2 3", "-3%", "agrement 0.1"])
def test_a_tolerance_that_cannot_be_meant_is_refused(project, tolerance):
    project.write_test(GATE)
    project.pytester.makeini(f"[pytest]\ncp_baseline_tolerance = {tolerance}\n")
    assert project.run().result.ret == pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize("marker", ["tolerance=-1", "tolerence=0.1", "0.1", "ratchet='yes'", "tolerance={'no': 1}"])
def test_a_marker_that_cannot_be_meant_fails(with_baseline, marker):
    with_baseline.write_test(f"@pytest.mark.cp_baseline({marker}){GATE}")
    assert with_baseline.run("--cp-baseline=check").result.ret != 0


@pytest.mark.parametrize("part", ["reference", "data", "candidate", "seed"])
def test_baseline_of_another_subject_is_stale(with_baseline, part):
    edit(with_baseline, lambda entry: entry["measured_on"].update({part: "another"}))
    outcome = with_baseline.run("--cp-baseline=check")
    assert outcome.failed_everywhere
    assert verdict(outcome) == "stale"
    assert f"stale, since these changed: {part};" in outcome.junit_messages[0]


def test_baseline_of_another_direction_is_stale(with_baseline):
    edit(with_baseline, lambda entry: entry["metrics"]["agreement"].update(direction="max"))
    assert verdict(with_baseline.run("--cp-baseline=check")) == "stale"


@pytest.mark.parametrize(("policy", "code"), [("note", 0), ("ignore", 0), ("fail", 1)])
def test_another_environment(with_baseline, policy, code):
    edit(with_baseline, lambda entry: entry["environment"].update(device="cuda:7"))
    with_baseline.pytester.makeini(f"[pytest]\ncp_baseline_environment = {policy}\n")
    outcome = with_baseline.run("--cp-baseline=check")
    assert outcome.result.ret == code
    assert ("device (cuda:7, now" in outcome.result.stdout.str()) == (policy != "ignore")


def test_other_environment_policies_are_refused(project):
    project.pytester.makeini("[pytest]\ncp_baseline_environment = maybe\n")
    project.write_test(GATE)
    assert project.run().result.ret == pytest.ExitCode.USAGE_ERROR


TWO_LAYERS = """
@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset):
    for layer in ("0", "1"):
        assert_embeddings_preserved(compressed_model, reference_model, dataset, layer=layer, min_cka=0.1)
"""


def test_checks_of_two_layers_are_two_checks(project):
    project.write_test(TWO_LAYERS)
    assert project.run("--cp-baseline=new").result.ret == 0
    checks = json.loads(saved(project).read_text())["checks"]
    assert [name.partition(" ")[2] for name in checks] == [
        "assert_embeddings_preserved(cka; layer=0)",
        "assert_embeddings_preserved(cka; layer=1)",
    ]
    assert len({entry["metrics"]["cka"]["value"] for entry in checks.values()}) == 2


def test_checks_of_one_name_are_numbered(project):
    project.write_test("""
@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset):
    for half in (slice(60), slice(60, 120)):
        part = tuple(tensor[half] for tensor in dataset)
        assert_preserved_predictions(compressed_model, reference_model, part, min_agreement=0.1)
""")
    assert project.run("--cp-baseline=new").result.ret == 0
    first, second = sorted(json.loads(saved(project).read_text())["checks"])
    assert second == f"{first} #2"
    assert project.run("--cp-baseline=check").result.ret == 0


def test_a_saved_check_that_its_test_no_longer_makes_fails(project):
    project.write_test(TWO_LAYERS)
    project.run("--cp-baseline=new")
    project.write_test(TWO_LAYERS.replace(', "1"', ""))
    outcome = project.run("--cp-baseline=check")
    assert outcome.failed_everywhere
    assert outcome.junit_messages[0].count("a check that was not made") == 1


def test_a_missing_baseline_is_told_once(project):
    project.write_test(GATE)
    outcome = project.run("--cp-baseline=check")
    assert outcome.failed_everywhere
    assert outcome.junit_messages[0].count("no baseline in") == 1


@pytest.mark.parametrize("arguments", [(), ("-n2",)], ids=["serial", "xdist"])
def test_a_saved_check_whose_test_is_gone_fails_when_the_whole_module_ran(project, arguments):
    other = GATE.replace("test_gate", "test_other")
    project.write_test(GATE + other)
    project.run("--cp-baseline=new")
    assert project.run("--cp-baseline=check", "-k", "other").result.ret == 0
    project.write_test(other)
    outcome = project.run("--cp-baseline=check", *arguments, subprocess=bool(arguments))
    assert outcome.failed_everywhere
    assert project.run("--cp-baseline=check", "-k", "other").result.ret == 0


def test_a_check_that_is_no_longer_asserted_is_not_made(with_baseline):
    with_baseline.write_test(GATE.replace("assert_preserved", "check_preserved"))
    outcome = with_baseline.run("--cp-baseline=check")
    assert outcome.failed_everywhere
    assert "a check that was not made" in outcome.junit_messages[0]


def test_saved_checks_of_a_module_that_is_gone_fail_when_whole_modules_ran(with_baseline):
    with_baseline.write_test(GATE, name="test_other")
    with_baseline.run("--cp-baseline=new")
    (with_baseline.path / "test_other.py").unlink()
    assert with_baseline.run("--cp-baseline=check", "-k", "gate").result.ret == 0
    outcome = with_baseline.run("--cp-baseline=check")
    assert outcome.failed_everywhere
    assert "test_other.json contains checks of a module that no longer exists" in outcome.junit_messages[0]


@pytest.mark.parametrize("folder", ["/elsewhere", "../elsewhere", "a/../../b", "."])
def test_a_folder_that_modules_of_one_name_would_share_is_refused(project, folder):
    project.pytester.makeini(f"[pytest]\ncp_baseline_dir = {folder}\n")
    project.write_test(GATE)
    outcome = project.run("--cp-baseline=new")
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR
    outcome.result.stderr.fnmatch_lines(["*cp_baseline_dir*"])


FAILING_LATER = """
@pytest.fixture
def afterwards():
    yield
    raise RuntimeError("when everything was over")

@pytest.fixture
def before(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)

@pytest.mark.compress_model("prune(density=0.4)")
def test_teardown(compressed_model, reference_model, dataset, afterwards):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)

@pytest.mark.compress_model("prune(density=0.4)")
def test_call(compressed_model, before):
    assert not before is None
"""


def test_checks_of_tests_that_fail_in_another_phase_are_not_saved(project):
    project.write_test(FAILING_LATER)
    assert project.run("--cp-baseline=new").result.ret == 1
    assert not saved(project).exists()


@pytest.mark.parametrize(("then", "tolerance"), [(0.81, 0.01), (0.3, 0.1), (0.7, 0.1)])
def test_a_change_of_just_the_tolerance_is_within_it(then, tolerance):
    from pytest_cp.baselines.tolerances import Policy, Tolerances
    from pytest_cp.baselines.verdicts import _compare

    result = {"metric": "agreement", "direction": "min", "value": round(then - tolerance, 2)}
    policy = Policy(Tolerances.parse_lines(str(tolerance)), False)
    assert _compare(result, {"value": then}, policy)["verdict"] == "ok"
    assert _compare(result | {"value": then - 1.01 * tolerance}, {"value": then}, policy)["verdict"] == "regressed"


def test_update_touches_only_what_ran(project):
    project.write_test(GATE + GATE.replace("test_gate", "test_other"))
    project.run("--cp-baseline=new")
    content = json.loads(saved(project).read_text())
    for entry in content["checks"].values():
        entry["metrics"]["agreement"]["value"] = 0.5
    saved(project).write_text(json.dumps(content))
    project.run("--cp-baseline=update", "-k", "other")
    values = {
        name: entry["metrics"]["agreement"]["value"]
        for name, entry in json.loads(saved(project).read_text())["checks"].items()
    }
    assert [value == 0.5 for _, value in sorted(values.items())] == [True, False]


def test_what_hypothesis_draws_has_no_baseline(project):
    project.write_test("""
from hypothesis import given, settings, strategies as st

@settings(max_examples=5, deadline=None, database=None)
@given(size=st.integers(20, 120))
@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset, size):
    part = tuple(tensor[:size] for tensor in dataset)
    assert_preserved_predictions(compressed_model, reference_model, part, min_agreement=0.1)
""")
    assert project.run("--cp-baseline=new").result.ret == 0
    assert not saved(project).exists()
    assert project.run("--cp-baseline=check").result.ret == 0


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"schema_version": 99, "checks": {}}',
        '{"schema_version": 2, "checks": []}',
        '{"schema_version": 2, "checks": {"a": 1}}',
        '{"schema_version": 2, "checks": {"a": {"metrics": {}, "measured_on": {}, "environment": {}}}}',
        '{"schema_version": 2, "checks": {"a": {"metrics": {"agreement": {"value": "x", "direction": "min"}}, '
        '"measured_on": {}, "environment": {}}}}',
    ],
)
def test_unreadable_baseline_fails(with_baseline, content):
    saved(with_baseline).write_text(content)
    assert with_baseline.run("--cp-baseline=check").failed_everywhere


@pytest.mark.parametrize("mode", ["new", "update"])
def test_a_damaged_file_is_not_written_over(with_baseline, mode):
    saved(with_baseline).write_text("{")
    assert with_baseline.run(f"--cp-baseline={mode}").failed_everywhere
    assert saved(with_baseline).read_text() == "{"


def test_failed_checks_are_not_saved(project):
    project.write_test(GATE.replace("min_agreement=0.1", "min_agreement=1.0"))
    assert project.run("--cp-baseline=new").result.ret == 1
    assert not saved(project).exists()


@pytest.mark.parametrize("mode", ["new", "update"])
@pytest.mark.parametrize("variable", ["CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "TF_BUILD"])
def test_writing_is_refused_in_ci(project, monkeypatch, mode, variable):
    monkeypatch.setenv(variable, "true")
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
