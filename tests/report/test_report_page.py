"""The HTML report in a real browser: sorting, filtering, keyboard, colours, print; no network and no errors."""

import pytest
from browsers import SCHEMES, WIDTHS, chromium, violations
from forks import run_pytest

WIDE, NARROW = {"width": 1180, "height": 900}, {"width": 400, "height": 900}


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of one real run."""
    from report_subjects import SPECIFICATION

    folder = tmp_path_factory.mktemp("page")
    (folder / "gate.toml").write_text(SPECIFICATION)
    (folder / "pytest.ini").write_text("[pytest]\n")
    gate = ("--pyargs", "pytest_cp.gate", "--cp-spec=gate.toml")
    run_pytest("-q", *gate, "--cp-report-html=report.html", folder=folder)
    return folder / "report.html"


def is_remote(url):
    return not url.startswith(("file:", "data:"))


@pytest.fixture
def opened(browser, report):
    """A function that opens the page; at the end there must have been no error and no request."""
    told, contexts = [], []

    def open_page(url=None, **options):
        context = (
            browser.new_context(viewport=WIDE, **options)
            if "viewport" not in options
            else browser.new_context(**options)
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: told.append(request.url) if is_remote(request.url) else None)
        page.goto(url or report.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert told == []


def column(page, number):
    page.locator("details.all-checks").evaluate("one => { one.open = true; }")
    cells = page.locator("#check-table tbody tr:visible")
    return [cells.nth(row).locator("td").nth(number).inner_text() for row in range(cells.count())]


def headrooms(page):
    """Return the values of the column by which it is sorted, those that have one."""
    cells = page.locator("#check-table tbody tr td:nth-child(7)[data-value]:not([data-value=''])")
    return [float(value) for value in cells.evaluate_all("all => all.map(one => one.dataset.value)")]


def test_sorting_by_number_and_back(opened):
    page = opened()
    assert len(column(page, 0)) == 8
    found = page.get_by_role("button", name="headroom")
    found.click()
    values = headrooms(page)
    assert len(values) > 3
    assert values == sorted(values)
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("headroom")
    found.click()
    assert headrooms(page) == sorted(values, reverse=True)
    assert page.locator("th[aria-sort=descending]").count() == 1


def test_filters_combine_words_hide_chapters_and_stay_in_the_address(opened):
    page = opened()
    everything = len(column(page, 0))
    chapters = page.locator("details.chapter:visible")
    assert chapters.count() == 3
    page.get_by_label("Words").fill("JPEG  boundaries")
    shown = column(page, 9)
    assert 0 < len(shown) < everything
    assert all("jpeg" in text and "boundaries" in text for text in shown)
    assert chapters.count() == 1
    page.get_by_label("Outcome").select_option("waived")
    assert len(column(page, 0)) == 1
    assert page.locator("#filter-count").inner_text() == f"1 of {everything} checks"
    again = opened(url=page.url)
    assert again.locator("#filter-count").inner_text() == f"1 of {everything} checks"
    assert again.get_by_label("Words").input_value() == "JPEG  boundaries"
    again.locator(".filters a").click()
    assert again.get_by_label("Outcome").input_value() == "waived"
    again.get_by_label("Outcome").select_option("error")
    assert again.locator("details.chapter:visible").count() == 0


def test_words_of_a_heading_other_than_the_name_keep_only_the_cards_that_have_them(opened):
    page = opened()
    heading = page.locator("details.chapter > summary", has_text="first at").first.inner_text()
    metric = heading.partition("first at ")[2].partition(": ")[2].split()[0]
    page.get_by_label("Words").fill(metric)
    kept = "all => all.map(one => (one.textContent + document.getElementById(one.dataset.check).textContent))"
    texts = page.locator("details.chapter tr[data-check]:not([hidden])").evaluate_all(kept)
    assert texts
    assert all(metric in text for text in texts)
    page.get_by_label("Words").fill(page.locator("details.chapter").first.get_attribute("data-name"))
    assert page.locator("details.chapter").first.locator("tr[hidden]").count() == 0


def test_the_matrix_is_on_the_first_screen_and_leads_to_its_checks(opened):
    page = opened(viewport={"width": 1280, "height": 800})
    advice, matrix = page.locator(".advice").first, page.locator("table.cells").first
    assert "may ship: " in advice.inner_text()
    box = matrix.bounding_box()
    assert box["y"] + box["height"] < 800
    page.get_by_role("button", name="Collapse all").click()
    assert page.locator("details[open].chapter, details[open].check").count() == 0
    matrix.locator("td a.fail").first.click()
    page.wait_for_function("document.activeElement.tagName === 'SUMMARY'")
    assert page.locator("details.chapter[open]").count() == 1
    page.get_by_role("button", name="Expand all").click()
    assert page.locator("details.chapter:not([open]), details.chapter details:not([open])").count() == 0


def test_value_bound_and_outcome_are_seen_on_a_telephone(opened):
    page = opened(viewport={"width": 390, "height": 844})
    page.get_by_role("button", name="Expand all").click()
    for cell in page.locator(
        "table.checks td[data-label=outcome], table.checks td[data-label=found], td[data-label=required]"
    ).all():
        box = cell.bounding_box()
        assert 0 <= box["x"] <= box["x"] + box["width"] <= 390
    assert page.locator("table.sizes").count() > 0
    for cell in page.locator("table.sizes td.n:visible").all():
        assert cell.bounding_box()["x"] + cell.bounding_box()["width"] <= 390


def test_everything_can_be_reached_by_keyboard(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.locator("#filter-text").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "expand-all"
    page.locator(".all-checks summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")  # the region that scrolls
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort=ascending]").count() == 1
    page.locator("#check-table a").last.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.tagName === 'SUMMARY'")
    assert page.evaluate("document.activeElement.parentElement.open")


CONTRAST = """
() => {
  const rgb = colour => colour.match(/[0-9.]+/g).slice(0, 3).map(Number);
  const light = parts => { const [r, g, b] = parts.map(v => { v /= 255;
    return v <= 0.03928 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4); });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = element => { for (let one = element; one; one = one.parentElement) {
    const colour = getComputedStyle(one).backgroundColor;
    if (colour !== "rgba(0, 0, 0, 0)") { return colour; } } return "rgb(255, 255, 255)"; };
  const worst = [];
  for (const element of document.querySelectorAll("main *, header *")) {
    if (!element.innerText || !element.innerText.trim() || element.closest(".skip")) { continue; }
    const a = light(rgb(getComputedStyle(element).color)), b = light(rgb(ground(element)));
    worst.push((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return Math.min(...worst);
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(opened, scheme):
    page = opened(color_scheme=scheme)
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    assert page.evaluate(CONTRAST) >= 4.5


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_page_itself_never_scrolls_sideways(opened, viewport):
    page = opened(viewport=viewport)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_print_opens_chapters_and_what_does_not_pass_and_hides_controls(opened):
    page = opened()
    page.get_by_role("button", name="Collapse all").click()
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("details.chapter:not([open])").count() == 0
    assert page.locator("details.check:not([open]):not([data-outcome=pass])").count() == 0
    assert not page.locator(".filters").is_visible()
    page.set_viewport_size({"width": 718, "height": 1000})  # as wide as a sheet: tables stay tables
    shown = "all => [...new Set(all.map(one => getComputedStyle(one).display))]"
    assert set(page.locator("table.stacked td").evaluate_all(shown)) == {"table-cell", "none"}
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details.chapter[open]").count() == 0


def test_pictures_are_drawn(opened):
    page = opened()
    every = "Array.from(document.querySelectorAll('.picture .layer')).every"
    drawn = page.evaluate(every + "(one => getComputedStyle(one).backgroundImage.startsWith('url(\"data:'))")
    assert drawn
    assert page.locator(".picture").count() > 0


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing(opened, scheme, width):
    assert violations(opened(color_scheme=scheme, viewport={"width": width, "height": 900})) == []
