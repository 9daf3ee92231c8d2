"""A Chromium for tests of pages, and what axe finds on a page."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: browser)")

SCHEMES, WIDTHS = ("light", "dark"), (1280, 390)
_SYSTEM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser: the one that CHROMIUM names, the system's, or Playwright's own; skip where there is none."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _SYSTEM)), None)
    with playwright.sync_playwright() as driver:
        try:
            running = driver.chromium.launch(executable_path=path, args=_ARGUMENTS)
        except playwright.Error as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        yield running
        running.close()


def violations(page: Any) -> list[str]:
    """Return what axe finds on a page as it is shown, a line for each element; closed parts are opened before."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed (extra: browser)")
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {node['target']} {' '.join((node['failureSummary'] or '').split())[:300]}"
        for rule in found
        for node in rule["nodes"]
    ]
