"""The card of one check, as the HTML report shows it, for the output of a notebook."""

from __future__ import annotations

import html
import re
from typing import Any

from cp_compress.base.environment import describe_environment
from pytest_cp.checks.recorder import Record
from pytest_cp.report.document import count_outcomes, count_verdicts, dated
from pytest_cp.report.page import render_page

_TAGS = re.compile(r"<(/?)details\b")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_HEIGHT = "30em"


def render_card(record: Record) -> str:
    """Return HTML that shows a record's card in a frame of its own, whose styles leave the notebook as it is."""
    page = render_page(_document({"test": record["assertion"], **record}))
    style = page.partition("<style>")[2].partition("</style>")[0]
    told = html.escape(record["decisive"] or record["error"] or record["assertion"])
    head = (
        '<meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><title>{told}</title><style>{style}</style>'
    )
    body = f"<body><main>{_opened(_element(page))}</main></body>"
    inner = html.escape(f'<!doctype html><html lang="en"><head>{head}</head>{body}</html>', quote=True)
    frame = f'<iframe sandbox title="{told}" style="width:100%;height:{_HEIGHT};border:0" srcdoc="{inner}"></iframe>'
    return f"<p><strong>{record['outcome']}</strong>: {told}</p>{frame}"  # the line is there where frames are not


def _element(page: str) -> str:
    """Return the card of the only check from a page: its element with all that is in it."""
    start = page.index('<details class="check" id="check-1"')
    depth = 0
    for found in _TAGS.finditer(page, start):
        depth += -1 if found[1] else 1
        if depth == 0:
            return page[start : page.index(">", found.start()) + 1]
    raise AssertionError("the report's page has a card that does not end")


def _opened(card: str) -> str:
    head, _, rest = card.partition(">")
    return f"{head}>{rest}" if " open" in head else f"{head} open>{rest}"


def _document(record: Record) -> dict[str, Any]:
    """Return a report of one check, made outside of a session of pytest."""
    records = [record]
    return dated() | {
        "duration": 0.0,
        "exit_status": int(record["outcome"] != "pass"),
        "finished": True,
        "outcomes": count_outcomes(records),
        "checks": records,
        "gates": 0,
        "not_compared": [],
        "baselines": {"mode": None, "verdicts": count_verdicts(records)},
        "waivers": [],
        "notes": [],
        "sections": [],
        "provenance": {},
        "execution": {"device": None, "seed": record["seed"], "batch_size": None, "deployed_batch_size": None},
        "environment": describe_environment(),
    }
