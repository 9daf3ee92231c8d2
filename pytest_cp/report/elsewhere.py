"""Checks in reports of other tools: properties in JUnit XML, and a table in pytest-html."""

from __future__ import annotations

from html import escape

import pytest

from cp_compress.base.error_reasons import printable_line
from cp_compress.base.numbers import headroom_text
from pytest_cp.checks.messages import found_and_bound
from pytest_cp.checks.recorder import Record
from pytest_cp.checks.records import REPORT_ATTRIBUTE
from pytest_cp.report.compressed import changed_cell, compressed_name


def add_properties(item: pytest.Item, report: pytest.TestReport) -> None:
    """Add a test's checks to JUnit XML, where the ini file asks for it, and to pytest-html, where it writes a page."""
    records: list[Record] = getattr(report, REPORT_ATTRIBUTE, [])
    if item.config.getini("cp_junit_properties"):
        item.user_properties += [entry for record in records for entry in _properties(record)]
    if records and item.config.pluginmanager.hasplugin("html") and item.config.getoption("htmlpath", None):
        from pytest_html import extras

        report.extras = [*getattr(report, "extras", []), extras.html(_table(records))]  # type: ignore[attr-defined]


def _properties(record: Record) -> list[tuple[str, object]]:
    changed = changed_cell(record)
    found: list[tuple[str, object]] = [("cp.changed", changed)] if changed else []
    for entry in record["requirements"]:
        name = f"cp.{entry['metric']}" + (f".{record['ordinal']}" if record["ordinal"] > 1 else "")
        found += [(name, entry["value"]), (f"{name}.bound", entry["bound"]), (f"{name}.margin", entry["margin"])]
        if entry.get("headroom") is not None:
            found.append((f"{name}.headroom", entry["headroom"]))
        found.append((f"{name}.outcome", entry["outcome"]))
    return found


def _row(record: Record, entry: Record) -> tuple[object, ...]:
    value, bound = found_and_bound(entry)
    found = (value, headroom_text(entry.get("headroom")), entry["count"])
    return (entry["outcome"], compressed_name(record), changed_cell(record), f"{entry['metric']} {bound}", *found)


def _table(records: list[Record]) -> str:
    heads = ("outcome", "compressed", "changed", "requirement", "found", "headroom", "n")
    rows = [_row(record, entry) for record in records for entry in record["requirements"]]
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(printable_line(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
