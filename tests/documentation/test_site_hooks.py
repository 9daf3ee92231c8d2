"""What the hooks of the site do to a page: links to objects, text to copy, names of the navigation."""

import importlib
import sys
import types
from pathlib import Path

import pytest

HOOKS = Path(__file__).resolve().parents[2] / "docs" / "hooks"


@pytest.fixture
def hook(monkeypatch):
    """A function that loads a hook by its name."""
    monkeypatch.syspath_prepend(str(HOOKS))

    def load(name):
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load


@pytest.mark.parametrize(
    ("shown", "copied"),
    [
        ("$ pytest -q\n2 passed\n\n$ ls\na b", ["pytest -q", "ls"]),
        ("$ run \\\n    --fast\nout \\\nmore", ["run \\", "    --fast"]),
        (">>> for x in y:\n...     print(x)\n...\n1\n>>> x", ["for x in y:", "    print(x)", "", "x"]),
    ],
)
def test_commands_are_copied_without_prompts_and_output(hook, shown, copied):
    assert hook("copied_code").commands_of(shown) == copied


def test_only_blocks_with_prompts_have_a_text_of_their_own(hook):
    block = '<div class="highlight"><pre><span></span><code><span class="{}">$ </span>a &lt; "b"\n</code></pre></div>'
    change = hook("copied_code").on_page_content
    assert 'data-copy="a &lt; &quot;b&quot;"' in change(block.format("gp"))
    assert change(block.format("k")) == block.format("k")


def test_names_lead_to_the_reference_once_a_paragraph(hook):
    change = hook("object_links").on_page_content
    name = "<code>compare_predictions()</code>"
    link = f'<a href="../reference/fidelity.html#cp_compress.fidelity.compare_predictions">{name}</a>'
    page = types.SimpleNamespace(url="explanation/x.html")
    same = (
        "<pre><code>compare_predictions</code></pre><h2><code>observe</code></h2><a href='#'><code>observe</code></a>"
    )
    text = f"<p>{name} and {name}</p><p>{name}, <code>no_such_name</code></p>{same}"
    expected = f"<p>{link} and {name}</p><p>{link}, <code>no_such_name</code></p>{same}"
    assert change(text, page) == expected
    page = types.SimpleNamespace(url="reference/fidelity.html")
    assert 'href="#cp_compress.fidelity.compare_predictions"' in change(f"<p>{name}</p>", page)


def test_parts_of_the_navigation_have_the_name_of_their_title(hook):
    part = (
        '<nav class="md-nav" data-md-level="1"{} aria-expanded="true">\n <label class="md-nav__title" for="__nav_2">\n'
        ' <span class="md-nav__icon md-icon"></span>\n Tutorial\n </label></nav>'
    )
    changed = hook("navigation_names").on_post_page(part.format(' aria-labelledby="__nav_2_label"'))
    assert changed == part.format(' aria-label="Tutorial"')
    nested = hook("navigation_names").on_post_page('<nav class="md-nav" aria-label="Two of one name"><ul></ul></nav>')
    assert nested == '<nav class="md-nav" role="none"><ul></ul></nav>'
    missing = hook("navigation_names").on_post_template
    page = part.format(' aria-labelledby="__nav_2_label"')
    assert missing(page, template_name="404.html") == changed
    assert missing(page, template_name="sitemap.xml") == page
