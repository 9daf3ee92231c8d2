"""The HTML report: one self-contained file that an approver can read, sort, print and archive."""

from __future__ import annotations

import functools
import importlib.resources
import json
import os
from pathlib import Path
from typing import Any

from cp_compress.base.error_reasons import printable_lines
from cp_compress.base.files import write_atomically
from cp_compress.base.numbers import headroom_text, number, percent
from pytest_cp.baselines import brief_problem
from pytest_cp.checks.messages import example_name, finding, found_and_bound, table_texts, token_change
from pytest_cp.checks.recorder import Record, decisive_requirement
from pytest_cp.report.chapters import SYMBOLS, head_facts, matrix_views
from pytest_cp.report.compressed import changed_cell, compressed_name, coverage_lines
from pytest_cp.report.document import shown_outcome
from pytest_cp.report.examples import PAGE_BYTES, Images, example_views, image_kind
from pytest_cp.report.figures import SHAPES, accuracy_against_cost, class_bars, distance_scatter
from pytest_cp.report.matrix import build_matrices, outcomes_by_candidate, why
from pytest_cp.report.sizes import size_table
from pytest_cp.report.verdict import count_missing, session_verdict
from pytest_cp.waivers.waivers import unused

SHOWN_CLASSES = 40
SHOWN_DOCUMENTS = 8
_VERDICTS = {"pass": "✓", "fail": "✗", "noted": "~"}


def write_page(document: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Replace the file at `path` with the report as one HTML page; missing folders are made."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, render_page(document))


def render_page(document: dict[str, Any]) -> str:
    """Return the report as one HTML page, without anything that is fetched from elsewhere."""
    bare = _render(document, Images(0))
    images = Images(PAGE_BYTES - len(bare.encode()))
    images.choose(document["checks"])
    return _render(document, images)


def _render(document: dict[str, Any], images: Images) -> str:
    checks = [_check_view(number, record, images) for number, record in enumerate(document["checks"], start=1)]
    matrices = build_matrices(document)
    charts = size_table(document["checks"], outcomes_by_candidate(document["checks"], matrices))
    verdict = session_verdict(document)
    page: str = _template().render(
        document=document,
        verdict=verdict,
        verdict_symbol=_VERDICTS[verdict.kind],
        facts=head_facts(document),
        matrices=matrix_views(document, matrices, checks),
        checks=checks,
        tightest=_tightest(document["checks"]),
        missing=count_missing(document),
        waivers=[_waiver_view(waiver, document["checks"]) for waiver in document["waivers"]],
        coverage=coverage_lines(document["checks"]),
        shapes=SHAPES,
        charts=[(chart, _cost_figures(chart)) for chart in charts],
        environment=_flat(document["environment"]),
        images=images.by_content,
        images_left_out=images.left_out,
        style="\n".join(map(_asset, ("report.css", "examples.css", "chapters.css"))),
        script="\n".join(map(_asset, ("report.js", "chapters.js"))),
    )
    return page


def _cost_figures(chart: dict[str, Any]) -> list[str]:
    """Return accuracy against size, and against FLOPs and time where points differ in them."""
    axes = {"size": chart["axis"], "flops": "FLOPs per batch", "milliseconds": "milliseconds per batch"}
    points = [one | {"milliseconds": 1000 * one["latency"] if one["latency"] else None} for one in chart["points"]]
    figures = []
    for cost, axis in axes.items():
        values = {point[cost] for point in points if point[cost]}
        if len(values) > 1 or cost == "size":
            figures.append(accuracy_against_cost(points, axis, cost))
    return figures


def _waiver_view(waiver: Record, records: list[Record]) -> Record:
    used = ", ".join(waiver["used_by"]) or unused(waiver, records)
    return waiver | {"found": _found(waiver, records), "used": used}


def _found(waiver: Record, records: list[Record]) -> str:
    """Return the values that a waiver covers, as they were found."""
    values = [
        found_and_bound(entry)[0]
        for record in records
        if record["test"] in waiver["used_by"]
        for entry in record["requirements"]
        if entry["metric"] == waiver["metric"] and entry["outcome"] != "pass"
    ]
    return ", ".join(dict.fromkeys(values))


def _tightest(records: list[Record]) -> dict[str, str] | None:
    """Return the asserted requirement with the least headroom, for the head of the page."""
    ranked = [
        (found["headroom"], finding(found), compressed_name(record))
        for record in records
        if record["asserted"]
        for found in record["requirements"]
        if isinstance(found.get("headroom"), (int, float))
    ]
    if not ranked:
        return None
    headroom, told, where = min(ranked)
    return {"finding": told, "headroom": headroom_text(headroom), "where": where}


def _check_view(position: int, record: Record, images: Images) -> dict[str, Any]:
    """Return what the template shows of a check."""
    decisive = decisive_requirement(record)
    details = record["details"]
    classes = details.get("classes", [])
    evidence = record.get("evidence") or {"examples": [], "distances": None, "sizes": None, "notes": []}
    outcome = shown_outcome(record)
    value, bound = found_and_bound(decisive) if decisive is not None else ("", "")
    distances = evidence["distances"] if evidence["distances"] and evidence["distances"]["before"] else None
    return {
        "id": f"check-{position}",
        "record": record,
        "outcome": outcome,
        "symbol": SYMBOLS[outcome],
        "compressed": compressed_name(record),
        "changed": changed_cell(record),
        "test": record["test"],
        "decisive": decisive,
        "value": value,
        "bound": bound,
        "headroom": headroom_text(decisive.get("headroom")) if decisive is not None else "",
        "why": why(record),
        "baseline": brief_problem(record),
        "findings": [(one["outcome"], SYMBOLS[one["outcome"]], finding(one)) for one in record["requirements"]],
        "rows": [_requirement_view(one) for one in record["requirements"]],
        "bars": class_bars(_shown_classes(classes)) if classes and "reference_accuracy" in classes[0] else None,
        "shown_classes": min(len(classes), SHOWN_CLASSES),
        "classes": classes,
        "flips": details.get("flips", []),
        "slices": details.get("slices", []),
        "outputs": details.get("outputs", []),
        **example_views(record, images),
        "scatter": distance_scatter(distances) if distances else None,
        "distances": distances,
        "language": _language_view(details) if record["comparison"] == "language" and details else None,
        "tables": _table_views(record),
        "notes": [*record["notes"], *evidence["notes"]],
        "metrics": sorted(record["metrics"].items()),
    }


def _table_views(record: Record) -> list[tuple[str, list[str], list[list[str]], bool]]:
    """Return the tables that a comparison gives, and the examples that changed, which have no pictures.

    Each with whether it is one of numbers.
    """
    details = record["details"]
    found = [(caption, columns, rows[:SHOWN_CLASSES], True) for caption, columns, rows in table_texts(details)]
    if "tables" in details and record["examples"]:
        changes = [
            [f"#{one['index']} {example_name(record['comparison'], one)}".strip(), one["before"], one["after"]]
            for one in record["examples"]
        ]
        found.append(("examples that changed most", ["example", "before", "after"], changes[:SHOWN_DOCUMENTS], False))
    return found


def _language_view(details: dict[str, Any]) -> dict[str, list[Any]]:
    """Return what the template shows of two language models: by slice, by position, of documents and of tokens."""
    return {
        "groups": [
            *((f"slice {row['slice']}", row) for row in details["token_slices"]),
            *((f"tokens {row['first']} to {row['last']}", row) for row in details["positions"]),
            *((f"document #{row['document']}", row) for row in details["documents"][:SHOWN_DOCUMENTS]),
        ],
        "tokens": [token_change(row) for row in details["tokens"]],
    }


def _requirement_view(entry: Record) -> dict[str, Any]:
    value, bound = found_and_bound(entry)
    return {
        "outcome": entry["outcome"],
        "symbol": SYMBOLS[entry["outcome"]],
        "metric": entry["metric"],
        "value": value,
        "bound": bound,
        "headroom": headroom_text(entry.get("headroom")),
        "confidence": entry["confidence"],
        "count": entry["count"],
    }


def _shown_classes(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the classes that there is room for: all in their order, or those whose accuracy fell most, worst first."""
    if len(classes) <= SHOWN_CLASSES:
        return classes
    return sorted(classes, key=lambda row: row["accuracy"] - row["reference_accuracy"])[:SHOWN_CLASSES]


def _flat(environment: dict[str, Any]) -> list[tuple[str, str]]:
    packages = environment.get("packages", {})
    rest = {name: value for name, value in environment.items() if name != "packages"}
    return [(name, str(value)) for name, value in {**rest, **packages}.items() if value is not None]


def _asset(name: str) -> str:
    return importlib.resources.files("pytest_cp.report").joinpath("assets").joinpath(name).read_text(encoding="utf-8")


def _printable(value: Any) -> Any:
    """Return what the template writes, without what could turn around or hide the text beside it."""
    return printable_lines(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


@functools.cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_printable
    )
    environment.filters["image_kind"] = image_kind
    environment.filters["number"] = number
    environment.filters["percent"] = percent
    environment.filters["compact"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.get_template("report.html.j2")
