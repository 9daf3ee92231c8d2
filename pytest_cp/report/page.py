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
from pytest_cp.checks.messages import finding, number
from pytest_cp.checks.recorder import Record, decisive_requirement
from pytest_cp.report.compressed import changed_cell, compressed_name, coverage_lines, size_table
from pytest_cp.report.document import shown_outcome
from pytest_cp.report.examples import PAGE_BYTES, Images, example_views, image_kind
from pytest_cp.report.figures import accuracy_against_size, class_bars, distance_scatter
from pytest_cp.report.verdict import count_missing, session_verdict

SHOWN_CLASSES = 40
_FOOTPRINT = {
    "parameters": "parameters",
    "nonzero": "nonzero",
    "artifact_bytes": "bytes on disk",
    "resident_bytes": "bytes in memory",
    "flops": "FLOPs per batch",
}
_SYMBOLS = {"pass": "✓", "fail": "✗", "error": "!", "inconclusive": "?", "waived": "~"}
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
    charts = size_table(document["checks"])
    verdict = session_verdict(document)
    page: str = _template().render(
        document=document,
        verdict=verdict,
        verdict_symbol=_VERDICTS[verdict.kind],
        checks=checks,
        tightest=_tightest(document["checks"]),
        missing=count_missing(document),
        coverage=coverage_lines(document["checks"]),
        charts=[(chart, accuracy_against_size(chart["points"], chart["axis"])) for chart in charts],
        environment=_flat(document["environment"]),
        images=images.by_content,
        images_left_out=images.left_out,
        style=_asset("report.css") + _asset("examples.css"),
        script=_asset("report.js"),
    )
    return page


def _tightest(records: list[Record]) -> dict[str, str] | None:
    """Return the asserted check whose margin is the smallest share of its bound, for the head of the page."""
    ranked = [
        (found["margin"] / (abs(found["bound"]) or 1.0), record, found)
        for record in records
        if record["asserted"]
        for found in [decisive_requirement(record)]
        if found is not None and isinstance(found["margin"], (int, float))
    ]
    if not ranked:
        return None
    _, record, found = min(ranked, key=lambda entry: entry[0])
    return {"finding": finding(found), "margin": number(found["margin"]), "where": compressed_name(record)}


def _check_view(position: int, record: Record, images: Images) -> dict[str, Any]:
    """Return what the template shows of a check."""
    decisive = decisive_requirement(record)
    details = record["details"]
    classes = details.get("classes", [])
    evidence = record.get("evidence") or {"examples": [], "distances": None, "sizes": None, "notes": []}
    outcome = shown_outcome(record)
    numeric = isinstance(decisive["margin"], (int, float)) if decisive is not None else False
    return {
        "id": f"check-{position}",
        "record": record,
        "outcome": outcome,
        "symbol": _SYMBOLS[outcome],
        "compressed": compressed_name(record),
        "changed": changed_cell(record),
        "test": record["test"],
        "decisive": decisive,
        "margin": decisive["margin"] if decisive is not None and numeric else None,
        "findings": [(one["outcome"], _SYMBOLS[one["outcome"]], finding(one)) for one in record["requirements"]],
        "bars": class_bars(_shown_classes(classes)) if classes and "reference_accuracy" in classes[0] else None,
        "shown_classes": min(len(classes), SHOWN_CLASSES),
        "classes": classes,
        "flips": details.get("flips", []),
        "slices": details.get("slices", []),
        **example_views(record, images),
        "scatter": distance_scatter(evidence["distances"]) if evidence["distances"] else None,
        "distances": evidence["distances"],
        "sizes": _footprint_rows(details) if record["comparison"] == "footprint" else _size_rows(evidence["sizes"]),
        "notes": [*record["notes"], *evidence["notes"]],
        "metrics": sorted(record["metrics"].items()),
    }


def _shown_classes(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the classes that there is room for: all in their order, or those whose accuracy fell most, worst first."""
    if len(classes) <= SHOWN_CLASSES:
        return classes
    return sorted(classes, key=lambda row: row["accuracy"] - row["reference_accuracy"])[:SHOWN_CLASSES]


def _size_rows(sizes: Record | None) -> list[tuple[str, str, str]]:
    if not sizes:
        return []
    before, after = sizes["reference"], sizes["candidate"]
    rows = _model_rows(before["model"], after["model"]) if before["model"] and after["model"] else []
    if before["bytes_per_example"] or after["bytes_per_example"]:
        was, now = (number_of(subject["bytes_per_example"]) for subject in (before, after))
        rows.append(("bytes per example", was, now))
    return rows


def _footprint_rows(details: Record) -> list[tuple[str, str, str]]:
    """Return the measurements of both models in a footprint check, in addition to the required ratios."""
    if not details:
        return []
    before, after = details["reference"], details["candidate"]
    rows = _model_rows(before, after)
    was, now = (model.get("latency_seconds") for model in (before, after))
    if was is not None and now is not None:
        rows.append(("milliseconds per batch (median)", number(1000 * was), number(1000 * now)))
    return rows


def _model_rows(before: Record, after: Record) -> list[tuple[str, str, str]]:
    return [
        (title, number_of(before.get(name)), number_of(after.get(name)))
        for name, title in _FOOTPRINT.items()
        if before.get(name) is not None or after.get(name) is not None
    ]


def number_of(value: float | None) -> str:
    """Return a count with its digits in groups, or a dash."""
    return "–" if value is None else f"{value:,.0f}"


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
    environment.filters["compact"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.get_template("report.html.j2")
