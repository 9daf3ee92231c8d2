"""What was compressed, over all checks: name, accuracy and size, and the front that no other point dominates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from pytest_cp.checks.messages import changed_share
from pytest_cp.checks.recorder import Record


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


def changed_cell(record: Record) -> str:
    """Return what share of its reference the candidate of a check changed, in a few words."""
    return changed_share(record["subjects"].get("candidate", {}))


def coverage_lines(records: Sequence[Record]) -> list[str]:
    """Return what a reader must know of the coverage of each candidate, the least first, and unknown before all.

    Candidates that changed most weights of their reference, in one step, have no line.
    """
    found: dict[str, tuple[float, str]] = {}
    for record in records:
        subject = record["subjects"].get("candidate", {})
        coverage = subject.get("coverage")
        if coverage is None:
            continue
        told = [*coverage["notes"], *coverage["steps"]]
        if coverage["share"] is None:
            found[f"{subject['name']}: {coverage['text']}"] = (-1.0, "")
        elif told:
            found[f"{subject['name']}: {'; '.join(told)}"] = (coverage["share"], subject["name"])
    return sorted(found, key=lambda line: found[line])


def size_table(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return accuracy against size of the models, and of the stored data, where both are known.

    There is one chart for each reference and data set, since accuracies on other data do not compare. Each has a title,
    the axis' name and points: name, accuracy, size, on_front, and reference_accuracy for all but the reference.
    """
    sizes = _known_sizes(records)
    charts: dict[_Place, dict[_Identity, dict[str, Any]]] = {}
    for record in records:
        accuracy, subjects = record["metrics"].get("accuracy"), record["subjects"]
        if record["comparison"] == "predictions" and _is_number(accuracy) and "data" in subjects:
            place = _place(record)
            point = {"name": compressed_name(record), "size": sizes.get(_sized(record)), "accuracy": accuracy}
            before = record["metrics"]["reference_accuracy"]
            charts.setdefault(place, {})[_candidate(record)] = point | {"reference_accuracy": before}
            size = sizes.get(place.data if place.stored else place.reference)
            charts[place][_REFERENCE] = {"name": _REFERENCE.name, "size": size, "accuracy": before}
    return _titled({place: found for place, points in charts.items() if (found := _points(points))})


class _Identity(NamedTuple):
    """A subject by name and digest; by name and test where it has no digest."""

    name: str
    key: str


class _Place(NamedTuple):
    """The chart that a check belongs to: that of its reference and data, for models or for stored data."""

    stored: bool
    reference: _Identity
    data: _Identity


_REFERENCE = _Identity("the reference", "")


def _identity(record: Record, role: str) -> _Identity:
    subject = record["subjects"][role]
    return _Identity(subject["name"], _short_digest(subject["digest"]) or record["test"])


def _short_digest(digest: str | None) -> str | None:
    return None if digest is None else digest.rpartition(":")[2][:12]


def _place(record: Record) -> _Place:
    return _Place("compressed_data" in record["subjects"], _identity(record, "reference"), _identity(record, "data"))


def _candidate(record: Record) -> _Identity:
    """Return who a point is: the model, with its own data where it reads such."""
    roles = [role for role in ("candidate", "compressed_data") if role in record["subjects"]]
    keys = dict.fromkeys(_identity(record, role).key for role in roles)
    return _Identity(compressed_name(record), ", ".join(keys))


def _sized(record: Record) -> _Identity:
    """Return whose size a point has: that of the stored data where there is some, else that of the model."""
    return _identity(record, "compressed_data" if "compressed_data" in record["subjects"] else "candidate")


def _known_sizes(records: Sequence[Record]) -> dict[_Identity, float]:
    """Return the bytes on disk of models and the bytes an example of data, from whichever check knows them."""
    found: dict[_Identity, float] = {}
    for record in records:
        sizes = (record.get("evidence") or {}).get("sizes") or {}
        for who, data in (("candidate", "compressed_data"), ("reference", "data")):
            size = sizes.get(who) or {"model": None, "bytes_per_example": None}
            model = record["details"].get(who) if record["comparison"] == "footprint" else size["model"]
            if model:
                found.setdefault(_identity(record, who), model["artifact_bytes"])
            if data in record["subjects"] and size["bytes_per_example"]:
                found.setdefault(_identity(record, data), size["bytes_per_example"])
    return found


def _titled(charts: dict[_Place, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the charts, models first; titles name reference and data where there is more than one pair of them."""
    pairs = {(place.reference, place.data) for place in charts}
    references, data = (_labels(dict.fromkeys(column)) for column in zip(*pairs, strict=True)) if pairs else ({}, {})
    found = []
    for place, points in sorted(charts.items(), key=lambda entry: entry[0].stored):
        title, axis = ("Stored data", "bytes per example") if place.stored else ("Models", "bytes on disk")
        if len(pairs) > 1:
            title += f" compared with {references[place.reference]} on {data[place.data]}"
        found.append({"title": title, "axis": axis, "points": points})
    return found


def _labels(identities: Collection[_Identity]) -> dict[_Identity, str]:
    """Return a name for each, with its digest where others have the same name."""
    counts = Counter(one.name for one in identities)
    return {one: one.name if counts[one.name] == 1 else f"{one.name} ({one.key})" for one in identities}


def _points(known: dict[_Identity, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the points whose size is known, each with its own label; none where only the reference's is."""
    sized = {who: entry for who, entry in known.items() if entry["size"]}
    if not sized.keys() - {_REFERENCE}:
        return []
    labels = _labels(sized)
    points = [entry | {"name": labels[who]} for who, entry in sized.items()]
    for point in points:
        point["on_front"] = not any(_beats(other, point) for other in points)
    return sorted(points, key=lambda point: (point["size"], -point["accuracy"]))


def _beats(other: dict[str, Any], point: dict[str, Any]) -> bool:
    """Tell whether another is no worse in both, and better in one."""
    no_worse = other["size"] <= point["size"] and other["accuracy"] >= point["accuracy"]
    return bool(no_worse and (other["size"] < point["size"] or other["accuracy"] > point["accuracy"]))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))
