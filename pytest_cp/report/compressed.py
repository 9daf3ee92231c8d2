"""What was compressed: its name in a check, who that is, and what share of its reference was changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from pytest_cp.checks.messages import changed_share
from pytest_cp.checks.recorder import Record


def compressed_name(record: Record) -> str:
    """Return what was compressed: the model's scheme, the data's codec, or both."""
    subjects = record["subjects"]
    names = [subjects[key]["name"] for key in ("candidate", "compressed_data", "decoded") if key in subjects]
    if len(names) > 1 and _is_reference(subjects):
        names = names[1:]
    return " + ".join(names) or "-"


def is_stored_data(record: Record) -> bool:
    """Tell whether what was compressed is data alone: the model, if any, is the reference itself."""
    subjects = record["subjects"]
    return bool({"compressed_data", "decoded"} & subjects.keys()) and (
        "candidate" not in subjects or _is_reference(subjects)
    )


def _is_reference(subjects: Mapping[str, Any]) -> bool:
    """Tell whether the candidate of a check is its reference."""
    own, other = (subjects.get(role, {}).get("digest") for role in ("candidate", "reference"))
    return own is not None and own == other


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


class Identity(NamedTuple):
    """A subject by name and digest; by name and test where it has no digest."""

    name: str
    key: str


def identity(record: Record, role: str) -> Identity:
    """Return who has a role in a check."""
    subject = record["subjects"][role]
    return Identity(subject["name"], short_digest(subject.get("digest")) or record["test"])


def short_digest(digest: str | None) -> str | None:
    """Return the first twelve digits of a digest."""
    return None if digest is None else digest.rpartition(":")[2][:12]


def labels(identities: Collection[Identity]) -> dict[Identity, str]:
    """Return a name for each, with its digest where others have the same name."""
    counts = Counter(one.name for one in identities)
    return {one: one.name if counts[one.name] == 1 else f"{one.name} ({one.key})" for one in identities}
