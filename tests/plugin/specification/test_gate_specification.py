"""`--cp-spec`: what one TOML file requires is run as tests, and a mistake in it fails the run."""

import json
import textwrap

import pytest
from schemas import assert_published
from specification_texts import SPECIFICATION, added


@pytest.fixture
def gate(project):
    """A project, and a function that writes its specification and runs the gate."""

    def run(text=SPECIFICATION, *arguments, subprocess=False):
        (project.path / "gate.toml").write_text(text)
        spec = ("--pyargs", "pytest_cp.gate", "--cp-spec=gate.toml")
        return project.run(*spec, *arguments, subprocess=subprocess)

    run.project = project
    return run


@pytest.mark.parametrize("arguments", [(), ("-n2",)], ids=["serial", "xdist"])
def test_a_specification_is_a_gate(gate, arguments):
    outcome = gate(SPECIFICATION, *arguments, subprocess=bool(arguments))
    assert outcome.result.ret == 0
    assert outcome.junit["tests"] == 1
    (check,) = outcome.report["checks"]
    assert check["test"] == "gate.toml::prune(density=0.4) predictions"
    assert check["outcome"] == "pass"


@pytest.mark.parametrize("arguments", [(), ("-n2",), ("--reruns=2",)], ids=["serial", "xdist", "reruns"])
def test_a_requirement_that_does_not_hold_fails(gate, arguments):
    outcome = gate(added("", "0.5", "0.99"), *arguments, subprocess=bool(arguments))
    assert outcome.failed_everywhere
    assert outcome.junit_messages[0].startswith("pytest_cp.errors.PredictionsNotPreservedError: agreement = 0.7")
    assert (
        "reproduce: pytest 'gate.toml::prune(density=0.4) predictions' --cp-spec=gate.toml" in str(outcome.report)
        or "gate.toml::prune(density=0.4) predictions' --cp-spec=gate.toml" in outcome.result.stdout.str()
    )


def test_one_test_of_a_specification_runs_alone(gate):
    gate(added("\n[embeddings]\nmin_cka = 0.1\n"))
    outcome = gate.project.run("gate.toml::prune(density=0.4) embeddings", "--cp-spec=gate.toml")
    assert [check["comparison"] for check in outcome.report["checks"]] == ["embeddings"]


def test_every_level_has_its_table(gate):
    text = """
    [[candidate]]
    name = "stored"
    codec = "zfp(precision=8, clip=None)"

    [[embeddings]]
    layer = "0"
    min_cka = 0.01

    [[embeddings]]
    layer = "2"
    min_cka = 0.01

    [attributions]
    min_mean_iou = 0.01
    examples = [0, 1, 2, 3]

    [boundaries]
    max_censored_fraction = 1.0
    examples = 4

    [divergence]
    candidates = ["prune(density=0.4)"]
    max_divergence_rate = 1.0
    epsilon = 0.01
    bounds = [-9, 9]
    examples = 4
    queries = 5

    [footprint]
    candidates = ["prune(density=0.4)"]
    min_compression = 0.5

    [reconstruction]
    candidates = ["stored"]
    max_rmse = 1.0
    """
    outcome = gate(added(text))
    assert outcome.result.ret == 0, outcome.result.stdout.str()
    levels = [check["comparison"] for check in outcome.report["checks"]]
    both = ["predictions", "embeddings", "embeddings", "attributions", "boundaries"]
    assert sorted(levels) == sorted(both + both + ["divergence", "footprint", "reconstruction"])


def test_slices_by_metadata(gate):
    rows = "\n".join(f"{index},{'day' if index < 60 else 'night'}" for index in range(120))
    (gate.project.path / "rows.csv").write_text("index,time\n" + rows + "\n")
    text = """
    [predictions.slices]
    night = {column = "time", equals = "night"}
    early = {column = "index", at_most = 9}
    listed = [0, 1, 2]
    """
    specification = added(text, 'make_data"', 'make_data"\nmetadata = "rows.csv"')
    outcome = gate(specification.replace("min_agreement = 0.5", "min_slice_agreement = 0.1"))
    assert outcome.result.ret == 0, outcome.result.stdout.str()
    slices = {row["slice"]: row["count"] for row in outcome.report["checks"][0]["details"]["slices"]}
    assert slices == {"night": 60, "early": 10, "listed": 3}
    (gate.project.path / "rows.csv").write_text("index,time\n0,day\n")
    assert gate(specification).failed_everywhere


def test_a_bound_from_noise(gate):
    text = added("\n[noise]\nreferences = ['quantize(float16)', 'quantize(bfloat16)']\n", "0.5", '"noise - 0.5"')
    outcome = gate(text)
    assert outcome.result.ret == 0, outcome.result.stdout.str()
    (check,) = outcome.report["checks"]
    assert 0.4 < check["requirements"][0]["bound"] <= 0.5
    outcome.result.stdout.fnmatch_lines(["note: predictions.min_agreement = 'noise - 0.5' means *of 4 pairs*"])
    assert gate(text.replace("noise - 0.5", "noise")).failed_everywhere


def test_a_bound_from_noise_that_no_value_could_miss_is_refused(gate):
    noisy = "\n[noise]\nreferences = ['prune(density=0.1)']\n"  # one class is all that it predicts
    outcome = gate(added(noisy, "min_agreement = 0.5", 'max_class_accuracy_drop = "noise + 0.1"'))
    assert outcome.failed_everywhere
    assert "which every value meets" in outcome.junit_messages[0]


def test_waivers_execution_and_baseline_of_a_specification(gate):
    text = """
    [execution]
    seed = 7

    [baseline]
    tolerance = "1%"

    [[waiver]]
    test = "*prune* predictions"
    metric = "agreement"
    at_worst = 0.7
    owner = "Ada"
    reason = "known"
    expires = 2999-01-01
    """
    outcome = gate(added(text, "0.5", "0.99"), "--cp-baseline=new")
    assert outcome.result.ret == 0
    (check,) = outcome.report["checks"]
    assert check["seed"] == 7
    assert check["waivers"][0]["owner"] == "Ada"
    assert (gate.project.path / "cp_baselines" / "gate.toml.json").exists()
    held = gate(added(text, "0.5", "0.99"), "--cp-baseline=check")
    assert held.result.ret == 0
    assert held.report["checks"][0]["baseline"]["verdict"] == "ok"
    assert held.report["checks"][0]["baseline"]["metrics"]["agreement"]["tolerance"] > 0
    assert gate(added(text.replace("2999", "1999"), "0.5", "0.99")).failed_everywhere


def test_models_from_files_and_programs(gate):
    import safetensors.torch
    import torch

    module = {}
    exec((gate.project.path / "subjects.py").read_text(), module)
    weights = {name: tensor * 1.01 for name, tensor in module["make_model"]().state_dict().items()}
    safetensors.torch.save_file(weights, gate.project.path / "model.safetensors")
    (gate.project.path / "serve.py").write_text(
        textwrap.dedent("""
        import sys, numpy, torch, subjects
        batch = torch.from_numpy(numpy.load(sys.argv[1]))
        numpy.save(sys.argv[2], (subjects.make_model()(batch) * 1.5).numpy())
        """)
    )
    import sys

    command = json.dumps([sys.executable, "serve.py", "{input}", "{output}"])
    text = f"""
    [[candidate]]
    name = "weights"
    file = "model.safetensors"
    factory = "subjects:make_model"

    [[candidate]]
    name = "program"
    command = {command}
    """
    outcome = gate(added(text))
    assert outcome.result.ret == 0, outcome.result.stdout.str()
    assert len(outcome.report["checks"]) == 3
    names = {check["subjects"]["candidate"]["name"] for check in outcome.report["checks"]}
    assert names == {"prune(density=0.4)", "weights", "program"}
    outcome.result.stdout.fnmatch_lines(["pass * program * predictions", "pass * weights * predictions"])
    assert torch  # imported before the run forgets modules


def test_an_error_names_its_candidate(gate):
    import sys

    command = json.dumps([sys.executable, "-c", "raise SystemExit(3)", "{input}", "{output}"])
    outcome = gate(added("", 'scheme = "prune(density=0.4)"', f'name = "broken"\ncommand = {command}'))
    assert outcome.failed_everywhere
    (check,) = outcome.report["checks"]
    assert check["subjects"]["candidate"]["name"] == "broken"
    assert "ended with exit code 3" in check["error"]
    assert "cannot take inputs" not in check["error"]
    outcome.result.stdout.fnmatch_lines(["error * broken * predictions"])


def test_the_run_tells_the_line_of_a_mistake_in_a_waiver(gate):
    outcome = gate(added("\n[[waiver]]\ntest = '*'\n"))
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR
    outcome.result.stderr.fnmatch_lines(["*gate.toml:15: waiver 1: missing *"])


@pytest.mark.parametrize("arguments", [(), ("-n2",), ("--reruns=1",)], ids=["serial", "xdist", "reruns"])
def test_a_mistake_fails_the_run(gate, arguments):
    outcome = gate(added("", "min_agreement", "min_agreemnt"), *arguments, subprocess=bool(arguments))
    assert outcome.result.ret not in (0, 5)


@pytest.mark.parametrize("arguments", [(), ("-n2",)], ids=["serial", "xdist"])
def test_subjects_that_cannot_be_made_fail_every_test(gate, arguments):
    text = added("", "subjects:make_model", "subjects:torch.no_model")
    outcome = gate(text, *arguments, subprocess=bool(arguments))
    assert outcome.failed_everywhere
    assert "no_model" in outcome.junit_messages[0]


def test_the_gate_without_a_specification_is_refused(project):
    outcome = project.run("--pyargs", "pytest_cp.gate")
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR
    outcome.result.stderr.fnmatch_lines(["*add --cp-spec*"])


def test_a_specification_that_is_not_there_is_refused(project):
    outcome = project.run("--pyargs", "pytest_cp.gate", "--cp-spec=none.toml")
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR
    outcome.result.stderr.fnmatch_lines(["*none.toml*"])


def test_a_specification_that_nothing_collects_is_refused(project):
    (project.path / "gate.toml").write_text(SPECIFICATION)
    project.write_test("def test_other():\n    pass\n")
    outcome = project.run("test_gate.py", "--cp-spec=gate.toml")
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR


def test_the_published_schema_is_that_of_the_assertions():
    assert_published("pytest_cp.specification", "schema.json")


@pytest.mark.parametrize(
    ("word", "told"), [("predicton", "did you mean predictions?"), ("xyz", "its tests are 'prune(")]
)
def test_a_keyword_that_selects_nothing_says_what_there_is(gate, word, told):
    outcome = gate(SPECIFICATION, "-k", word)
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"-k '{word}' selects none of 1; {told}" in outcome.result.stderr.str()
