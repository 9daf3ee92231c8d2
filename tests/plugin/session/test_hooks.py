"""The hooks: the example of each works as its documentation has it, and what is no extension is refused."""

import html
import inspect
import json
import re
import textwrap
from types import SimpleNamespace

import pytest

from pytest_cp import hookspecs
from pytest_cp.session.extending import add_extensions, complete_document

IMPORTS = """
import copy, dataclasses, io, os
import numpy as np
import torch
from cp_compress.fidelity import AttributionMethod, Comparison, Directions, Measurement, Metric
"""
GATE = """
def test_gate(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)
"""


def example(name):
    found = re.search(r"```python\n(.*?)```", inspect.getdoc(getattr(hookspecs, name)), flags=re.DOTALL)
    return IMPORTS + textwrap.dedent(found[1])


@pytest.fixture
def with_conftest(project):
    """A project, and a function that adds to its conftest.py."""

    def add(text):
        path = project.path / "conftest.py"
        path.write_text(path.read_text() + text)
        return project

    return add


def test_every_hook_has_its_test():
    hooks = {name for name in vars(hookspecs) if name.startswith("pytest_cp_")}
    assert hooks == {
        "pytest_cp_schemes",
        "pytest_cp_codecs",
        "pytest_cp_attribution_methods",
        "pytest_cp_directions",
        "pytest_cp_comparisons",
        "pytest_cp_provenance",
        "pytest_cp_report_sections",
    }


@pytest.mark.parametrize("arguments", [(), ("-n2",)], ids=["serial", "xdist"])
def test_a_scheme_of_ones_own(with_conftest, arguments):
    project = with_conftest(example("pytest_cp_schemes"))
    project.write_test(GATE)
    schemes = ("--cp-scheme=shrink(factor=0.9)", "--cp-scheme=shrink(factor=0.5) | prune(density=0.5)")
    outcome = project.run(*schemes, *arguments, subprocess=True)
    assert outcome.result.ret == 0, outcome.result.stdout.str()
    tests = {check["test"].partition("[")[2] for check in outcome.report["checks"]}
    assert tests == {"shrink(factor=0.9)]", "shrink(factor=0.5) | prune(density=0.5)]"}
    names = {check["subjects"]["candidate"]["name"] for check in outcome.report["checks"]}
    assert names == {"shrink(factor=0.9)", "shrink(factor=0.5) | prune(density=0.5)"}
    outcome.result.stdout.fnmatch_lines(["pass *agreement*", "* = shrink(factor=0.9): *"])


def test_a_model_of_a_scheme_of_ones_own_in_the_references_place_is_noticed(with_conftest):
    project = with_conftest(example("pytest_cp_schemes"))
    project.write_test("""
def test_swapped(compressed_model, reference_model, dataset):
    assert_preserved_predictions(reference_model, compressed_model, dataset, min_agreement=0.1)
""")
    outcome = project.run("--cp-scheme=shrink(factor=0.9)", subprocess=True)
    assert outcome.failed_everywhere
    outcome.result.stdout.fnmatch_lines(["*the compressed model must be the first*"])


def test_a_scheme_of_ones_own_that_changes_nothing_compares_nothing(with_conftest):
    wrapping = example("pytest_cp_schemes").replace("return changed", "return torch.nn.Sequential(model)")
    project = with_conftest(wrapping)
    project.write_test(GATE)
    outcome = project.run("--cp-scheme=shrink(factor=0.9)", subprocess=True)
    assert outcome.failed_everywhere
    outcome.result.stdout.fnmatch_lines(["*NothingComparedError: *bit for bit*"])


def test_a_scheme_of_ones_own_that_returns_the_model_given_is_refused(with_conftest):
    project = with_conftest(example("pytest_cp_schemes").replace("copy.deepcopy(model)", "model"))
    project.write_test(GATE)
    outcome = project.run("--cp-scheme=shrink(factor=0.9)", subprocess=True)
    assert outcome.failed_everywhere
    outcome.result.stdout.fnmatch_lines(["*returned the model that it was given*"])


def test_a_scheme_of_ones_own_cannot_change_the_reference(with_conftest):
    """One that edits what it is given must not be compared with a reference that it has destroyed."""
    project = with_conftest(
        IMPORTS
        + """
@dataclasses.dataclass(frozen=True)
class Damage:
    expression_name = "damage"
    positional_fields = ()

    def compress(self, model):
        for parameter in model.parameters():
            parameter.data.copy_(torch.randn_like(parameter))
        return copy.deepcopy(model)

def pytest_cp_schemes():
    return [Damage]
"""
    )
    project.write_test(GATE.replace("min_agreement=0.1", "min_agreement=0.97"))
    schemes = ("--cp-scheme=prune(density=0.9)", "--cp-scheme=damage | prune(density=0.9)")
    outcome = project.run(*schemes, subprocess=True)
    assert {check["outcome"] for check in outcome.report["checks"] if "damage" in check["test"]} == {"fail"}
    assert {check["outcome"] for check in outcome.report["checks"] if "damage" not in check["test"]} == {"pass"}


def test_another_code_of_the_same_scheme_is_not_taken_from_the_disk(with_conftest):
    project = with_conftest(example("pytest_cp_schemes"))
    project.write_test(
        GATE.replace("min_agreement=0.1)", "max_mean_logit_distance=1e9)").replace("def test", "def test", 1)
    )
    first = project.run("--cp-scheme=shrink(factor=0.9)", subprocess=True).report["checks"][0]
    path = project.path / "conftest.py"
    path.write_text(path.read_text().replace("parameter.mul_(self.factor)", "parameter.mul_(self.factor / 2)"))
    second = project.run("--cp-scheme=shrink(factor=0.9)", subprocess=True).report["checks"][0]
    assert first["metrics"]["mean_logit_distance"] != second["metrics"]["mean_logit_distance"]


def test_a_codec_of_ones_own(with_conftest):
    project = with_conftest(example("pytest_cp_codecs"))
    project.write_test("""
def test_gate(compressed_dataset, reference_model, dataset):
    assert_preserved_predictions(reference_model, reference_model, dataset,
                                 compressed_dataset=compressed_dataset, min_agreement=0.1)
""")
    outcome = project.run("--cp-codec=half", subprocess=True)
    assert outcome.result.ret == 0, outcome.result.stdout.str()
    assert outcome.report["checks"][0]["subjects"]["compressed_data"]["name"] == "half()"


@pytest.mark.parametrize("arguments", [(), ("-n2",)], ids=["serial", "xdist"])
def test_an_attribution_method_of_ones_own(with_conftest, arguments):
    project = with_conftest(example("pytest_cp_attribution_methods"))
    project.write_test("""
@pytest.mark.compress_model("prune(density=0.4)")
@pytest.mark.parametrize("method", ["probability_gradient(temperature=2.0)", "probability", "saliency"])
def test_gate(compressed_model, reference_model, dataset, method):
    assert_attribution_iou(compressed_model, reference_model, dataset, method=method, min_mean_iou=0.01)
""")
    outcome = project.run(*arguments, subprocess=True)
    assert outcome.junit["failures"] == 1
    assert "'probability'; did you mean probability_gradient" in outcome.junit_messages[0]
    assert "probability_gradient" in outcome.junit_messages[0]
    passed = {check["details"]["method"]: check for check in outcome.report["checks"] if check["outcome"] == "pass"}
    assert set(passed) == {"probability_gradient(temperature=2.0)", "saliency()"}
    values = {check["metrics"]["mean_iou"] for check in passed.values()}
    assert len(values) == 2


def test_directions_of_ones_own(with_conftest):
    project = with_conftest(example("pytest_cp_directions"))
    project.write_test("""
@pytest.mark.compress_model("prune(density=0.4)")
@pytest.mark.parametrize("name", ["axes", "axis"])
def test_gate(compressed_model, reference_model, dataset, name):
    assert_boundary_distance(compressed_model, reference_model, dataset, directions=name, examples=5,
                             max_censored_fraction=1.0)
""")
    outcome = project.run(subprocess=True)
    assert outcome.junit["failures"] == 1
    assert "must be one of gate, worst, benign, axes" in outcome.junit_messages[0]
    (passed,) = [check for check in outcome.report["checks"] if check["outcome"] == "pass"]
    assert passed["details"]["directions"] == 8
    assert {row["family"] for row in passed["details"]["families"]} == {"axes"}


@pytest.mark.parametrize("arguments", [(), ("-n2",)], ids=["serial", "xdist"])
def test_provenance_and_sections_are_in_every_report(with_conftest, arguments, monkeypatch):
    monkeypatch.setenv("GIT_COMMIT", "abc123")
    project = with_conftest(example("pytest_cp_provenance") + example("pytest_cp_report_sections"))
    project.write_test(GATE)
    reports = ("--cp-report-html=page.html", "--cp-report-markdown=page.md", "--cp-scheme=prune(density=0.4)")
    outcome = project.run(*reports, *arguments, subprocess=True)
    assert outcome.report["provenance"] == {"model card": "https://models.example/7", "commit": "abc123"}
    assert outcome.report["sections"] == [{"title": "Who decides", "text": "0 failures go to the release meeting."}]
    assert "0 failures go to the release meeting" in (project.path / "page.md").read_text()
    shown = (project.path / "page.md").read_text().replace("&#8203;", "")  # what keeps GitHub from linking
    assert "- model card: https://models.example/7" in shown
    assert "- commit: abc123" in (project.path / "page.md").read_text()
    page = (project.path / "page.html").read_text()
    assert "Who decides" in page
    assert "abc123" in page


def test_a_hook_that_fails_loses_no_report(with_conftest):
    project = with_conftest("\ndef pytest_cp_report_sections(document):\n    raise RuntimeError('oops')\n")
    project.write_test(GATE)
    outcome = project.run("--cp-scheme=prune(density=0.4)", subprocess=True)
    assert outcome.result.ret == 0
    assert any("oops" in note for note in outcome.report["notes"])


@pytest.mark.parametrize(
    ("hook", "returned", "told"),
    [
        ("schemes", "[object]", "expression_name"),
        ("schemes", "[type('A', (), {'expression_name': 'a'})]", "frozen dataclass"),
        ("schemes", "[cp_compress.model.Prune]", "taken"),
        ("codecs", "[type('A', (), {'expression_name': 'a b'})]", "identifier"),
        ("attribution_methods", "[object]", "subclass of cp_compress.fidelity.AttributionMethod"),
        ("attribution_methods", "[cp_compress.fidelity.Saliency]", "saliency*taken"),
        ("attribution_methods", "[cp_compress.fidelity.AttributionMethod]", "defines attribute"),
        ("directions", "{'gate': print}", "taken"),
        ("directions", "{'mine': 3}", "function"),
    ],
)
def test_what_is_no_extension_is_refused(with_conftest, hook, returned, told):
    project = with_conftest(
        f"\nimport cp_compress.fidelity, cp_compress.model\ndef pytest_cp_{hook}():\n    return {returned}\n"
    )
    project.write_test(GATE)
    outcome = project.run(subprocess=True)
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR
    outcome.result.stderr.fnmatch_lines([f"*{told}*"])


NO_LIST = [("schemes", "shrink"), ("schemes", 3), ("codecs", {}), ("directions", [print]), ("directions", "axes")]
NO_LIST += [("attribution_methods", "saliency"), ("attribution_methods", object)]


@pytest.mark.parametrize(("hook", "value"), NO_LIST)
def test_a_hook_that_returns_something_else_is_told(hook, value):
    kinds = ("schemes", "codecs", "attribution_methods", "directions")
    returned: dict = {f"pytest_cp_{kind}": [] for kind in kinds}
    returned[f"pytest_cp_{hook}"] = [value]
    hooks = SimpleNamespace(**{name: lambda found=found: found for name, found in returned.items()})
    with pytest.raises(pytest.UsageError, match=rf"pytest_cp_{hook} returned .*: must be a (list|mapping) of"):
        add_extensions(SimpleNamespace(hook=hooks, stash={}))


@pytest.mark.parametrize(
    ("facts", "sections", "told"),
    [(["x"], [], "pytest_cp_provenance returned ['x']"), ({}, "text", "returned 'text': must be a list of sections")],
)
def test_what_a_hook_adds_to_a_report_must_be_what_is_asked_for(facts, sections, told):
    hooks = {"pytest_cp_provenance": lambda config: [facts], "pytest_cp_report_sections": lambda document: [sections]}
    document = {"notes": []}
    complete_document(SimpleNamespace(hook=SimpleNamespace(**hooks)), document)
    assert told in document["notes"][0]


def test_a_hook_cannot_change_the_report():
    def meddle(document):
        document["checks"][0]["outcome"] = "pass"
        return [[{"title": "mine", "text": "all is well"}]]

    hooks = SimpleNamespace(pytest_cp_provenance=lambda config: [], pytest_cp_report_sections=meddle)
    document = {"notes": [], "checks": [{"outcome": "fail"}]}
    complete_document(SimpleNamespace(hook=hooks), document)
    assert document["checks"] == [{"outcome": "fail"}]
    assert document["sections"] == [{"title": "mine", "text": "all is well"}]


def test_junit_properties_where_the_user_asks(project):
    project.pytester.makeini("[pytest]\ncp_junit_properties = true\n")
    project.write_test(GATE)
    project.run("--cp-scheme=prune(density=0.4)")
    text = (project.path / "junit.xml").read_text()
    assert '<property name="cp.agreement.bound" value="0.1"' in text
    assert '<property name="cp.agreement.outcome" value="pass"' in text


def test_pytest_html_shows_the_checks(project):
    project.write_test(GATE)
    project.run("--cp-scheme=prune(density=0.4)", "--html=other.html", "--self-contained-html", subprocess=True)
    page = html.unescape((project.path / "other.html").read_text(encoding="utf-8"))
    data = json.loads(re.search(r'data-jsonblob="(\{.*?\})"></div>', page, flags=re.DOTALL)[1])
    (test,) = data["tests"].values()
    assert "agreement ≥ 0.1" in json.dumps(test, ensure_ascii=False)
