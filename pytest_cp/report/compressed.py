"""What was compressed, over all checks: its name, its accuracy and its size, and which none beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_cp.records import Record

_REFERENCE = "the reference"


def compressed_name(record: Record) -> str:
    """Return what was compressed: the model's scheme, the data's codec, or both."""
    subjects = record["subjects"]
    names = [subjects[key]["name"] for key in ("candidate", "compressed_data", "decoded") if key in subjects]
    same_model = {"candidate", "reference"} <= subjects.keys() and (
        subjects["candidate"]["digest"] is not None
        and subjects["candidate"]["digest"] == subjects["reference"]["digest"]
    )
    if same_model and len(names) > 1:
        names = names[1:]
    return " + ".join(names) or "-"


def size_table(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return accuracy against size of the models, and of the stored data, where both are known.

    Each has a title, the axis' name and points: name, accuracy, reference_accuracy, size, on_front.
    """
    models: dict[str, dict[str, Any]] = {}
    stored: dict[str, dict[str, Any]] = {}
    for record in records:
        subjects, metrics = record["subjects"], record["metrics"]
        sizes = (record.get("evidence") or {}).get("sizes") or {}
        own_data = "compressed_data" in subjects
        name = compressed_name(record)
        if sizes and sizes["reference"]["model"] and _is_number(metrics.get("reference_accuracy")):
            size, accuracy = sizes["reference"]["model"]["artifact_bytes"], metrics["reference_accuracy"]
            models[_REFERENCE] = {"name": _REFERENCE, "size": size, "accuracy": accuracy}
        place = stored if own_data or "decoded" in subjects else models
        known = place.setdefault(name, {"name": name})
        known |= {key: metrics[key] for key in ("accuracy", "reference_accuracy") if _is_number(metrics.get(key))}
        if "decoded" in subjects:
            known["size"] = metrics.get("bytes_per_example")
        elif own_data and sizes:
            known.setdefault("size", sizes["candidate"]["bytes_per_example"])
        elif sizes and sizes["candidate"]["model"]:
            known.setdefault("size", sizes["candidate"]["model"]["artifact_bytes"])
        elif record["comparison"] == "footprint" and "candidate" in record["details"]:
            known.setdefault("size", record["details"]["candidate"]["artifact_bytes"])
    charts = [
        {"title": "Models", "axis": "bytes on disk", "points": _points(models)},
        {"title": "Stored data", "axis": "bytes an example", "points": _points(stored)},
    ]
    return [chart for chart in charts if chart["points"]]


def _points(known: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    points = [entry for entry in known.values() if entry.get("size") and "accuracy" in entry]
    for point in points:
        point["on_front"] = not any(_beats(other, point) for other in points)
    return sorted(points, key=lambda point: (point["size"], -point["accuracy"]))


def _beats(other: dict[str, Any], point: dict[str, Any]) -> bool:
    """Tell whether another is no worse in both, and better in one."""
    no_worse = other["size"] <= point["size"] and other["accuracy"] >= point["accuracy"]
    return bool(no_worse and (other["size"] < point["size"] or other["accuracy"] > point["accuracy"]))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))
