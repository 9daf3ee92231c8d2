"""The site as it is opened from a disk: search, the copy button, code that fits, and what axe finds."""

import pytest
from browsers import SCHEMES, WIDTHS, chromium, violations

# text with figures, code with output, signatures with tables, equations; large pages take axe many seconds
PAGES = {
    1280: ("index.html", "tutorial/read-a-failure.html", "reference/artifacts.html"),
    390: ("tutorial/read-a-failure.html", "reference/artifacts.html", "explanation/predictions.html"),
}


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def opened(browser, site):
    """A function that opens a page; at the end there must have been no error and no request."""
    told, contexts = [], []

    def open_page(name, width=1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: told.append(request.url) if request.url.startswith("http") else None)
        page.goto((site / name).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert told == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing(opened, site, scheme, width):
    page = opened("index.html", width, color_scheme=scheme)
    for name in PAGES[width]:
        page.goto((site / name).as_uri())
        page.wait_for_load_state("load")
        page.wait_for_timeout(300)  # tables get their frames
        assert violations(page) == [], name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name


def test_search_finds_pages_from_a_disk(opened):
    page = opened("index.html")
    page.locator(".md-search__input").fill("procrustes")
    found = page.locator(".md-search-result__link")
    found.first.wait_for(timeout=20_000)
    assert any("reference/" in (one.get_attribute("href") or "") for one in found.all())


def test_the_copy_button_leaves_out_prompts_and_output(opened):
    page = opened("tutorial/read-a-failure.html")
    page.evaluate("document.addEventListener('copy', () => { window.copied = document.activeElement.value; }, true)")
    block = page.locator("div.highlight", has_text="2 requirements").first
    block.hover()
    block.locator("[data-clipboard-target]").click()
    assert page.evaluate("window.copied") == "pytest"


def test_code_fits_between_the_columns(opened):
    page = opened("contributing/add-a-codec.html")
    wide = page.evaluate(
        "Array.from(document.querySelectorAll('.md-typeset pre > code'))"
        ".filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.innerText.slice(0, 60))"
    )
    assert wide == []
