"""Writes the tables of the documentation that follow from declarations in the code: `make tables`.

What is between `<!-- generated: NAME -->` and `<!-- end generated -->` in a page is replaced by the table NAME.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from declared import TABLES
from markdown_parts import DOCS, relative_links

_REGION = re.compile(
    r"^(?P<start><!-- generated: (?P<name>[\w-]+)(?: (?P<argument>\w+))? -->)\n.*?^(?P<end><!-- end generated -->)$",
    re.MULTILINE | re.DOTALL,
)


def main() -> int:
    """Rewrite every page with a table that is out of date, and print its name."""
    for path, text in stale_pages().items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(DOCS.parent)}")
    return 0


def stale_pages() -> dict[Path, str]:
    """Return the pages with a table that is not what the code declares, each with the text that it should have."""
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
    current = {path: regenerate(text, path) for path, text in pages.items()}
    return {path: text for path, text in current.items() if text != pages[path]}


def regenerate(text: str, page: Path) -> str:
    """Return the text of a page with its tables made anew; raises KeyError for an unknown table."""

    def replace(found: re.Match[str]) -> str:
        made = TABLES[found["name"]](*filter(None, [found["argument"]]))
        return f"{found['start']}\n\n{relative_links(made, page)}\n\n{found['end']}"

    return _REGION.sub(replace, text)


if __name__ == "__main__":
    sys.exit(main())
