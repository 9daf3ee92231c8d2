"""HTML, Markdown and JSON reports of real runs: what they hold, what they must not, and how they are written."""

import base64
import html.parser
import io
import json
import re

import jsonschema
import numpy as np
import pytest
import torch
from forks import run_program
from PIL import Image
from report_subjects import HIDDEN, HOSTILE, with_hostile_texts
from schemas import assert_published

from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import compare_attributions, compare_boundaries, compare_predictions, observe
from cp_compress.model import Prune
from pytest_cp.checks.evidence import gather_evidence
from pytest_cp.report.markdown import render_markdown
from pytest_cp.report.page import render_page
from pytest_cp.report.schema import document_schema

VOID = {"meta", "link", "br", "input", "img", "line", "hr"}


class Page(html.parser.HTMLParser):
    """The elements of a page; closing tags must match."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One run of the gate for all tests that only read: its reports' texts and the JSON document."""
    import os

    from report_subjects import SPECIFICATION

    folder = tmp_path_factory.mktemp("gate")
    (folder / "gate.toml").write_text(SPECIFICATION)
    (folder / "pytest.ini").write_text("[pytest]\n")
    summary = folder / "summary.md"
    reports = [f"--cp-report-{kind}=out/report.{kind}" for kind in ("html", "markdown", "json")]
    arguments = ("--pyargs", "pytest_cp.gate", "--cp-spec=gate.toml", *reports, "-n2")
    run_program("pytest", *arguments, folder=folder, environment=os.environ | {"GITHUB_STEP_SUMMARY": str(summary)})
    texts = {kind: (folder / "out" / f"report.{kind}").read_text() for kind in ("html", "markdown", "json")}
    return texts | {"document": json.loads(texts["json"]), "summary": summary.read_text()}


def test_the_page_shows_verdict_checks_and_evidence(written):
    page = Page(written["html"])
    assert "Not preserved: " in page.text
    document = written["document"]
    rows = [attributes for tag, attributes in page.elements if tag == "tr" and "data-outcome" in attributes]
    assert len(rows) == 2 * len(document["checks"]) == 16  # in its chapter, and in the table of all
    assert sum(row["data-outcome"] == "waived" for row in rows) == 2
    assert "until 2999-01-01" in written["html"] or "2999-01-01" in page.text
    titles = page.text
    for part in ("Known deviations", "Accuracy against size", "Predictions that changed", "Environment", "Provenance"):
        assert part in titles
    pictures = [attributes for tag, attributes in page.elements if "picture" in (attributes.get("class") or "").split()]
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in pictures)
    assert len(pictures) > 10


def test_the_page_fetches_nothing(written):
    page = Page(written["html"])
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "img")
        assert not (tag == "script" and "src" in attributes)
        assert not (attributes.get("href") or "#").startswith(("http", "//"))
    assert not re.search(r"url\((?!data:)", written["html"])
    assert "https://" not in re.sub(r"<pre>.*?</pre>", "", written["html"])


def test_tables_and_figures_are_told_to_screen_readers(written):
    page = Page(written["html"])
    heads = [attributes for tag, attributes in page.elements if tag == "th"]
    assert all(attributes.get("scope") in ("col", "row") for attributes in heads)
    assert all(attributes.get("aria-label") for tag, attributes in page.elements if tag == "svg")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        if (attributes.get("href") or "").startswith("#"):
            assert attributes["href"][1:] in ids


def test_documents_follow_the_published_schema(written):
    jsonschema.validate(written["document"], document_schema())
    assert_published("pytest_cp.report", "document.schema.json")


def test_a_document_without_its_parts_does_not_follow_the_schema(written):
    for key in ("checks", "waivers", "exit_status"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(
                {name: value for name, value in written["document"].items() if name != key}, document_schema()
            )


def test_texts_cannot_break_out(written):
    document = with_hostile_texts(written["document"])
    page = Page(render_page(document))
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert not any(tag == "img" for tag, _ in page.elements)
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert HOSTILE in page.text
    markdown = render_markdown(document)
    assert not any(sign in page.text + markdown for sign in HIDDEN[::5])
    assert "\\u202e" in page.text
    assert "<script" not in markdown
    assert "[a](" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows[-8:]}) == 1


def test_markdown_lists_every_check_and_what_failed(written):
    text = written["markdown"]
    assert text.startswith("## ❌ Not preserved")
    (table,) = [part for part in text.split("\n\n") if part.startswith("| outcome ")]
    assert table.count("\n| ") == 8
    assert text.count("<details>") == sum(check["outcome"] != "pass" for check in written["document"]["checks"])
    assert "waiver: median\\_change" in text
    assert written["summary"] == text


@pytest.mark.parametrize(
    ("status", "outcomes", "told"),
    [
        (0, ["pass", "pass"], "✅ Preserved: all 2 checks hold"),
        (1, ["fail", "pass", "error"], "❌ Not preserved: 1 fail, 1 error"),
        (1, ["pass", "missing"], "❌ Failed: some gates compared nothing"),
        (1, ["pass"], "❌ Failed: other tests failed"),
        (3, ["pass"], "❌ Failed: pytest ended with exit status 3"),
        (2, ["pass"], "❌ Interrupted: the results are incomplete"),
        (0, ["fail not asserted", "pass"], "⚠️ Preserved: all 1 asserted checks hold; not asserted: 1 fail"),
        (0, ["pass not asserted", "pass"], "✅ Preserved: all 1 checks hold"),
        (0, ["pass not asserted"], "✅ Passed: no check was asserted"),
        (0, ["fail"], "❌ Not preserved: 1 fail"),
        (0, ["fail not asserted", "error not asserted"], "⚠️ No check was asserted: 1 fail, 1 error"),
    ],
)
def test_page_and_markdown_give_one_verdict(written, status, outcomes, told):
    (check,) = [check for check in written["document"]["checks"] if check["outcome"] == "pass"][:1]
    checks = [
        check | {"outcome": outcome.split()[0], "asserted": "not" not in outcome, "evidence": None}
        for outcome in outcomes
        if outcome != "missing"
    ]
    missing = [{"test": "test_gate", "reason": "did not run"}] * outcomes.count("missing")
    document = written["document"] | {"exit_status": status, "checks": checks, "not_compared": missing}
    assert render_markdown(document).startswith(f"## {told}\n")
    assert f"</span> {told.partition(' ')[2]}</h1>" in render_page(document)


def test_long_markdown_is_cut_below_what_github_takes(written):
    document = written["document"] | {"notes": ["ä" * 1000] * 2000}
    assert len(render_markdown(document).encode()) < 1_000_000


def test_many_images_stay_within_the_budget(written):
    document = json.loads(written["json"])
    noise = [base64.b64encode(bytes([number % 256, number // 256]) * 40_000).decode() for number in range(80)]
    (check,) = [check for check in document["checks"] if check["evidence"] and check["evidence"]["examples"]][:1]
    check["evidence"]["examples"] = [check["evidence"]["examples"][0] | {"image": content} for content in noise]
    text = render_page(document)
    assert len(text) < 1_000_000
    assert "examples are left out" in text


@pytest.fixture(scope="module")
def pair():
    model = digits_cnn()
    return observe(Prune(0.1).compress(model), digits()), observe(model, digits())


def test_pictures_are_the_examples(pair):
    candidate, reference = pair
    measurement = compare_predictions(candidate, reference)
    evidence = gather_evidence(measurement, candidate, reference)
    assert evidence["notes"] == []
    row = evidence["examples"][0]
    image = Image.open(io.BytesIO(base64.b64decode(row["image"])))
    pixels = torch.from_numpy(np.array(image))
    assert torch.equal(pixels, (digits()[row["index"]][0][0] * 255).round().long())
    assert row["decoded"] is None
    found = compare_attributions(candidate, reference, examples=[row["index"]])
    assert row["iou"] == pytest.approx(float(found.per_example["iou"][0]), abs=1e-4)


def test_distances_are_those_of_the_measurement(pair):
    candidate, reference = pair
    measurement = compare_boundaries(candidate, reference, "benign", examples=4, max_distance=2.0)
    distances = gather_evidence(measurement, candidate, reference)["distances"]
    before = measurement.per_example["reference_distance"].flatten()
    known = ~torch.isnan(measurement.per_example["candidate_distance"].flatten()) & ~torch.isnan(before)
    assert distances["rays"] == int(known.sum())
    finite = [float(value) for value in before[known] if torch.isfinite(value)]
    assert [value for value in distances["before"] if value is not None] == pytest.approx(finite, rel=1e-4)


def test_inputs_that_are_no_images_are_printed():
    inputs = torch.arange(24.0).reshape(6, 4)
    first, second = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
    data = (inputs, torch.zeros(6, dtype=torch.long))
    candidate, reference = observe(lambda batch: -first(batch), data), observe(first, data)
    evidence = gather_evidence(compare_predictions(candidate, reference), candidate, reference)
    assert evidence["examples"][0]["text"].startswith("[")
    assert second is not None


def test_a_model_without_gradients_is_shown_without_maps(pair):
    _, reference = pair
    candidate = observe(lambda batch: -reference.model(batch).detach(), digits())
    evidence = gather_evidence(compare_predictions(candidate, reference), candidate, reference)
    assert evidence["examples"][0]["image"]
    assert "reference_map" not in evidence["examples"][0]
    assert any("attribution maps cannot be shown" in note for note in evidence["notes"])


def test_without_a_page_no_evidence_is_gathered(project):
    project.write_test("""
@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)
""")
    assert project.run().report["checks"][0]["evidence"] is None
    shown = project.run("--cp-report-html=page.html").report["checks"][0]["evidence"]
    assert shown["examples"][0]["text"]
    assert shown["sizes"]["candidate"]["model"]["parameters"] > 0


def test_reports_may_not_share_a_file(project):
    project.write_test("def test_x():\n    pass\n")
    outcome = project.run("--cp-report-html=report.json", "--cp-report-markdown=report.json")
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR


def test_a_run_without_checks_has_a_page_that_says_so(project):
    project.write_test('@pytest.mark.skip(reason="no data")\ndef test_x(compressed_model):\n    pass\n')
    project.run("--cp-report-html=page.html")
    page = Page((project.path / "page.html").read_text())
    assert "no data" in page.text
    assert "No checks were made" in page.text
