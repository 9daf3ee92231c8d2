"""Tables that follow from the code are what it declares today, and render on GitHub and on the site."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
START = re.compile(r"^<!-- generated: ([\w-]+)(?: \w+)? -->$", re.MULTILINE)


@pytest.fixture(scope="module")
def tables():
    """The module that writes the tables."""
    sys.path.insert(0, str(DOCS / "tables"))
    try:
        import generate

        yield generate
    finally:
        sys.path.remove(str(DOCS / "tables"))
        for name in ("generate", "declared", "markdown_parts"):
            sys.modules.pop(name, None)


def test_no_table_is_stale(tables):
    stale = [path.relative_to(ROOT).as_posix() for path in tables.stale_pages()]
    assert not stale, f"tables are out of date in {', '.join(stale)}: run make tables"


def test_every_table_is_on_a_page(tables):
    named = {name for path in DOCS.rglob("*.md") for name in START.findall(path.read_text(encoding="utf-8"))}
    assert named == set(tables.TABLES)


def test_a_table_is_made_anew_and_the_text_around_it_stays(tables):
    page = DOCS / "reference" / "options.md"
    kept = page.read_text(encoding="utf-8")
    changed = kept.replace("| `cp_seed` |", "| `cp_sead` |")
    assert changed != kept
    assert tables.regenerate(changed, page) == kept


def test_an_unknown_table_is_an_error(tables):
    with pytest.raises(KeyError, match="nothing"):
        tables.regenerate("<!-- generated: nothing -->\n<!-- end generated -->\n", DOCS / "index.md")


def test_rows_have_as_many_cells_as_their_head(tables):
    for made in (make() for name, make in tables.TABLES.items() if name not in ("command", "requirements")):
        for block in re.findall(r"(?:^\|.*\n?)+", made, re.MULTILINE):
            cells = {len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()}
            assert len(cells) == 1, block


def test_a_pipe_in_a_cell_is_written_for_github_and_shown_without_backslash_on_the_site(tables):
    markdown = pytest.importorskip("markdown")
    sys.path.insert(0, str(DOCS / "hooks"))
    try:
        from table_cells import on_page_content
    finally:
        sys.path.remove(str(DOCS / "hooks"))
    source = sys.modules["markdown_parts"].table(("scheme",), [("`prune(density=0.1) | quantize(float16)`",)])
    assert r"`prune(density=0.1) \| quantize(float16)`" in source
    shown = on_page_content(markdown.markdown(source, extensions=["tables"]))
    assert "<code>prune(density=0.1) | quantize(float16)</code>" in shown


def test_the_first_set_of_bounds_is_what_the_metrics_declare():
    from cp_compress.fidelity.judging.metrics import METRICS

    page = (DOCS / "how-to" / "which-bounds.md").read_text(encoding="utf-8")
    declared = {metric.argument: metric.start for table in METRICS.values() for metric in table.values()}
    shown = re.findall(r"^(m(?:in|ax)_\w+) = ([\d.]+)", page, re.MULTILINE)
    assert {argument for argument, _ in shown} >= {"min_agreement", "min_cka", "min_mean_iou", "max_median_change"}
    assert [(argument, float(value)) for argument, value in shown if declared[argument] != float(value)] == []
