"""`--cp-spec`: what one TOML file requires is run as tests, and every mistake in it is told with its line."""

import json
import textwrap

import pytest

from pytest_cp.specification import SpecificationError, read_specification
from pytest_cp.specification.lines import find_line
from pytest_cp.specification.schema import schema_text

SPECIFICATION = """\
schema_version = 1

[reference]
model = "subjects:make_model"

[data]
examples = "subjects:make_data"

[[candidate]]
scheme = "prune(density=0.4)"

[predictions]
min_agreement = 0.5
"""


@pytest.fixture
def gate(project):
    """A project, and a function that writes its specification and runs the gate."""

    def run(text=SPECIFICATION, *arguments, subprocess=False):
        (project.path / "gate.toml").write_text(text)
        spec = ("--pyargs", "pytest_cp.gate", "--cp-spec=gate.toml")
        return project.run(*spec, *arguments, subprocess=subprocess)

    run.project = project
    return run


def added(text, old="", new=""):
    return SPECIFICATION.replace(old, new) + textwrap.dedent(text)


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
    outcome.result.stdout.fnmatch_lines(["note: predictions.min_agreement = 'noise - 0.5' asks for *of 4 pairs*"])
    assert gate(text.replace("noise - 0.5", "noise")).failed_everywhere


def test_a_bound_from_noise_that_no_value_could_miss_is_refused(gate):
    noisy = "\n[noise]\nreferences = ['prune(density=0.3)']\n"
    outcome = gate(added(noisy, "0.5", '"noise - 0.99"'))
    assert outcome.failed_everywhere
    assert "which no value could miss" in outcome.junit_messages[0]


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


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("min_agreement", "min_agreemnt", 13, "did you mean min_agreement"),
        ("0.5", "1.5", 13, "must be a number in [0.0, 1.0]"),
        ("0.5", '"often"', 13, "must be a number"),
        ("0.5", '"noise"', 12, "no table noise"),
        ("[predictions]", "[prediction]", 12, "did you mean predictions"),
        ("min_agreement = 0.5", "top_k = 3", 12, "requires nothing"),
        ("[predictions]\nmin_agreement = 0.5", "", 1, "nothing is required"),
        ("min_agreement = 0.5", "min_agreement = 0.5\nconfidence = 1.0", 14, "confidence"),
        ("min_agreement = 0.5", "min_agreement = 0.5\ncandidates = ['other']", 14, "no candidate is called 'other'"),
        ("scheme", "schema", 10, "unknown key schema"),
        ("density=0.4", "density=4", 10, "density"),
        ("prune(density=0.4)", "prone(density=0.4)", 10, "prone"),
        ('"prune(density=0.4)"', '"prune(density=0.4)"\ncodec = "jpeg(quality=0)"', 11, "quality"),
        ('scheme = "prune(density=0.4)"', "", 9, "candidate"),
        ('scheme = "prune(density=0.4)"', 'name = "x"', 9, "needs a scheme"),
        ('"prune(density=0.4)"', '"prune(density=0.4)"\nmodel = "a:b"', 9, "not scheme and model"),
        ('"prune(density=0.4)"', '"prune(density=0.4)"\nkey = "a"', 11, "says something of a file"),
        ("[[candidate]]", '[[candidate]]\nscheme = "prune(density=0.4)"\n\n[[candidate]]', 12, "two candidates"),
        ("[[candidate]]", "[candidate]", 9, "is not of type 'array'"),
        ("schema_version = 1", "schema_version = 9", 1, "must be 1"),
        ("schema_version = 1", "", 1, "'schema_version' is a required property"),
        ('model = "subjects:make_model"', "", 3, "exactly one of model, file, command"),
        ('model = "subjects:make_model"', 'model = "a:b"\nfile = "c"', 3, "exactly one of"),
        (
            "[predictions]",
            "[footprint]\nmin_compression = 2\n[[candidate]]\ncodec = 'zfp(rate=8)'\n[predictions]",
            12,
            "stores the data only",
        ),
        ("[predictions]", "[reconstruction]\nmin_psnr = 2\n[predictions]", 12, "has none"),
        (
            "[predictions]",
            "[[candidate]]\nscheme = 'quantize(int8)'\n[predictions]\ncandidates = ['quantize(int8)']",
            9,
            "candidate prune(density=0.4) is never compared",
        ),
        ("[predictions]", "[noise]\nreferences = ['nonsense(']\n[predictions]", 13, "nonsense("),
        ("[predictions]", "[noise]\nreferences = ['absent.cp']\n[predictions]", 13, "it is no file"),
        (
            "[predictions]\nmin_agreement = 0.5",
            "[noise]\nreferences = ['quantize(float16)']\n[predictions]\nmin_agreement = 'noise - 5'",
            15,
            "no value could miss it",
        ),
        ("[predictions]", "[predictions", 12, "no TOML"),
        ("[predictions]", "[predictions]\nmin_agreement = 0.5", 14, "no TOML"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path, old, new, line, told):
    path = tmp_path / "gate.toml"
    path.write_text(SPECIFICATION.replace(old, new, 1))
    with pytest.raises(SpecificationError) as caught:
        read_specification(path)
    assert f"gate.toml:{line}: " in str(caught.value)
    assert told in str(caught.value)


def told_of(path, text):
    path.write_text(text)
    with pytest.raises(SpecificationError) as caught:
        read_specification(path)
    return [line.partition("gate.toml:")[2] for line in str(caught.value).splitlines()]


def test_every_unknown_key_is_told_with_its_own_line(tmp_path):
    text = added('"bogus key" = 1\nmin_agreemnt = 0.5\n[predictions.slices."a [b]"]\ncolum = "x"\nequals = 1\n')
    told = told_of(tmp_path / "gate.toml", text)
    assert [line.partition(": ")[0] for line in told] == ["14", "15", "16", "17"]
    assert "unknown key bogus key" in told[0]
    assert "did you mean min_agreement?" in told[1]
    assert "did you mean column?" in told[3]


def test_every_mistake_in_a_waiver_is_told_with_its_line(tmp_path):
    text = """
    [[waiver]]
    test = "*"
    metric = "agreemnt"
    at_worst = "much"
    ownr = "Ada"
    reason = "known"
    expires = 2999-01-01
    """
    told = told_of(tmp_path / "gate.toml", added(text))
    assert [line.partition(": ")[0] for line in told] == ["15", "17", "18", "19"]
    assert "waiver 1: lacks owner" in told[0]
    assert told[1].endswith("metric = 'agreemnt': no comparison gives it; did you mean agreement?")
    assert "at_worst = 'much': must be a number" in told[2]
    assert told[3].endswith("unknown key ownr; did you mean owner?")


def test_the_run_tells_the_line_of_a_mistake_in_a_waiver(gate):
    outcome = gate(added("\n[[waiver]]\ntest = '*'\n"))
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR
    outcome.result.stderr.fnmatch_lines(["*gate.toml:15: waiver 1: lacks *"])


@pytest.mark.parametrize("arguments", [(), ("-n2",), ("--reruns=1",)], ids=["serial", "xdist", "reruns"])
def test_a_mistake_fails_the_run(gate, arguments):
    outcome = gate(added("", "min_agreement", "min_agreemnt"), *arguments, subprocess=bool(arguments))
    assert outcome.result.ret not in (0, 5)


@pytest.mark.parametrize("arguments", [(), ("-n2",)], ids=["serial", "xdist"])
def test_subjects_that_cannot_be_made_fail_every_test(gate, arguments):
    text = added("", "subjects:make_model", "subjects:no_model")
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
    import importlib.resources

    published = importlib.resources.files("pytest_cp.specification").joinpath("schema.json")
    assert published.read_text(encoding="utf-8") == schema_text()


def test_lines_of_nested_tables():
    text = textwrap.dedent("""\
        top = 1
        [a]
        "quoted key" = 1
        b.c = 2
        [[list]]
        x = 1
        [list.inner]
        y = 2
        [[list]]
        x = 2
        """)
    places = [
        ["top"],
        ["a", "quoted key"],
        ["a", "b", "c"],
        ["list", 0, "x"],
        ["list", 0, "inner", "y"],
        ["list", 1, "x"],
    ]
    assert [find_line(text, place) for place in places] == [1, 3, 4, 6, 8, 10]
    assert find_line(text, ["list", 1, "missing"]) == 9
    assert find_line(text, []) == 1
