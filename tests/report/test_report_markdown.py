"""Texts show in Markdown as they are: seen with a Markdown parser, and without what GitHub does to them."""

import html
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cp_compress.base.error_reasons import printable_line
from pytest_cp.report.markdown import render_markdown

markdown_it = pytest.importorskip("markdown_it")
PARSER = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
NOTHING = "\u200b"  # a space of no width
NASTY = [
    "~~struck~~ @octocat #12 https://evil.example www.evil.example a@b.example",
    "test_x.py::test_[a|b] `tick` <b>n|ight</b> &lt; 1 * 2",
    "- no item",
    "+ no item",
    "12. no item",
    "# no heading #",
    "> no quotation",
    "::error file=a.py::##[group] \x1b[1A\u202e",
    "---",
]


def document(text):
    check = {
        "outcome": "fail",
        "assertion": "assert_it",
        "asserted": True,
        "waivers": [],
        "baseline_problems": [],
        "baseline": None,
        "requirements": [],
        "decisive": None,
        "error": text,
        "test": text,
        "subjects": {"candidate": {"name": text}},
        "details": {},
        "examples": [{"index": 12, "label": text, "before": text, "after": text}],
        "origin": None,
        "notes": [text],
        "comparison": None,
        "metrics": {},
    }
    return {
        "exit_status": 1,
        "outcomes": {"fail": 1},
        "checks": [check],
        "not_compared": [{"test": text, "reason": text}],
        "waivers": [],
        "provenance": {text: text},
        "sections": [{"title": text, "text": f"{text}\n{text}"}],
        "notes": [text],
    }


def shown(rendered, tag):
    """Return the texts of all elements of a kind, as a reader sees them."""
    return [
        html.unescape(re.sub("<[^<>]*>", "\n", found)) for found in re.findall(f"<{tag}>(.*?)</{tag}>", rendered, re.S)
    ]


words = st.text(st.sampled_from("ab1 -+#>.)~`*_[]()<&|\\!@:/=wW"), min_size=1, max_size=12).filter(str.strip)


@given(words)
@settings(max_examples=60)
@example(NASTY[0])
@example(NASTY[1])
@example(NASTY[2])
@example(NASTY[3])
@example(NASTY[4])
@example(NASTY[5])
@example(NASTY[6])
@example(NASTY[7])
@example(NASTY[8])
def test_texts_show_as_they_are(text):
    rendered = PARSER.render(render_markdown(document(text)))
    seen = {
        tag: [each.replace(NOTHING, "") for each in shown(rendered, tag)] for tag in ("summary", "li", "h3", "p", "td")
    }
    plain = printable_line(" ".join(text.split()))
    assert seen["summary"] == [f"fail: {plain}"]
    assert seen["h3"] == [plain]
    assert f"{plain}\n{plain}" in seen["p"]
    change = printable_line(" ".join(f"#12 (label {text}): {text} → {text}".split()))
    assert {plain, f"note: {plain}", change, f"{plain}: {plain}"} <= set(seen["li"])
    assert "\x1b" not in rendered
    assert seen["td"][-1] == plain
    assert not re.search("<(a|s|em|strong|code|blockquote|ol|h1|h4|hr)[ />]", rendered)


def test_nothing_that_github_links_or_calls_is_left():
    rendered = PARSER.render(render_markdown(document(NASTY[0])))
    assert not re.search(r"@\w|#\d|://|www\.", html.unescape(rendered))
