"""The HTML report's view of the candidates: the matrix with its links, and one chapter a candidate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cp_compress.base.numbers import headroom_text, number
from pytest_cp.checks.recorder import Record
from pytest_cp.report.compressed import short_digest
from pytest_cp.report.figures import trend_line
from pytest_cp.report.history import trends_of
from pytest_cp.report.matrix import Candidate, Cell, Matrix, level_of
from pytest_cp.report.shipping import advise
from pytest_cp.report.text_tables import cost_texts

SYMBOLS = {"pass": "✓", "fail": "✗", "error": "!", "inconclusive": "?", "waived": "~", "not asserted": "·"}
_STANDINGS = SYMBOLS | {"incomplete": "○"}
_ADVICE = {"pass": "✓", "fail": "✗", "noted": "~"}
_FEW_FAILURES = 4
_LISTED_LAYERS = 8
_COSTS = ("bytes", "FLOPs", "ms")
_SIZES = {
    "parameters": "parameters",
    "nonzero": "nonzero",
    "artifact_bytes": "bytes on disk",
    "resident_bytes": "bytes in memory",
    "flops": "FLOPs per batch",
}


def matrix_views(
    document: Mapping[str, Any], matrices: Sequence[Matrix], checks: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return what the template shows of each matrix: advice, columns and rows; `checks` are the views of all checks."""
    views = []
    open_first = sum(check["outcome"] not in ("pass", "waived") for check in checks) <= _FEW_FAILURES
    for matrix in matrices:
        advice = advise(matrix, document)
        costs = [cost_texts(one.cost) for one in matrix.candidates]
        known = [place for place in range(len(_COSTS)) if any(cost[place] for cost in costs)]
        heads = [_COSTS[place] for place in known]
        if matrix.stored:
            heads = [matrix.size_unit if head == "bytes" else head for head in heads]
        rows = [
            {
                "id": f"candidate-{one.number}",
                "name": one.name,
                "outcome": one.standing,
                "symbol": _STANDINGS[one.standing],
                "lacking": one.lacking,
                "chosen": one.name == advice.candidate and advice.kind != "fail",
                "cells": [(level, _cell_view(one.cells.get(level), checks)) for level in matrix.levels],
                "costs": [(head, cost[place]) for head, place in zip(heads, known, strict=True)],
                "changed": one.changed,
                "share": _share(one),
                "chapter": _chapter(document, one, matrix, checks, open_first=open_first),
            }
            for one, cost in zip(matrix.candidates, costs, strict=True)
        ]
        reference = cost_texts(matrix.reference_cost)
        views.append(
            {
                "title": matrix.title if not matrix.reference or len(matrices) < 2 else _named_title(matrix),
                "stored": matrix.stored,
                "advice": advice,
                "symbol": _ADVICE[advice.kind],
                "levels": matrix.levels,
                "heads": heads,
                "rows": rows,
                "reference": matrix.reference,
                "reference_costs": [(head, reference[place]) for head, place in zip(heads, known, strict=True)],
                "changes": any(one.changed for one in matrix.candidates),
            }
        )
    return views


def head_facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a report is about, for its first screen: reference, data, machine, date and how it ran."""
    records, environment, execution = document["checks"], document["environment"], document["execution"]
    facts = [("reference", _subjects(records, ("reference",))), ("data", _subjects(records, ("data", "original")))]
    machine = [environment.get("platform"), environment.get("gpu"), execution.get("device")]
    versions = environment.get("packages", {})
    machine += [f"torch {versions['torch']}"] if versions.get("torch") else []
    facts.append(("machine", ", ".join(str(part) for part in machine if part)))
    seed = execution.get("seed")
    ran = f"{document['created']}, {document['duration']:.1f} s"
    facts.append(("date", ran if seed is None else f"{ran}, seed {seed}"))
    return [(name, text) for name, text in facts if text]


def _subjects(records: Iterable[Record], roles: Sequence[str]) -> str:
    """Return the subjects that have one of some roles, by name, size and the first digits of their content."""
    found = {}
    for record in records:
        for role in roles:
            subject = record["subjects"].get(role)
            if subject is not None:
                digest = short_digest(subject.get("digest"))
                count = f", {subject['count']:,} examples" if "count" in subject else ""
                found[subject["name"], digest] = f"{subject['name']}{count}" + (f" ({digest})" if digest else "")
    return "; ".join(dict.fromkeys(found.values()))


def _named_title(matrix: Matrix) -> str:
    return f"{matrix.title} compared with {matrix.reference}"


def _cell_view(cell: Cell | None, checks: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if cell is None:
        return None
    worst = min(cell.checks)
    # the headroom of what is not proven says nothing, nor does that of a baseline
    explained = cell.told.startswith("baseline: ") or cell.outcome in ("waived", "inconclusive")
    return {
        "outcome": cell.outcome,
        "symbol": SYMBOLS[cell.outcome],
        "asserted": cell.asserted,
        "headroom": headroom_text(cell.headroom),
        "told": cell.told,
        "href": checks[worst]["id"],
        "beside": cell.told.removeprefix("inconclusive: ") if explained else "",
    }


def _chapter(
    document: Mapping[str, Any],
    candidate: Candidate,
    matrix: Matrix,
    checks: Sequence[Mapping[str, Any]],
    *,
    open_first: bool,
) -> dict[str, Any]:
    """Return a candidate's checks in the order of levels, what failed first, and sizes and layers once."""
    order = {level: place for place, level in enumerate(matrix.levels)}
    own = [{**checks[position], "level": level_of(checks[position]["record"])} for position in candidate.checks]
    own.sort(key=lambda check: order[check["level"]])
    bad = [check for check in own if check["outcome"] not in ("pass", "waived") and check["record"]["asserted"]]
    records = [check["record"] for check in own]
    return {
        "checks": own,
        "first": bad[0] if bad else None,
        "waived": [check for check in own if check["outcome"] == "waived"],
        "bad": len(bad),
        "open": bool(bad),
        "open_check": bad[0]["id"] if bad and open_first else None,
        "sizes": _sizes(records),
        "origins": _origins(records),
        "coverage": candidate.coverage,
        "missing": candidate.missing,
        "trends": [(one["metric"], trend_line(one)) for one in trends_of(document, records)],
    }


def _origins(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return the layers that cause the damage, once for each ranking that differs, or why they cannot be ranked."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        origin = record["origin"]
        if origin is not None:
            view = _origin(origin, predicted=record["comparison"] != "outputs")
            found.setdefault(str(view), view)
    return [view for view in found.values() if view["layers"] or view["notes"]]


def _origin(origin: Mapping[str, Any], *, predicted: bool) -> dict[str, Any]:
    asked = origin.get("asked", 0)
    layers = [
        {
            "name": layer["name"],
            "kind": layer["kind"],
            "restored": f"{100 * layer['share']:.0f} %" if asked else "",
            "noise": _noise(layer.get("added_snr")),
        }
        for layer in origin["layers"][:_LISTED_LAYERS]
    ]
    order = "no prediction changed, so by the noise that each adds" if predicted else "by the noise that each adds"
    ranked = asked or any(layer["noise"] for layer in layers)
    return {
        "layers": layers if ranked else [],
        "asked": asked,
        "order": "" if asked else order,
        "noise": any(layer["noise"] for layer in layers),
        "notes": origin.get("notes", []),
    }


def _noise(ratio: Any) -> str:
    """Return a signal-to-noise ratio in dB; "none" without any noise, empty where it is not known."""
    return f"{ratio:.1f} dB" if isinstance(ratio, (int, float)) else "none" if ratio == "inf" else ""


def _sizes(records: Iterable[Record]) -> list[tuple[str, str, str]]:
    """Return what reference and candidate cost, each figure once, from whichever check knows it."""
    rows: dict[str, tuple[str, str, str]] = {}
    for record in records:
        sizes = (record.get("evidence") or {}).get("sizes")
        if record["comparison"] == "footprint" and record["details"]:
            before, after = record["details"]["reference"], record["details"]["candidate"]
        elif sizes and sizes["reference"]["model"] and sizes["candidate"]["model"]:
            before, after = sizes["reference"]["model"], sizes["candidate"]["model"]
        else:
            before = after = {}
        for name, title in _SIZES.items():
            if before.get(name) is not None or after.get(name) is not None:
                rows.setdefault(title, (title, _count(before.get(name)), _count(after.get(name))))
        if before.get("latency_seconds") is not None and after.get("latency_seconds") is not None:
            title = "milliseconds per batch (median)"
            was, now = (number(1000 * model["latency_seconds"]) for model in (before, after))
            rows.setdefault(title, (title, was, now))
        stored = [sizes[who]["bytes_per_example"] for who in ("reference", "candidate")] if sizes else []
        if any(stored):
            rows.setdefault("bytes per example", ("bytes per example", _count(stored[0]), _count(stored[1])))
    return list(rows.values())


def _share(candidate: Candidate) -> str:
    """Return the share of weights that a candidate changed, without the layers, which its chapter tells."""
    share = None if candidate.coverage is None else candidate.coverage["share"]
    return candidate.changed if share is None else candidate.changed.rpartition(", ")[2].removesuffix(" of weights")


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
