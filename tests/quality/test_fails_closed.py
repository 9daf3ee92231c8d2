"""Nothing that was not really compared passes: each case fails in the exit code and in JUnit XML.

The first group is one case for each way in which neighbouring plugins let a gate pass silently.
"""

import pytest

GATE = """
@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement={bound})
"""
PASSING, FAILING = GATE.format(bound=0.5), GATE.format(bound=1.0)


def test_the_gate_these_cases_vary_passes(project):
    project.write_test(PASSING)
    outcome = project.run()
    assert outcome.result.ret == 0
    assert outcome.junit["tests"] == 1
    assert outcome.report["outcomes"]["pass"] == 1


def test_check_missing_from_baseline(project):
    project.write_test(PASSING)
    outcome = project.run("--cp-baseline=check")
    assert outcome.failed_everywhere
    assert "no baseline" in outcome.junit_messages[0]


@pytest.mark.parametrize("arguments", [(), ("-n2",)], ids=["serial", "xdist"])
def test_regression_against_baseline(project, arguments):
    project.write_test(GATE.format(bound=0.0))
    assert project.run("--cp-baseline=new").result.ret == 0
    assert project.run("--cp-baseline=check", *arguments, subprocess=bool(arguments)).result.ret == 0
    saved = project.path / "cp_baselines" / "test_gate.json"
    agreement = _edit_saved_agreement(saved, lambda value: 1.0)
    assert agreement < 1.0
    outcome = project.run("--cp-baseline=check", *arguments, subprocess=bool(arguments))
    assert outcome.failed_everywhere
    assert "worse than its baseline" in outcome.junit_messages[0]


def _edit_saved_agreement(path, change):
    import json

    content = json.loads(path.read_text())
    (entry,) = content["checks"].values()
    value = entry["metrics"]["agreement"]["value"]
    entry["metrics"]["agreement"]["value"] = change(value)
    path.write_text(json.dumps(content))
    return value


def test_regression_is_a_failed_test_and_not_only_a_line_in_the_summary(project):
    project.write_test(FAILING)
    outcome = project.run()
    assert outcome.result.ret == 1
    assert outcome.junit["failures"] == 1
    assert outcome.junit_messages[0].startswith("pytest_cp.errors.PredictionsNotPreservedError: agreement = ")


def test_marked_test_that_compares_nothing(project):
    project.write_test("""
@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset):
    pass
""")
    outcome = project.run()
    assert outcome.failed_everywhere
    assert "nothing was compared" in outcome.junit_messages[0]


def test_marked_test_that_does_not_ask_for_the_fixture(project):
    project.write_test("""
@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(reference_model):
    pass
""")
    assert project.run().failed_everywhere


def test_rerun_after_a_missing_baseline(project):
    project.write_test(PASSING)
    outcome = project.run("--cp-baseline=check", "--reruns=2", subprocess=True)
    assert outcome.failed_everywhere
    refused = project.run("--cp-baseline=new", "--reruns=2", subprocess=True)
    assert refused.result.ret == pytest.ExitCode.USAGE_ERROR


def test_rerun_does_not_undo_a_failed_check(project):
    project.write_test("""
attempts = []

@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset):
    attempts.append(1)
    bound = 1.0 if len(attempts) == 1 else 0.1
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=bound)
""")
    outcome = project.run("--reruns=2", subprocess=True)
    assert outcome.failed_everywhere
    assert "rerun does not undo" in outcome.junit_messages[0]


def test_check_that_crashed(project):
    project.write_test("""
@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset):
    def crash(batch):
        raise RuntimeError("out of order")
    assert_preserved_predictions(crash, reference_model, dataset, min_agreement=0.1)
""")
    outcome = project.run()
    assert outcome.failed_everywhere
    assert outcome.report["outcomes"]["error"] == 1


def test_swallowed_crash_is_no_comparison(project):
    project.write_test("""
@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset):
    try:
        assert_preserved_predictions(lambda batch: None, reference_model, dataset, min_agreement=0.1)
    except Exception:
        pass
""")
    assert project.run().failed_everywhere


@pytest.mark.parametrize("arguments", [(), ("-n2",)], ids=["serial", "xdist"])
def test_every_gate_skipped(project, arguments):
    project.write_test('pytestmark = pytest.mark.skip(reason="no GPU")\n' + PASSING)
    outcome = project.run(*arguments, subprocess=bool(arguments))
    assert outcome.failed_everywhere
    assert "nothing was compared in this session" in outcome.junit_messages[0]
    assert outcome.report["not_compared"][0]["reason"].endswith("no GPU")


def test_every_gate_skipped_beside_other_tests_that_pass(project):
    project.write_test("def test_other():\n    pass\n\n" + PASSING.replace("@", "@pytest.mark.skip\n@", 1))
    assert project.run().failed_everywhere


def test_module_skipped_at_import(project):
    project.write_test('pytest.skip("no data here", allow_module_level=True)\n' + PASSING)
    assert project.run().failed_everywhere


def test_module_skipped_at_import_beside_other_tests_that_pass(project):
    project.write_test('pytest.importorskip("nowhere_to_be_found")\n' + PASSING)
    project.write_test("def test_other():\n    pass\n", name="test_unit")
    # a module that does not mention the plugin at all, so that only the other one counts
    project.pytester.makepyfile(test_unit="def test_other():\n    pass\n")
    outcome = project.run()
    assert outcome.failed_everywhere
    assert "nowhere_to_be_found" in outcome.report["not_compared"][0]["reason"]


def test_skipped_gates_are_not_released_by_a_check_elsewhere(project):
    project.write_test("@pytest.mark.skip" + PASSING)
    project.write_test(
        """
def test_elsewhere(reference_model, dataset):
    import subjects
    other = subjects.make_model()
    other[0].weight[0] = 0
    assert_preserved_predictions(other, reference_model, dataset, min_agreement=0.0)
""",
        name="test_elsewhere",
    )
    assert project.run().failed_everywhere


@pytest.mark.parametrize(
    "swallowing",
    ["with pytest.raises(AssertionError):", "import contextlib\n    with contextlib.suppress(AssertionError):"],
)
def test_failed_check_that_the_test_catches(project, swallowing):
    call = "assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=1.0)"
    project.write_test(PASSING.partition("    assert_")[0] + f"    {swallowing}\n        {call}\n")
    outcome = project.run()
    assert outcome.failed_everywhere
    assert "was caught and ignored" in outcome.junit_messages[0]


def test_rerun_does_not_undo_a_crash(project):
    project.write_test("""
attempts = []

@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset):
    attempts.append(1)
    broken = len(attempts) == 1
    candidate = (lambda x: compressed_model(x) * float("nan")) if broken else compressed_model
    assert_preserved_predictions(candidate, reference_model, dataset, min_agreement=0.1)
""")
    assert project.run("--reruns=2", subprocess=True).failed_everywhere


# --- subjects that cannot be compared ---

SUBJECT_CASES = {
    "candidate is the reference": ("reference_model, reference_model, dataset", "nothing was compressed"),
    "candidate equals the reference": ("subjects.make_model(), reference_model, dataset", "nothing was compressed"),
    "reference in a module": ("torch.nn.Sequential(reference_model), reference_model, dataset", "bit for bit"),
    "reference in a function": ("lambda x: reference_model(x) + 0, reference_model, dataset", "bit for bit"),
    "swapped": (
        "subjects.make_model(), __import__('cp_compress').Prune(0.4).compress(reference_model), dataset",
        "the compressed model must be the first",
    ),
    "same model, copied data": (
        "reference_model, reference_model, dataset, compressed_dataset=subjects.make_data()",
        "nothing was compressed",
    ),
    "NaN logits": ("lambda x: x[:, :3] * float('nan'), reference_model, dataset", "NaN or infinite logits"),
    "infinite logits": ("lambda x: x[:, :3] / 0, reference_model, dataset", "NaN or infinite logits"),
    "empty data": ("half, reference_model, (torch.zeros(0, 8), torch.zeros(0, dtype=int))", "dataset is empty"),
    "wrong shape": ("half, reference_model, (torch.zeros(4, 5), torch.zeros(4, dtype=int))", "cannot take inputs"),
    "labels out of range": ("half, reference_model, (dataset[0], dataset[1] + 1)", "labels lie outside"),
    "negative labels": ("half, reference_model, (dataset[0], dataset[1] - 1)", "labels lie outside"),
    "unequal lengths": ("half, reference_model, (dataset[0], dataset[1][:-1])", "first dimensions must be equal"),
    "float labels": ("half, reference_model, (dataset[0], dataset[1] / 2)", "integer dtype"),
    "other dtype": ("half, reference_model, (dataset[0].double(), dataset[1])", "Its parameters are torch.float32"),
    "other labels": (
        "half, reference_model, dataset, compressed_dataset=(dataset[0], dataset[1].flip(0))",
        "different labels",
    ),
    "no logits": ("lambda x: x[:, 0], reference_model, dataset", "expected logits of shape"),
    "other number of classes": ("lambda x: x[:, :5], reference_model, dataset", "5 classes"),
}


@pytest.mark.parametrize(("subjects", "message"), SUBJECT_CASES.values(), ids=SUBJECT_CASES.keys())
def test_subjects_that_cannot_be_compared(project, subjects, message):
    project.write_test(f"""
import subjects

def test_gate(reference_model, dataset):
    half = subjects.make_model()
    half[0].weight[0] = 0
    assert_preserved_predictions({subjects}, min_agreement=0.0)
""")
    outcome = project.run()
    assert outcome.failed_everywhere
    assert any(message in text for text in outcome.junit_messages), outcome.junit_messages


def test_random_augmentation(project):
    project.write_test("""
import subjects

class Augmented(torch.utils.data.Dataset):
    def __len__(self):
        return 20
    def __getitem__(self, index):
        return torch.randn(8), 0

def test_gate(reference_model):
    half = subjects.make_model()
    half[0].weight[0] = 0
    assert_preserved_predictions(half, reference_model, Augmented(), min_agreement=0.0)
""")
    outcome = project.run()
    assert outcome.failed_everywhere
    assert "random augmentation" in outcome.junit_messages[0]


def test_no_requirement(project):
    project.write_test(PASSING.replace(", min_agreement=0.5", ""))
    outcome = project.run()
    assert outcome.failed_everywhere
    assert "no requirement is given" in outcome.junit_messages[0]


@pytest.mark.parametrize("bound", ["min_agreement=-0.1", "max_accuracy_drop=75", "min_accuracy=97", "max_cost=-1"])
def test_bound_outside_of_what_the_metric_can_be(project, bound):
    project.write_test(PASSING.replace("min_agreement=0.5", bound))
    outcome = project.run()
    assert outcome.failed_everywhere
    assert f"({bound}" in outcome.junit_messages[0]


def test_inconclusive_claim(project):
    project.write_test(PASSING.replace("min_agreement=0.5", "max_accuracy_drop=0.3, confidence=0.95"))
    outcome = project.run()
    assert outcome.failed_everywhere
    assert "inconclusive" in outcome.junit_messages[0]
    assert "more examples would decide it" in outcome.junit_messages[0]
