"""Comparisons and measurements of the user's own: recorded, reported, saved as baselines, and failing closed."""

import json

import pytest

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.fidelity import Comparison, Measurement, Metric  # noqa: F401  the measurement in texts of tests

COMPARISON = """
from cp_compress.fidelity import Comparison, Measurement, Metric

def compare_confidence(candidate, reference, power: float = 1.0):
    changes = (candidate.logits.softmax(1).amax(1) - reference.logits.softmax(1).amax(1)).abs() ** power
    return Measurement("confidence", {"confidence_change": changes.mean().item()}, {"confidence_change": len(changes)})

CHANGE = Metric("confidence_change", "The mean change of the largest probability.", "lower", unchanged=0.0)
CONFIDENCE = Comparison("confidence", compare_confidence, (CHANGE,))
"""
HOOK = """
from confidence import CONFIDENCE

def pytest_cp_comparisons():
    return [CONFIDENCE]
"""
GATE = """
@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset):
    check = assert_comparison(compressed_model, reference_model, dataset, "confidence", {arguments})
    assert check.passed
"""
MEASURED = """
from cp_compress import Requirement, observe
from cp_compress.fidelity import Measurement

def measured(compressed, reference, data, **rest):
    a, b = observe(compressed, data), observe(reference, data)
    gap = float((a.predictions != b.predictions).float().mean())
    return Measurement("fairness", {{"gap": gap}}, {{"gap": len(a)}}, **rest)

@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset):
    found = measured(compressed_model, reference_model, dataset)
    {body}
"""
CALL = "assert_measurement(found, Requirement('gap', 'max', {bound}), compressed=compressed_model, {subjects})"
SUBJECTS = "reference=reference_model, dataset=dataset"


@pytest.fixture
def own(project):
    project.pytester.makepyfile(confidence=COMPARISON)
    path = project.path / "conftest.py"
    path.write_text(path.read_text() + HOOK)
    return project


def in_gate(project, body):
    project.write_test(MEASURED.format(body=body))
    return project


@pytest.mark.parametrize("arguments", [(), ("-n2",)], ids=["serial", "xdist"])
def test_a_comparison_is_a_check_like_others(own, arguments):
    own.write_test(GATE.format(arguments="max_confidence_change=0.5, power=2.0"))
    outcome = own.run(*arguments, subprocess=True)
    assert outcome.result.ret == 0, outcome.result.stdout.str()
    (check,) = outcome.report["checks"]
    assert (check["assertion"], check["comparison"], check["outcome"]) == ("assert_comparison", "confidence", "pass")
    assert check["requirements"][0]["metric"] == "confidence_change"
    assert check["options"] == {"power": 2.0}
    assert check["subjects"]["candidate"]["name"] == "prune(density=0.4)"
    outcome.result.stdout.fnmatch_lines(["pass * prune(density=0.4) *confidence_change*"])


def test_a_comparison_that_does_not_hold_fails_the_gate(own):
    own.write_test(GATE.format(arguments="max_confidence_change=0.0001"))
    outcome = own.run(subprocess=True)
    assert outcome.failed_everywhere
    assert "ComparisonNotPreservedError" in outcome.result.stdout.str()
    assert outcome.report["checks"][0]["origin"] is not None  # the layers that carry the damage are looked for too


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("", "no requirement is given; give at least one of max_confidence_change"),
        ("min_confidence_change=0.1", "lower is better, so it is bounded by max_confidence_change"),
        ("max_confidence_chang=0.1", "did you mean max_confidence_change?"),
        ("max_confidence_change=2", r"\[0, 1\]"),
        ("max_confidence_change=0.1, confidence=0.95", "value on the given data only"),
    ],
)
def test_what_is_asked_of_a_comparison_is_checked_before_anything_runs(own, arguments, told):
    own.write_test(GATE.format(arguments=arguments))
    outcome = own.run(subprocess=True)
    assert outcome.failed_everywhere
    outcome.result.stdout.re_match_lines([f".*{told}.*"])


def test_a_comparison_fails_closed(own):
    own.write_test(
        """
@pytest.mark.compress_model("prune(density=0.4)")
def test_same(compressed_model, reference_model, dataset):
    assert_comparison(reference_model, reference_model, dataset, "confidence", max_confidence_change=1.0)

@pytest.mark.compress_model("prune(density=0.4)")
def test_caught(compressed_model, reference_model, dataset):
    try:
        assert_comparison(compressed_model, reference_model, dataset, "confidence", max_confidence_change=0.0)
    except AssertionError:
        pass

@pytest.mark.compress_model("prune(density=0.4)")
def test_not_a_number(compressed_model, reference_model, dataset):
    from cp_compress.fidelity import Comparison, Measurement
    from confidence import CHANGE
    def nan(candidate, reference):
        return Measurement("mine", {"confidence_change": float("nan")}, {"confidence_change": 9})
    mine = Comparison("mine", nan, (CHANGE,))
    assert_comparison(compressed_model, reference_model, dataset, mine, max_confidence_change=1.0)

@pytest.mark.compress_model("prune(density=0.4)")
def test_unknown(compressed_model, reference_model, dataset):
    assert_comparison(compressed_model, reference_model, dataset, "confidnce", max_confidence_change=1.0)
"""
    )
    outcome = own.run(subprocess=True)
    outcome.result.assert_outcomes(failed=4)
    assert [check["outcome"] for check in outcome.report["checks"]].count("pass") == 0


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("{'confidence_change': 0.1}", "comparison confidence(returned='dict')"),
        (
            "Measurement('confidence', {'confidence_change': -7.0}, {'confidence_change': 9})",
            r"declared to lie in [0, 1]",
        ),
        ("Measurement('confidence', {'confidence_change': '0.1'}, {'confidence_change': 9})", "a real number"),
        ("Measurement('confidence', {'confidence_change': 0.1}, {'confidence_change': -4})", "number of samples"),
        ("Measurement('confidence', {'confidence_change': 0.1}, {'confidence_change': 'many'})", "number of samples"),
        (
            "Measurement('predictions', {'confidence_change': 0.1}, {'confidence_change': 9})",
            "of comparison 'confidence'",
        ),
        ("Measurement('confidence', {'other': 0.1}, {'other': 9})", "must be declared"),
        (
            "Measurement('confidence', {'confidence_change': 0.1}, {'confidence_change': 9}, examples=('a',))",
            "ExampleChange",
        ),
    ],
)
def test_what_a_comparison_returns_is_checked(returned, told):
    comparison = Comparison(
        "confidence", lambda a, b: eval(returned), (Metric("confidence_change", "A change.", "lower"),)
    )
    with pytest.raises(InvalidArgumentError) as refused:
        comparison.compare(None, None)
    assert told in str(refused.value)


def test_details_of_ones_own_are_kept_apart_from_those_that_reports_show(own):
    source = GATE.format(arguments="max_confidence_change=0.0001")
    conftest = own.path / "confidence.py"
    details = "details={'classes': 10, 'flips': 'abc', 'slices': ['a']}"
    conftest.write_text(conftest.read_text().replace("len(changes)})", f"len(changes)}}, {details})"))
    own.write_test(source)
    outcome = own.run("--cp-report-html=report.html", "--cp-report-markdown=report.md", subprocess=True)
    assert outcome.failed_everywhere
    assert "ComparisonNotPreservedError" in outcome.result.stdout.str()
    assert outcome.report["checks"][0]["details"] == {"own": {"classes": 10, "flips": "abc", "slices": ["a"]}}
    assert "confidence_change" in (own.path / "report.html").read_text()


def test_a_specification_has_a_table_of_it(own):
    own.path.joinpath("gate.toml").write_text(
        """
schema_version = 1
[reference]
model = "subjects:make_model"
[data]
examples = "subjects:make_data"
[[candidate]]
scheme = "prune(density=0.4)"
[confidence]
max_confidence_change = 0.5
power = 2.0
"""
    )
    arguments = ("--pyargs", "pytest_cp.gate", "--cp-spec=gate.toml")
    outcome = own.run(*arguments, subprocess=True)
    assert outcome.result.ret == 0, outcome.result.stdout.str()
    assert outcome.report["checks"][0]["requirements"][0]["requirement"] == "confidence_change ≤ 0.5"
    own.path.joinpath("gate.toml").write_text(
        own.path.joinpath("gate.toml").read_text().replace("max_confidence_change = 0.5", "min_confidence_change = 0.5")
    )
    outcome = own.run(*arguments, subprocess=True)
    assert outcome.result.ret != 0
    outcome.result.stdout.re_match_lines(
        [".*gate.toml:10: unknown key min_confidence_change; .*bounded by max_confidence_change"]
    )


def test_it_is_held_to_its_baseline(own):
    own.write_test(GATE.format(arguments="max_confidence_change=0.9"))
    assert own.run("--cp-baseline=new", subprocess=True).result.ret == 0
    (saved,) = (own.path / "cp_baselines").glob("*.json")
    entry = json.loads(saved.read_text())
    (check,) = entry["checks"].values()
    assert check["metrics"]["confidence_change"]["direction"] == "max"
    assert own.run("--cp-baseline=check", subprocess=True).result.ret == 0
    check["metrics"]["confidence_change"]["value"] /= 2
    saved.write_text(json.dumps(entry))
    outcome = own.run("--cp-baseline=check", subprocess=True)
    assert outcome.failed_everywhere
    assert outcome.report["checks"][0]["baseline"]["verdict"] == "regressed"


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("[object()]", "must be a Comparison"),
        ("[CONFIDENCE, Comparison('confidence', compare_confidence, (CHANGE,))]", "two comparisons have this name"),
        ("[Comparison('predictions', compare_confidence, (CHANGE,))]", "name is taken"),
        (
            "[Comparison('mine', compare_confidence, (Metric('agreement', 'mine', 'lower'),))]",
            "agreement is another comparison's",
        ),
        ("[Comparison('mine', print, (Metric('a b', 'mine', 'lower'),))]", "a word that Python"),
        ("[Comparison('mine', print, ())]", "one Metric or more"),
        ("[Comparison('data', compare_confidence, (CHANGE,))]", "comparison data: a specification has another table"),
        ("[Comparison('mine', lambda a, b, max_confidence_change=1: 0, (CHANGE,))]", "the name of a bound"),
        ("[Comparison('mine', lambda a, b, confidence=1: 0, (CHANGE,))]", "an argument of every assertion"),
        ("[Comparison('mine', lambda a: 0, (CHANGE,))]", "a function of two observations"),
    ],
)
def test_what_is_no_comparison_is_refused(own, returned, told):
    path = own.path / "conftest.py"
    path.write_text(
        path.read_text() + f"\nfrom confidence import *\ndef pytest_cp_comparisons():\n    return {returned}\n"
    )
    own.write_test("def test_nothing():\n    pass\n")
    outcome = own.run(subprocess=True)
    assert outcome.result.ret != 0
    assert told in outcome.result.stderr.str() + outcome.result.stdout.str()


def test_a_measurement_is_a_check_like_others(project):
    outcome = in_gate(project, CALL.format(bound=0.5, subjects=SUBJECTS)).run()
    assert outcome.result.ret == 0, outcome.result.stdout.str()
    (check,) = outcome.report["checks"]
    assert (check["assertion"], check["comparison"], check["outcome"]) == ("assert_measurement", "fairness", "pass")
    assert {"candidate", "reference", "data"} <= check["subjects"].keys()
    assert project.run("--cp-baseline=new").result.ret == 0
    assert project.run("--cp-baseline=check").result.ret == 0


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (CALL.format(bound=0.0, subjects=SUBJECTS), "gap = "),
        (CALL.format(bound=0.5, subjects=SUBJECTS.replace("reference=reference", "reference=compressed")), "nothing"),
        (f"assert_measurement(found, [], compressed=compressed_model, {SUBJECTS})", "at least one Requirement"),
        (f"assert_measurement(found, 'gap <= 0.5', compressed=compressed_model, {SUBJECTS})", "no comparison gives it"),
        (
            f"assert_measurement(0.1, Requirement('gap', 'max', 0.5), compressed=compressed_model, {SUBJECTS})",
            "must be a",
        ),
        (
            CALL.format(bound=0.5, subjects=SUBJECTS).replace("found,", "Measurement('f', {'gap': 0.1}, {}),"),
            "no sample",
        ),
        (
            CALL.format(bound=0.5, subjects=SUBJECTS).replace(", compressed=", ", confidence=0.9, compressed="),
            "give each Requirement its own",
        ),
        ("pass", "call assert_comparison or assert_measurement"),
    ],
)
def test_a_measurement_fails_closed(project, body, told):
    outcome = in_gate(project, body).run()
    assert outcome.failed_everywhere
    assert told in outcome.result.stdout.str()


def test_a_look_at_a_measurement_does_not_fail(project):
    body = CALL.format(bound=0.0, subjects=SUBJECTS).replace("assert_m", "check_m")
    outcome = in_gate(project, f"assert not {body}.passed").run()
    assert outcome.result.ret == 0, outcome.result.stdout.str()
    assert outcome.report["checks"][0]["outcome"] == "fail"
