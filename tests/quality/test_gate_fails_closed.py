"""Baselines, waivers, slices and specifications let nothing pass either: serially, under xdist, and with reruns.

Each row of a table fails in the exit code and by its own name in JUnit XML. All rows run in one session, so that no
row is failed by another's doing: a control beside them passes.
"""

import json
import sys
import textwrap
import xml.etree.ElementTree as ElementTree

import pytest

MODES = {"serial": (), "xdist": ("-n2",), "reruns": ("--reruns=1",)}
GATE = """
@pytest.mark.compress_model("prune(density=0.4)")
def test_{row}(compressed_model, reference_model, dataset):
    {body}
"""
CALL = "assert_preserved_predictions(compressed_model, reference_model, dataset, {})"
GOOD = CALL.format("min_agreement=0.1")
LOOK = "check_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)"


def _edit(part, **values):
    def change(entry):
        entry[part].update(values)

    return change


def _saved_agreement(value):
    def change(entry):
        entry["metrics"]["agreement"]["value"] = value

    return change


# what is done to the saved baseline of a row's gate
BASELINES = {
    "missing": None,
    "of_other_data": _edit("measured_on", data="0" * 64),
    "of_another_reference": _edit("measured_on", reference="0" * 64),
    "of_another_candidate": _edit("measured_on", candidate="prune(density=0.9)"),
    "of_another_seed": _edit("measured_on", seed=9),
    "better_than_now": _saved_agreement(1.0),
    "without_a_number": _saved_agreement("much"),
    "of_the_other_direction": lambda entry: entry["metrics"]["agreement"].update(direction="max"),
    "damaged": "{",
    "of_a_later_version": '{"schema_version": 99, "checks": {}}',
    "worse_than_now_under_a_ratchet": _saved_agreement(0.2),
}
# the body of a row's gate
BODIES = {
    "deviation_beyond_its_waiver": CALL.format("min_agreement=0.99"),
    "deviation_without_its_own_waiver": CALL.format("max_accuracy_drop=0.0"),
    "waiver_for_a_crash": "assert_preserved_predictions(lambda x: reference_model(x) * float('nan'), reference_model, "
    "dataset, min_agreement=0.99)",
    "slice_that_is_worse": CALL.format("min_slice_agreement=0.7, slices={'bad': changed(compressed_model, dataset)}"),
    "slice_without_examples": CALL.format("min_slice_agreement=0.0, slices={'none': []}"),
    "slice_of_others": CALL.format("min_slice_agreement=0.0, slices={'far': [100000]}"),
    "slice_of_another_length": CALL.format("min_slice_agreement=0.0, slices={'mask': torch.ones(7).bool()}"),
    "slice_requirement_without_slices": CALL.format("min_slice_agreement=0.0"),
    "skip_after_a_failure": "fail(compressed_model, reference_model, dataset); pytest.skip('busy')",
    "rerun_that_skips": "skip_again()\n    " + CALL.format("min_agreement=1.0"),
    "failure_caught_in_setup": LOOK,
    "failure_caught_in_teardown": LOOK,
    "look_at_a_failure_that_was_caught": "fail(compressed_model, reference_model, dataset); "
    "check_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=1.0)",
}
MARKED = {
    "worse_than_now_under_a_ratchet": "cp_baseline(ratchet=True)",
    "failure_caught_in_setup": 'usefixtures("caught_in_setup")',
    "failure_caught_in_teardown": 'usefixtures("caught_in_teardown")',
}
HELPER = """
attempts = []

def skip_again():
    attempts.append(1)
    if len(attempts) > 1:
        pytest.skip("busy")

def fail(model, reference, data):
    try:
        assert_preserved_predictions(model, reference, data, min_agreement=1.0)
    except AssertionError:
        pass

@pytest.fixture
def caught_in_setup(compressed_model, reference_model, dataset):
    fail(compressed_model, reference_model, dataset)

@pytest.fixture
def caught_in_teardown(compressed_model, reference_model, dataset):
    yield
    fail(compressed_model, reference_model, dataset)

def changed(model, data):
    import subjects
    return model(data[0]).argmax(1) != subjects.make_model()(data[0]).argmax(1)
"""
WAIVERS = """
[[waiver]]
test = "*beyond_its_waiver*"
metric = "agreement"
at_worst = 0.95
owner = "Ada"
reason = "known"
expires = 2999-01-01

[[waiver]]
test = "*waiver_for_a_crash*"
metric = "agreement"
at_worst = 0.05
owner = "Ada"
reason = "known"
expires = 2999-01-01

[[waiver]]
test = "*nothing_of_this_name*"
metric = "agreement"
at_worst = 0.05
owner = "Ada"
reason = "forgotten"
expires = 2001-01-01
"""


def failing_names(path):
    """Return the names of the tests that a JUnit file says failed, and of all."""
    cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    failed = {case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None}
    return failed, {case.get("name") for case in cases}


def run_in_every_mode(project, rows, *arguments, told=""):
    """Run a project in every mode; return each row that did not fail, with its mode, and the controls that did."""
    wrong = []
    for mode, added in MODES.items():
        outcome = project.run(*arguments, *added, subprocess=True)
        failed, known = failing_names(project.path / "junit.xml")
        assert outcome.result.ret == 1, (mode, outcome.result.stdout.str())
        wrong += [] if told in outcome.result.stdout.str() else [f"{mode}: not told: {told}"]
        wrong += [f"{mode}: {row} passed" for row in rows if not any(row in name for name in failed)]
        controls = [name for name in known if "control" in name]
        assert controls
        wrong += [f"{mode}: {name} failed" for name in controls if name in failed]
    return wrong


def test_baselines_waivers_and_slices(project):
    rows = {**dict.fromkeys(BASELINES, GOOD), **BODIES}
    for row, body in rows.items():
        gate = GATE.format(row=row, body=body)
        if row in MARKED:
            gate = f"\n@pytest.mark.{MARKED[row]}" + gate
        project.write_test(HELPER + gate, name=f"test_{row}")
    lost = GOOD + "\n    " + CALL.format("max_accuracy_drop=1.0")
    project.write_test(GATE.format(row="control", body=GOOD) + GATE.format(row="lost", body=lost), name="test_others")
    project.write_test(GATE.format(row="renamed", body=GOOD), name="test_renamed")
    project.run("--cp-baseline=new", subprocess=True)
    caught = [row for row in BODIES if "caught" in row or "skip" in row]
    assert not any((project.path / "cp_baselines" / f"test_{row}.json").exists() for row in caught)

    project.write_test(GATE.format(row="renamed", body=GOOD).replace("def test_", "def "), name="test_renamed")
    project.write_test("@pytest.mark.cp_basline(tolerance=0.1)\ndef test_it():\n    pass\n", name="test_misspelt")
    project.write_test(GATE.format(row="control", body=GOOD) + GATE.format(row="lost", body=GOOD), name="test_others")
    for row, change in BASELINES.items():
        path = project.path / "cp_baselines" / f"test_{row}.json"
        assert path.exists(), row
        if change is None:
            path.unlink()
        elif isinstance(change, str):
            path.write_text(change)
        else:
            content = json.loads(path.read_text())
            (entry,) = content["checks"].values()
            change(entry)
            path.write_text(json.dumps(content))
    (project.path / "waivers.toml").write_text(WAIVERS)
    project.pytester.makeini("[pytest]\ncp_waivers = waivers.toml\n")
    session = ["no-waiver-may-be-expired", "every-saved-check-must-be-made"]
    names = [*(f"test_{row}[" for row in rows), *session, "test_misspelt"]
    told = "test_renamed.json contains checks of a module that was not collected"
    arguments = ("--cp-baseline=check", "--continue-on-collection-errors")
    assert run_in_every_mode(project, names, *arguments, told=told) == []


SPECIFICATION = """\
schema_version = 1
[reference]
model = "subjects:make_model"
[data]
examples = "subjects:make_data"
metadata = "rows.csv"
[predictions]
min_agreement = 0.1
[[embeddings]]
candidates = ["worse layers"]
layer = "0"
min_cka = 1.0
[[candidate]]
name = "control"
scheme = "prune(density=0.4)"
"""
CANDIDATES = {
    "no such file": 'file = "nothing.safetensors"\nfactory = "subjects:make_model"',
    "no such factory": 'model = "subjects:nothing"',
    "no such module": 'model = "nowhere:nothing"',
    "the reference itself": 'model = "subjects:make_model"',
    "pickle": 'file = "pickled.pt"\nfactory = "subjects:make_model"',
    "damaged": 'file = "damaged.safetensors"\nfactory = "subjects:make_model"',
    "other shapes": 'file = "shapes.safetensors"\nfactory = "subjects:make_model"',
    "NaN weights": 'file = "nan.safetensors"\nfactory = "subjects:make_model"',
    "program that fails": 'command = [{python}, "-c", "raise SystemExit(3)", "{{input}}", "{{output}}"]',
    "program that writes nothing": 'command = [{python}, "-c", "pass", "{{input}}", "{{output}}"]',
    "no effect": 'scheme = "prune(density=1)"',
    "no image": 'codec = "jpeg(quality=50)"',
    "worse layers": 'scheme = "prune(density=0.3)"',
    "callable without weights": 'model = "subjects:make_data"',
}


def test_specifications(project):
    import safetensors.torch
    import torch

    subjects = {}
    exec((project.path / "subjects.py").read_text(), subjects)
    weights = subjects["make_model"]().state_dict()
    torch.save(subjects["make_model"](), project.path / "pickled.pt")
    (project.path / "damaged.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    files = {"shapes": {**weights, "0.weight": torch.zeros(3, 3)}}
    files["nan"] = {name: tensor * float("nan") for name, tensor in weights.items()}
    for name, tensors in files.items():
        safetensors.torch.save_file(tensors, project.path / f"{name}.safetensors")
    (project.path / "rows.csv").write_text("time\n" + "day\n" * 120)
    tables = [
        f'[[candidate]]\nname = "{name}"\n' + text.format(python=json.dumps(sys.executable))
        if text.startswith("command")
        else f'[[candidate]]\nname = "{name}"\n{text}'
        for name, text in CANDIDATES.items()
    ]
    (project.path / "gate.toml").write_text(SPECIFICATION + "\n".join(tables) + "\n")
    assert run_in_every_mode(project, list(CANDIDATES), "--pyargs", "pytest_cp.gate", "--cp-spec=gate.toml") == []


REFUSED = {
    "no TOML": ("[reference]", "[reference"),
    "unknown key": ("min_agreement", "min_agreemnt"),
    "nothing required": ("[predictions]\nmin_agreement = 0.5\n", ""),
    "bound out of range": ("0.5", "50"),
    "no candidate": ('[[candidate]]\nscheme = "prune(density=0.4)"\n', ""),
    "unknown scheme": ("prune(", "prone("),
    "slice of a column that is not there": ("0.5", '0.5\nslices = {night = {column = "time", equals = "x"}}'),
    "expired waiver": ("0.5", '0.5\n[[waiver]]\ntest = "gate*"\nmetric = "agreement"\nat_worst = 0'),
}
SMALL = textwrap.dedent("""\
    schema_version = 1
    [reference]
    model = "subjects:make_model"
    [data]
    examples = "subjects:make_data"
    [[candidate]]
    scheme = "prune(density=0.4)"
    [predictions]
    min_agreement = 0.5
    """)


@pytest.mark.parametrize(("old", "new"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_specifications(project, old, new):
    text = SMALL.replace(old, new)
    assert text != SMALL
    (project.path / "gate.toml").write_text(text)
    for added in MODES.values():
        outcome = project.run("--pyargs", "pytest_cp.gate", "--cp-spec=gate.toml", *added, subprocess=bool(added))
        assert outcome.result.ret not in (0, 5), outcome.result.stdout.str()
