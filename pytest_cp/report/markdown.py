"""The report as Markdown: for a pull request, and for the summary page of GitHub Actions."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from typing import Any

from cp_compress.base.error_reasons import printable_line
from cp_compress.base.files import write_atomically
from cp_compress.base.numbers import headroom_text, number
from pytest_cp.baselines import brief_problem, entry_name
from pytest_cp.checks.messages import (
    example_change,
    finding,
    found_and_bound,
    output_change,
    row_text,
    sensitivities,
    table_texts,
    token_change,
    worst_slices,
)
from pytest_cp.checks.recorder import Record, decisive_requirement
from pytest_cp.report.compressed import changed_cell, compressed_name, coverage_lines
from pytest_cp.report.document import shown_outcome
from pytest_cp.report.matrix import Cell, build_matrices
from pytest_cp.report.shipping import advise
from pytest_cp.report.text_tables import cell_text, cost_texts
from pytest_cp.report.verdict import count_missing, session_verdict

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
_LARGEST = 900_000
_SYMBOLS = {"pass": "✅", "fail": "❌", "error": "⛔", "inconclusive": "❔", "waived": "⚠️"}
_VERDICTS = {"pass": "✅", "fail": "❌", "noted": "⚠️"}
_CUT = "\n\n… truncated here; the HTML and JSON reports are complete.\n"
_LISTED_EXAMPLES = 8
_LISTED_SLICES = 8
_LISTED_TOKENS = 4
_LISTED_OUTPUTS = 8
_SIGNS = re.compile(r"[\\`*_\[\]~#]")
# what begins a list or a quotation where a line begins
_STARTS = re.compile(r"^(\d*)([-+.)](?!\d)|>)")
# GitHub looks for these in the rendered text, where no escape is left; a zero-width space separates them
_LINKED = re.compile(r"@(?=\w)|#(?=\d)|:(?=//)|\bwww(?=\.)", re.IGNORECASE)


def write_markdown(document: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Replace the file at `path` with the report as Markdown; missing folders are made."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, render_markdown(document))


def append_summary(document: dict[str, Any]) -> None:
    """Add the report to the summary of a step of GitHub Actions, where there is one."""
    path = os.environ.get(SUMMARY_VARIABLE)
    if path and (document["checks"] or document["not_compared"] or document["notes"]):  # a session with gates
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(render_markdown(document))


def render_markdown(document: dict[str, Any]) -> str:
    """Return the report as Markdown: verdict, table of checks, and details of each that does not pass."""
    counts = {name: count for name, count in document["outcomes"].items() if count}
    verdict = session_verdict(document)
    lines = [f"## {_VERDICTS[verdict.kind]} {verdict.text}", ""]
    missing = count_missing(document)
    told = ", ".join(f"{count} {name}" for name, count in counts.items()) or "no checks"
    lines += [f"{told}; gates that compared nothing: {missing}" if missing else told, ""]
    lines += _matrices(document)
    if document["checks"]:
        lines += [
            "| outcome | compressed | changed | required | found | headroom | n | test |",
            "|---|---|---|---|---|--:|--:|---|",
        ]
        lines += [_row(record) for record in document["checks"]]
        lines.append("")
    for record in document["checks"]:
        if record["outcome"] != "pass":
            lines += _failure(record)
    lines += _lists(document)
    text = "\n".join(lines) + "\n"
    encoded = text.encode("utf-8")
    if len(encoded) <= _LARGEST:
        return text
    return encoded[:_LARGEST].decode("utf-8", errors="ignore") + _CUT


def _row(record: Record) -> str:
    found = decisive_requirement(record)
    outcome = shown_outcome(record)
    cells = [
        f"{_SYMBOLS[outcome]} {outcome}" + ("" if record["asserted"] else " (not asserted)"),
        compressed_name(record),
        changed_cell(record),
    ]
    if found is None:
        cells += [str(record["error"]), "", "", ""]
    else:
        value = f"{found['metric']} = {found_and_bound(found)[0]}"
        cells += [_required(found), value, headroom_text(found.get("headroom")), str(found["count"])]
        cells[-3] += f" ({problem})" if (problem := brief_problem(record)) else ""
    return "| " + " | ".join(map(_cell, [*cells, record["test"]])) + " |"


def _required(entry: Record) -> str:
    """Return a requirement with its bound in digits that tell it from what was found."""
    claim = entry["requirement"].partition(" at ")
    return f"{entry['metric']} {found_and_bound(entry)[1]}{''.join(claim[1:])}"


def _matrices(document: dict[str, Any]) -> list[str]:
    """Return the candidates by level as tables, each with the sentence which of them may ship."""
    lines = []
    for matrix in build_matrices(document):
        advice = advise(matrix, document)
        lines += [f"{_VERDICTS[advice.kind]} {_text(advice.text)}", ""]
        rows = [
            [
                f"○ {one.name} ({one.lacking})" if one.standing == "incomplete" else one.name,
                *(_matrix_cell(one.cells.get(level)) for level in matrix.levels),
                *cost_texts(one.cost),
                one.changed,
            ]
            for one in matrix.candidates
        ]
        if matrix.reference_cost:
            name = "the original" if matrix.stored else "the reference"
            rows.append([name, *[""] * len(matrix.levels), *cost_texts(matrix.reference_cost), ""])
        heads = (matrix.title.lower(), *matrix.levels, matrix.size_unit, "FLOPs", "ms", "changed")
        shown = [column for column in range(len(heads)) if any(row[column] for row in rows)]
        for line in ([heads[column] for column in shown], *([row[column] for column in shown] for row in rows)):
            lines.append("| " + " | ".join(map(_cell, line)) + " |")
        rule = "|".join("--:" if column > len(matrix.levels) else "---" for column in shown)
        lines.insert(len(lines) - len(rows), f"|{rule}|")
        lines.append("")
    return lines


def _matrix_cell(cell: Cell | None) -> str:
    return cell_text(cell) if cell is None else f"{_SYMBOLS[cell.outcome]} {cell_text(cell)}"


def _failure(record: Record) -> list[str]:
    # GitHub treats such a line as HTML, in which the escapes of Markdown would be visible
    lines = [f"<details><summary>{_html(shown_outcome(record))}: {_html(record['test'])}</summary>", ""]
    lines += [f"- {_text(finding(entry))}" for entry in record["requirements"] if entry["outcome"] != "pass"]
    if record["error"]:
        lines.append(f"- {_text(record['error'])}")
    lines += [f"- {_text(_waived(waiver))}" for waiver in record["waivers"]]
    lines += [f"- baseline: {_text(problem)}" for problem in record["baseline_problems"]]
    lines += [f"- slice {_text(text)}" for text in worst_slices(record)[:_LISTED_SLICES]]
    lines += [f"- {_text(output_change(row))}" for row in record["details"].get("outputs", [])[:_LISTED_OUTPUTS]]
    lines += [f"- {_text(token_change(row))}" for row in record["details"].get("tokens", [])[:_LISTED_TOKENS]]
    for caption, columns, rows in table_texts(record["details"]):
        lines += [f"- {_text(f'{caption}: {row_text(columns, row)}')}" for row in rows[:_LISTED_SLICES]]
    lines += [
        "- " + _text(example_change(record["comparison"], change)) for change in record["examples"][:_LISTED_EXAMPLES]
    ]
    origin = record["origin"]
    if origin is not None:
        lines += [f"- layer {_text(layer['name'])} ({_text(layer['kind'])})" for layer in origin["layers"][:3]]
    lines += [f"- note: {_text(note)}" for note in record["notes"]]
    return [*lines, "", "</details>", ""]


def _waived(waiver: Record) -> str:
    return f"waived until {waiver['expires']} by {waiver['owner']}: {waiver['reason']} ({waiver['requirement']})"


def _lists(document: dict[str, Any]) -> list[str]:
    lines = [f"- {_text(line)}" for line in sensitivities(document["checks"])]
    lines += [f"- not compared: {_text(entry['test'])}: {_text(entry['reason'])}" for entry in document["not_compared"]]
    lines += [f"- coverage: {_text(line)}" for line in coverage_lines(document["checks"])]
    for record in document["checks"]:
        if record["baseline"] is not None:
            notes = record["baseline"]["notes"]
            lines += [f"- baseline: {_text(entry_name(record))}: {_text(note)}" for note in notes]
    for waiver in document["waivers"]:
        state = "EXPIRED on" if waiver["expired"] else "expires on"
        what = f"{waiver['metric']} in {waiver['test']}, {number(waiver['at_worst'], digits=6)} at worst"
        who = f"{_text(waiver['owner'])}: {_text(waiver['reason'])}"
        lines.append(f"- waiver: {_text(what)}, {state} {waiver['expires']} ({who})")
    lines += [f"- {_text(name)}: {_text(value)}" for name, value in document["provenance"].items()]
    for section in document["sections"]:
        lines += ["", f"### {_text(section['title'])}", "", _lines(section["text"]), ""]
    return lines + [f"- note: {_text(note)}" for note in document["notes"]]


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def _text(text: Any) -> str:
    """Return a text that is shown literally, without tags, line breaks, links, mentions, lists or emphasis."""
    plain = printable_line(" ".join(str(text).split())).replace("&", "&amp;").replace("<", "&lt;")
    plain = _SIGNS.sub(r"\\\g<0>", plain)
    plain = _STARTS.sub(r"\1\\\2", plain)
    return _unlinked(plain)


def _lines(text: Any) -> str:
    """Return a text of several lines as one paragraph that shows the lines literally."""
    return "<br>".join(map(_text, str(text).strip().splitlines()))


def _html(text: Any) -> str:
    """Return a text on one line as HTML that shows it literally."""
    shown = _unlinked(html.escape(printable_line(" ".join(str(text).split())), quote=False))
    return shown.replace("[", "&#91;")  # some renderers look for links within HTML too


def _unlinked(text: str) -> str:
    """Keep GitHub from making links of addresses, and from calling people and issues by their names in a text."""
    return _LINKED.sub(r"\g<0>&#8203;", text)
