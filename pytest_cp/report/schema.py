"""The JSON Schema of the JSON report, published for programs that read reports."""

from __future__ import annotations

import json
from typing import Any

from cp_compress.base.outcomes import SEVERITY
from pytest_cp.report.document import SCHEMA_VERSION

_TEXT, _WHOLE, _FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
_TEXTS = {"type": "array", "items": _TEXT}
_VALUE = {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]}
_OUTCOME = {"enum": list(SEVERITY)}
_MODE = {"enum": ["check", "new", "update", None]}
_VERDICT = {"enum": ["ok", "improved", "regressed", "stale", "missing"]}
_BASELINE = {"verdict": _VERDICT, "file": _TEXT, "metrics": {"type": "object"}}


_MAYBE_TEXT, _MAYBE_NUMBER = {"type": ["string", "null"]}, {"type": ["number", "null"]}
_HEADROOM = _MAYBE_NUMBER | {
    "description": "(value − bound) / (value of an unchanged model − bound): 1 as unchanged, 0 at the bound, negative "
    "beyond it; null where an unchanged model has no value of its own, or does not meet the bound with room to spare"
}
_CANDIDATE: dict[str, Any] = {
    "name": _TEXT,
    "kind": {"enum": ["model", "data"]},
    "reference": _TEXT,
    "outcome": {"enum": [*SEVERITY, "waived", "not asserted"]},
    "headroom": _HEADROOM,
    "levels": {"type": "object"},
    "lacks": _TEXTS | {"description": "levels at which others were compared, and gates that did not compare it"},
    "bytes": _MAYBE_NUMBER | {"description": "of the file of a model, or of an example of data"},
    "flops": _MAYBE_NUMBER,
    "latency_seconds": _MAYBE_NUMBER,
    "coverage": _MAYBE_NUMBER,
}
_TREND = {
    **dict.fromkeys(("test", "candidate", "assertion", "metric"), _TEXT),
    "ordinal": _WHOLE,
    "points": {"type": "array", "items": {"type": "object"}},
}


def document_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a report; keys that are not listed may be added in later versions."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pytest_cp report",
        **_object(
            {
                "schema_version": {"const": SCHEMA_VERSION},
                "created": _TEXT | {"description": "ISO 8601, local time with its offset"},
                "duration": {"type": "number", "minimum": 0, "description": "seconds"},
                "exit_status": _WHOLE | {"description": "pytest's exit status: 0 passed, 1 failed, 2 interrupted, …"},
                "outcomes": {"type": "object", "additionalProperties": _WHOLE},
                "checks": {"type": "array", "items": {"$ref": "#/$defs/check"}, "description": "worst first"},
                "not_compared": _many(
                    {"test": _TEXT, "reason": _TEXT},
                    {"kind": {"enum": ["no check", "not run", "deselected", "skipped"]}},
                ),
                "baselines": _object(
                    {"mode": {"enum": ["check", "new", "update", None]}, "verdicts": {"type": "object"}}
                ),
                "waivers": _many(_WAIVER | {"expired": _FLAG, "used_by": _TEXTS}),
                "notes": _TEXTS,
                "sections": _many({"title": _TEXT, "text": _TEXT}),
                "provenance": {"type": "object", "additionalProperties": _TEXT},
                "execution": {"type": "object"},
                "environment": {"type": "object"},
            },
            {
                "finished": _FLAG | {"description": "false while the run lasts, and where its process ended by itself"},
                "verdict": _object({"kind": {"enum": ["pass", "fail", "noted"]}, "text": _TEXT}),
                "candidates": _many(_CANDIDATE)
                | {"description": "what became of each candidate by level; the smallest that passes is the first"},
                "advice": _many({"kind": {"enum": ["pass", "fail", "noted"]}, "text": _TEXT, "candidate": _MAYBE_TEXT})
                | {"description": "which candidate may ship, or why none may: one for models, one for stored data"},
                "history": _object({"reports": _WHOLE, "trends": _many(_TREND)})
                | {"description": "what earlier reports and baselines found, oldest first"},
                "gates": _WHOLE | {"description": "how many gates were collected, those that did not run included"},
            },
        ),
        "$defs": {"check": _check(), "requirement": _requirement()},
    }


_WAIVER: dict[str, Any] = {
    "test": _TEXT,
    "metric": _TEXT,
    "at_worst": {"type": "number"},
    "owner": _TEXT,
    "reason": _TEXT,
    "expires": _TEXT | {"format": "date"},
}


def schema_text() -> str:
    """Return the schema as the text of a file."""
    return json.dumps(document_schema(), indent=2, ensure_ascii=False) + "\n"


def _check() -> dict[str, Any]:
    return _object(
        {
            "test": _TEXT | {"description": "the node ID"},
            "assertion": _TEXT,
            "asserted": _FLAG | {"description": "false for check_ functions, which never fail a test"},
            "explored": _FLAG | {"description": "made while Hypothesis generated inputs"},
            "runs": _WHOLE,
            "ordinal": _WHOLE,
            "options": {"type": "object"},
            "seed": _WHOLE,
            "device": _TEXT,
            "subjects": {
                "type": "object",
                "additionalProperties": _subject(),
            },
            "comparison": {"type": ["string", "null"]},
            "outcome": _OUTCOME,
            "requirements": {"type": "array", "items": {"$ref": "#/$defs/requirement"}},
            "decisive": {"type": ["string", "null"]},
            "metrics": {"type": "object", "additionalProperties": _VALUE},
            "counts": {"type": "object", "additionalProperties": _WHOLE},
            "examples": _many({"index": _WHOLE, "label": _TEXT, "before": _TEXT, "after": _TEXT}),
            "details": {"type": "object"},
            "notes": _TEXTS,
            "origin": {"type": ["object", "null"]},
            "worst": {"type": ["object", "null"]},
            "evidence": _evidence(),
            "error": {"type": ["string", "null"]},
            "baseline": {
                "anyOf": [
                    {"type": "null"},
                    _object({"verdict": _VERDICT, "file": _TEXT, "metrics": {"type": "object"}}),
                ]
            },
            "baseline_problems": _TEXTS,
            "waivers": _many(_WAIVER | {"requirement": _TEXT}),
            "waiver_hints": _TEXTS,
        }
    )


def _evidence() -> dict[str, Any]:
    pictures = ("image", "decoded", "reference_map", "candidate_map", "difference_map", "outline")
    picture = {"type": ["string", "null"], "description": "a PNG, WebP, JPEG or SVG file in base64"}
    example: dict[str, Any] = {
        "index": _WHOLE,
        "predicted": _object({"reference": _TEXT, "candidate": _TEXT}),
        "iou": {"type": "number", "minimum": 0, "maximum": 1},
        "scale": {"type": "number", "description": "the strength at full colour, in multiples of a map's mean"},
        "difference_scale": {"type": "number", "description": "that of the difference of the maps, in the same unit"},
        **dict.fromkeys(pictures, picture),
    }
    maps: dict[str, Any] = {
        "method": _TEXT,
        "of_check": _FLAG | {"description": "whether the check compared these maps; else they are context"},
        "smoothing": {"type": "number", "description": "in places, for the eye only; the IoU is that of the maps"},
        "places": {"type": "array", "items": _WHOLE},
    }
    return {
        "type": ["object", "null"],
        "description": "only if an HTML report was requested",
        "properties": {
            "examples": {"type": "array", "items": {"type": "object", "properties": example}},
            "maps": {"type": ["object", "null"], "properties": maps},
            "masks": _TEXTS | {"description": "the masks whose outlines the examples show"},
        },
    }


def _subject() -> dict[str, Any]:
    named = _object({"name": _TEXT, "digest": {"type": ["string", "null"]}})
    amounts = {name: {"type": ["integer", "null"]} for name in ("changed_layers", "changed_weights")}
    coverage = _object(
        {
            "text": _TEXT,
            "share": {"type": ["number", "null"], "description": "of the reference's weights; null if unknown"},
            "layers": _WHOLE,
            "weights": _WHOLE,
            **amounts,
            "unchanged": _many({"name": _TEXT, "size": _WHOLE, "reason": _TEXT}) | {"description": "largest first"},
            "steps": _TEXTS,
            "tied": {"type": "array", "items": _TEXTS},
            "notes": _TEXTS,
        }
    )
    # a report of an earlier version has none
    return named | {"properties": {**named["properties"], "coverage": coverage}}


def _requirement() -> dict[str, Any]:
    return _object(
        {
            "requirement": _TEXT,
            "metric": _TEXT,
            "direction": {"enum": ["min", "max"]},
            "bound": {"type": "number"},
            "confidence": {"type": ["number", "null"]},
            "outcome": _OUTCOME,
            "value": _VALUE,
            "margin": _VALUE,
            "count": _WHOLE,
            "interval": {"anyOf": [{"type": "null"}, {"type": "array", "items": _VALUE}]},
            "examples_needed": {"type": ["integer", "null"]},
            "groups": {"type": "array"},
        },
        {
            "family": _WHOLE | {"description": "how many candidates the confidence is about together"},
            "clusters": {"type": ["integer", "null"], "description": "how many clusters a claim is about"},
            "distinct": {
                "type": ["integer", "null"],
                "description": "how many of `count` a claim counts, where some are repeated",
            },
            "headroom": _HEADROOM,
            "detectable": {"anyOf": [{"type": "null"}, _VALUE]}
            | {
                "description": "the true value with which 80 % of samples would not have passed, of a claim that passed"
            },
        },
    )


def _object(properties: dict[str, Any], later: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the schema of an object; what `later` names is not in the reports of earlier versions."""
    return {"type": "object", "properties": properties | (later or {}), "required": list(properties)}


def _many(properties: dict[str, Any], later: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "array", "items": _object(properties, later)}
