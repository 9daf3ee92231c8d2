"""What candidates cost, from whichever check knows it, and accuracy against size with the front of who passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pytest_cp.checks.recorder import Record
from pytest_cp.report.compressed import Identity, compressed_name, identity, labels
from pytest_cp.report.figures import front_of

_FIGURES = {"bytes": "artifact_bytes", "flops": "flops", "latency": "latency_seconds"}


def known_costs(records: Sequence[Record]) -> dict[Identity, dict[str, float]]:
    """Return bytes, FLOPs and seconds a batch of models, and bytes an example of data, by who they are."""
    found: dict[Identity, dict[str, float]] = {}
    for record in records:
        sizes = (record.get("evidence") or {}).get("sizes") or {}
        for who, data in (("candidate", "compressed_data"), ("reference", "data")):
            size = sizes.get(who) or {"model": None, "bytes_per_example": None}
            measured = record["details"].get(who) if record["comparison"] == "footprint" else size["model"]
            for name, figure in _FIGURES.items():
                if measured and measured.get(figure) is not None and who in record["subjects"]:
                    found.setdefault(identity(record, who), {}).setdefault(name, measured[figure])
            if data in record["subjects"] and size["bytes_per_example"]:
                found.setdefault(identity(record, data), {}).setdefault("bytes", size["bytes_per_example"])
    return found


def size_table(records: Sequence[Record], outcomes: Mapping[Identity, str] | None = None) -> list[dict[str, Any]]:
    """Return accuracy against size of the models, and of the stored data, where both are known.

    There is one chart for each reference and data set, since accuracies on other data do not compare. Each has a title,
    the axis' name and points: name, outcome, accuracy, size, flops, latency, on_front, and reference_accuracy for all
    but the reference. `outcomes` are those of candidates over all their checks; on the front is who passed and is
    beaten by none that did.
    """
    costs = known_costs(records)
    charts: dict[_Place, dict[Identity, dict[str, Any]]] = {}
    for record in records:
        accuracy, subjects = record["metrics"].get("accuracy"), record["subjects"]
        if record["comparison"] == "predictions" and isinstance(accuracy, (int, float)) and "data" in subjects:
            place, before = _place(record), record["metrics"]["reference_accuracy"]
            who = candidate_of(record)
            outcome = (outcomes or {}).get(who, "pass")
            charts.setdefault(place, {})[who] = (
                {"name": compressed_name(record), "outcome": outcome, "accuracy": accuracy}
                | _cost(costs.get(_sized(record)))
                | {"reference_accuracy": before}
            )
            cost = _cost(costs.get(place.data if place.stored else place.reference))
            charts[place][_REFERENCE] = {"name": _REFERENCE.name, "outcome": "reference", "accuracy": before} | cost
    return _titled({place: found for place, points in charts.items() if (found := _points(points))})


def _cost(known: Mapping[str, float] | None) -> dict[str, Any]:
    cost = known or {}
    return {"size": cost.get("bytes"), "flops": cost.get("flops"), "latency": cost.get("latency")}


class _Place(NamedTuple):
    """The chart that a check belongs to: that of its reference and data, for models or for stored data."""

    stored: bool
    reference: Identity
    data: Identity


_REFERENCE = Identity("the reference", "")


def _place(record: Record) -> _Place:
    return _Place("compressed_data" in record["subjects"], identity(record, "reference"), identity(record, "data"))


def candidate_of(record: Record) -> Identity:
    """Return who the candidate of a check is: the model, with its own data where it reads such."""
    roles = [role for role in ("candidate", "compressed_data") if role in record["subjects"]]
    keys = dict.fromkeys(identity(record, role).key for role in roles)
    return Identity(compressed_name(record), ", ".join(keys))


def _sized(record: Record) -> Identity:
    """Return whose size a point has: that of the stored data where there is some, else that of the model."""
    return identity(record, "compressed_data" if "compressed_data" in record["subjects"] else "candidate")


def _titled(charts: dict[_Place, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the charts, models first; titles name reference and data where there is more than one pair of them."""
    pairs = {(place.reference, place.data) for place in charts}
    references, data = (labels(dict.fromkeys(column)) for column in zip(*pairs, strict=True)) if pairs else ({}, {})
    found = []
    for place, points in sorted(charts.items(), key=lambda entry: entry[0].stored):
        title, axis = ("Stored data", "bytes per example") if place.stored else ("Models", "bytes on disk")
        if len(pairs) > 1:
            title += f" compared with {references[place.reference]} on {data[place.data]}"
        found.append({"title": title, "axis": axis, "points": points})
    return found


def _points(known: dict[Identity, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the points whose size is known, each with its own label; none where only the reference's is."""
    sized = {who: entry for who, entry in known.items() if entry["size"]}
    if not sized.keys() - {_REFERENCE}:
        return []
    names = labels(sized)
    points = [entry | {"name": names[who]} for who, entry in sized.items()]
    front = front_of(points)
    for point in points:
        point["on_front"] = any(point is one for one in front)
    return sorted(points, key=lambda point: (point["size"], -point["accuracy"]))
