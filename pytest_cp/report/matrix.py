"""Candidate by level: what became of each candidate at each level, computed once for all reports."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cp_compress.fidelity.comparisons import known_comparisons
from pytest_cp.assertions import ASSERTIONS
from pytest_cp.baselines import brief_problem
from pytest_cp.checks.messages import changed_share, in_brief
from pytest_cp.checks.recorder import Record, decisive_requirement, nearness
from pytest_cp.report.compressed import Identity, compressed_name, is_stored_data, labels, short_digest
from pytest_cp.report.document import shown_outcome
from pytest_cp.report.sizes import candidate_of, known_costs

ORDER = ("pass", "waived", "inconclusive", "fail", "error")
"""Outcomes as reports show them, from the best to the worst."""

_LEVELS = {f"{kind}_{name}": level for level, name in ASSERTIONS.items() for kind in ("assert", "check")}


class Cell(NamedTuple):
    """A candidate at one level: the worst of its checks there, and the least headroom among those of that outcome.

    `told` says in few words what decided; `checks` are their positions in the report.
    """

    outcome: str
    asserted: bool
    headroom: float | None
    told: str
    checks: tuple[int, ...]


@dataclass
class Candidate:
    """A row: what was compressed, its cells by level, what it costs, and what it was not compared at.

    `unseen` are the levels at which something was asserted of others and not of it, `missing` its gates that compared
    nothing.

    `scheme` is the name without what tells it apart from others of that name; `known` is False for checks that do not
    tell what they are about. `number` counts the candidates of a report from 1.
    """

    name: str
    scheme: str
    cells: Mapping[str, Cell]
    cost: dict[str, float]
    changed: str
    coverage: Mapping[str, Any] | None
    unseen: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    known: bool = True
    number: int = 0

    @property
    def outcome(self) -> str:
        """The worst outcome of its asserted checks; "not asserted" where there are none."""
        found = [cell.outcome for cell in self.cells.values() if cell.asserted]
        return max(found, key=ORDER.index, default="not asserted")

    @property
    def lacks(self) -> list[str]:
        """The levels and the gates that did not compare it."""
        return self.unseen + self.missing

    @property
    def standing(self) -> str:
        """Its outcome, or "incomplete" where all that was compared holds and something was not."""
        held = self.known and self.outcome in ("pass", "waived")
        return "incomplete" if held and self.lacks else self.outcome

    @property
    def lacking(self) -> str:
        """What did not compare it, in a few words; empty where nothing is lacking."""
        absent = [level for level in self.unseen if level not in self.cells]
        parts = [f"not compared at {', '.join(absent)}"] if absent else []
        seen = [level for level in self.unseen if level in self.cells]
        parts += [f"not asserted at {', '.join(seen)}"] if seen else []
        if parts:
            return " and ".join(parts)
        count = len(self.missing)
        return f"{count} gate{'s' if count > 1 else ''} did not compare it" if count else ""

    @property
    def checks(self) -> list[int]:
        """The positions of all its checks, the worst first."""
        return sorted(position for cell in self.cells.values() for position in cell.checks)

    @property
    def headroom(self) -> float | None:
        """The least headroom of its cells with its outcome, None where there is none."""
        found = [
            one.headroom for one in self.cells.values() if one.outcome == self.outcome and one.headroom is not None
        ]
        return min(found, default=None)


@dataclass(frozen=True)
class Matrix:
    """The candidates that compete: models made from one reference, or data that was stored."""

    stored: bool
    reference: str
    levels: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    reference_cost: Mapping[str, float]

    @property
    def title(self) -> str:
        """What the candidates are."""
        return "Stored data" if self.stored else "Candidates"

    @property
    def size_unit(self) -> str:
        """The unit of their sizes."""
        return "bytes an example" if self.stored else "bytes"

    @property
    def required(self) -> tuple[str, ...]:
        """The levels at which a candidate was asserted to be as its reference."""
        known = [one for one in self.candidates if one.known]
        asserted = {level for one in known for level, cell in one.cells.items() if cell.asserted}
        return tuple(level for level in self.levels if level in asserted)


class _Group(NamedTuple):
    stored: bool
    reference: Identity | None


def build_matrices(document: Mapping[str, Any]) -> list[Matrix]:
    """Return the candidates of a report by level: models by their reference, and then stored data."""
    records = document["checks"]
    costs = known_costs(records)
    groups: dict[_Group, dict[Identity, list[int]]] = {}
    for position, (group, who) in enumerate(_placed(records)):
        groups.setdefault(group, {}).setdefault(who, []).append(position)
    named = labels({group.reference for group in groups if group.reference is not None})
    found = []
    for group, rows in sorted(groups.items(), key=lambda entry: entry[0].stored):
        names = labels(rows)
        positions = [position for row in rows.values() for position in row]
        rowed = [_candidate((names[who], who.name), records, row, costs, group.stored) for who, row in rows.items()]
        reference = "" if group.reference is None else named[group.reference]
        found.append(
            Matrix(
                group.stored,
                reference,
                _levels(records[position] for position in positions),
                tuple(rowed),
                _reference_cost(records, positions, costs, group.stored),
            )
        )
    _note_missing(found, document["not_compared"])
    return _ordered(found)


def level_of(record: Record) -> str:
    """Return the level of a check: its comparison, also where an error left none."""
    return str(record["comparison"] or _LEVELS.get(record["assertion"], record["assertion"]))


def outcomes_by_candidate(records: Sequence[Record], matrices: Iterable[Matrix]) -> dict[Identity, str]:
    """Return where each candidate stands over all its checks."""
    return {
        candidate_of(records[position]): candidate.standing
        for matrix in matrices
        for candidate in matrix.candidates
        for position in candidate.checks
        if "candidate" in records[position]["subjects"]
    }


def why(record: Record) -> str:
    """Return in few words what decided about a check."""
    problem, found = brief_problem(record), decisive_requirement(record)
    if problem:
        return problem
    if found is None:
        return str(record["error"]).partition("\n")[0]
    return in_brief(found)


def _placed(records: Sequence[Record]) -> list[tuple[_Group, Identity]]:
    """Return where each check belongs: its group, and who its candidate is.

    A check that does not tell its candidate, as one that was refused, belongs to the one that its test names.
    """
    told = [_told_place(record) for record in records]
    known = dict.fromkeys(place for place in told if place is not None)
    placed = []
    for record, place in zip(records, told, strict=True):
        if place is None:
            called = _called(record["test"], [who.name for _, who in known])
            fitting = [one for one in known if one[1].name == called]
            place = fitting[0] if len(fitting) == 1 else (_Group(False, None), Identity(record["test"], ""))
        elif not place[1].key:  # without a digest it is the one of that name, where there is only one
            same = [one for one in known if one[0] == place[0] and one[1].name == place[1].name and one[1].key]
            place = same[0] if len(same) == 1 else place
        placed.append(place)
    return _joined(placed)


def _joined(placed: list[tuple[_Group, Identity]]) -> list[tuple[_Group, Identity]]:
    """Put checks whose reference is not known beside the others, where there is only one other group of models."""
    models = {group for group, _ in placed if not group.stored and group.reference is not None}
    if len(models) != 1:
        return placed
    (only,) = models
    return [(group if group.stored or group.reference else only, who) for group, who in placed]


def _told_place(record: Record) -> tuple[_Group, Identity] | None:
    subjects = record["subjects"]
    name = compressed_name(record)
    if name == "-":
        return None
    if is_stored_data(record):  # of a codec it does not matter which model reads what it stored
        return _Group(True, None), Identity(name, "")
    reference = subjects.get("reference")
    behind = None if reference is None else Identity(reference["name"], short_digest(reference.get("digest")) or "")
    digests = [short_digest(subjects[role].get("digest")) for role in ("candidate",) if role in subjects]
    return _Group(False, behind), Identity(name, ", ".join(filter(None, digests)))


def _candidate(
    names: tuple[str, str], records: Sequence[Record], positions: list[int], costs: Mapping[Identity, Any], stored: bool
) -> Candidate:
    by_level: dict[str, list[int]] = {}
    for position in positions:
        by_level.setdefault(level_of(records[position]), []).append(position)
    cells = {level: _cell(records, found) for level, found in by_level.items()}
    subjects = [records[position]["subjects"] for position in positions]
    covered: dict[str, Any] = next((one["candidate"] for one in subjects if "coverage" in one.get("candidate", {})), {})
    roles = ("compressed_data", "decoded") if stored else ("candidate",)
    cost = _cost_of(records, positions, costs, roles)
    known = any(compressed_name(records[position]) != "-" for position in positions)
    return Candidate(*names, cells, cost, changed_share(covered), covered.get("coverage"), known=known)


def _cost_of(
    records: Sequence[Record], positions: Iterable[int], costs: Mapping[Identity, Any], roles: Sequence[str]
) -> dict[str, float]:
    found: dict[str, float] = {}
    for position in positions:
        subjects = records[position]["subjects"]
        for role in roles:
            if role in subjects:
                key = short_digest(subjects[role].get("digest")) or records[position]["test"]
                found = {**costs.get(Identity(subjects[role]["name"], key), {}), **found}
    return found


def _reference_cost(
    records: Sequence[Record], positions: list[int], costs: Mapping[Identity, Any], stored: bool
) -> dict[str, float]:
    return _cost_of(records, positions, costs, ("data", "original") if stored else ("reference",))


def _cell(records: Sequence[Record], positions: list[int]) -> Cell:
    """Return what became of a level: asserted checks decide, and others where there are none."""
    asserted = [position for position in positions if records[position]["asserted"]]
    counted = asserted or positions
    worst = max((shown_outcome(records[position]) for position in counted), key=ORDER.index)
    deciding = [records[position] for position in counted if shown_outcome(records[position]) == worst]
    first = min(deciding, key=nearness)
    return Cell(worst, bool(asserted), _least_headroom(deciding), why(first), tuple(positions))


def _least_headroom(records: Iterable[Record]) -> float | None:
    """Return the least headroom among the requirements that decide, those that do not hold where there are such."""
    found = []
    for record in records:
        entries = [one for one in record["requirements"] if one["outcome"] != "pass"] or record["requirements"]
        found += [one["headroom"] for one in entries if isinstance(one.get("headroom"), (int, float))]
    return min(found, default=None)


def _levels(records: Iterable[Record]) -> tuple[str, ...]:
    order = list(known_comparisons())
    found = dict.fromkeys(level_of(record) for record in records)
    return tuple(sorted(found, key=lambda level: order.index(level) if level in order else len(order)))


def _first_to_read(candidate: Candidate) -> tuple[Any, ...]:
    """Order rows: those that pass everywhere first, the smallest at the top, then the others, the nearest first."""
    held = -sum(cell.outcome in ("pass", "waived") for cell in candidate.cells.values())
    size = candidate.cost.get("bytes", float("inf"))
    outcome = ORDER.index(candidate.outcome) if candidate.outcome in ORDER else len(ORDER)
    passed = candidate.standing == "pass"
    return (not passed, size, 0, candidate.name) if passed else (True, held, outcome, size, candidate.name)


def _ordered(matrices: Iterable[Matrix]) -> list[Matrix]:
    """Return matrices with their rows in the order of reading, numbered."""
    ordered = [
        dataclasses.replace(matrix, candidates=tuple(sorted(matrix.candidates, key=_first_to_read)))
        for matrix in matrices
    ]
    for number, candidate in enumerate((one for matrix in ordered for one in matrix.candidates), start=1):
        candidate.number = number
    return ordered


def _note_missing(matrices: Sequence[Matrix], not_compared: Iterable[Mapping[str, Any]]) -> None:
    """Let candidates know of levels at which others were compared, and of gates that name them and compared nothing."""
    for matrix in matrices:
        for candidate in matrix.candidates:
            held = [level for level, cell in candidate.cells.items() if cell.asserted]
            candidate.unseen = [level for level in matrix.required if level not in held]
    candidates = [candidate for matrix in matrices for candidate in matrix.candidates if candidate.known]
    for entry in not_compared:
        called = _called(entry["test"], [one.scheme for one in candidates])
        for candidate in candidates:
            if candidate.scheme == called:
                candidate.missing.append(entry["test"])


def _called(test: str, names: Iterable[str]) -> str | None:
    """Return the longest of some names that a test's node ID contains as whole words, None where it has none."""
    inside = [name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", test)]
    return max(inside, key=len, default=None)
