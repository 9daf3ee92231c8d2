"""The checks of one running test: runs of one check are joined, and what nobody was told of is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cp_compress.base.outcomes import SEVERITY

if TYPE_CHECKING:
    from pytest_cp.checks.asked import Asked

Record = dict[str, Any]
"""A check as plain JSON."""


@dataclass(frozen=True)
class HeldTo:
    """What applies to the checks of a test in addition to their own requirements.

    `baseline` returns a check's verdict against its baseline, or None; `waivers` returns the waivers that cover its
    failure; `hints` returns why other waivers do not.
    """

    baseline: Callable[[Record], Record | None]
    waivers: Callable[[Record], list[Record]]
    hints: Callable[[Record], list[str]]


class Recorder:
    """The checks of one running test.

    `arguments` are those of pytest with which the test runs in the same way again.
    """

    def __init__(self, test: str, arguments: tuple[str, ...] = (), held_to: HeldTo | None = None) -> None:
        self.test = test
        self.arguments = arguments
        self.held_to = held_to
        self._records: dict[tuple[str, ...], Record] = {}
        self._worst: dict[tuple[str, ...], Record] = {}
        self._set_aside: dict[tuple[str, ...], Record] = {}
        self._told: set[tuple[str, ...]] = set()
        self.refused: str | None = None
        self.asked: Asked | None = None

    def number(self, record: Record) -> int:
        """Return 1 for a check, 2 for the second of its name that is about other subjects or options, and so on.

        A `check_…` call and an assertion about the same subjects share one number.
        """
        name, numbers = _name(record), {_matter(kept): kept["ordinal"] for kept in self._records.values()}
        others = {_matter(kept) for kept in self._records.values() if _name(kept) == name}
        return int(numbers.get(_matter(record), len(others) + 1))

    def add(self, record: Record) -> Record:
        """Keep a check, and of one made many times (by Hypothesis) the last of the worst; return it as given.

        Hypothesis ends with the simplest failure that it found; the run with the least headroom is kept in "worst".
        """
        key = _key(record)
        self._told.discard(key)
        earlier = self._records.get(key)
        kept = earlier if earlier is not None and _is_milder(record, earlier) else record
        kept["runs"] = 1 if earlier is None else earlier["runs"] + 1
        self._records[key] = kept
        worst = self._worst.setdefault(key, record)
        if nearness(record) < nearness(worst):
            self._worst[key] = worst = record
        if kept["runs"] > 1:
            kept["worst"] = _worst_run(worst)
            record["runs"], record["worst"] = kept["runs"], kept["worst"]
        return record

    def set_aside(self, record: Record) -> None:
        """Keep a run of a check that showed nothing; it is the check only where no other run shows something."""
        key = _key(record)
        earlier = self._set_aside.setdefault(key, record)
        record["runs"] = earlier["runs"] + (record is not earlier)
        self._set_aside[key] = record

    @property
    def failed(self) -> list[Record]:
        """The asserted checks that did not pass, those first that nothing has told of yet."""
        records = self._set_aside | self._records
        failed = [key for key, record in records.items() if record["asserted"] and not stands(record)]
        return [records[key] for key in sorted(failed, key=self._told.__contains__)]

    @property
    def caught(self) -> Record | None:
        """A failed check of which nothing has told, or None: in a test that passes, something swallowed it."""
        return next((record for record in self.failed if _key(record) not in self._told), None)

    def tell(self) -> None:
        """Count the failures so far as told: a part of the test, such as a subtest, was reported as failed by them."""
        self._told.update(map(_key, self.failed))
        self.refused = None

    def refuse(self, assertion: str, error: Exception) -> None:
        """Keep why an assertion was refused before there was a check."""
        self.refused = self.refused or f"{assertion}: {type(error).__name__}: {error}"

    def take(self) -> list[Record]:
        """Return the records and forget them."""
        for key, aside in self._set_aside.items():
            kept = self._records.setdefault(key, aside)
            kept["notes"] = [*kept["notes"], f"{aside['runs']} runs showed nothing and do not count"]
        records = list(self._records.values())
        for kind in (self._records, self._worst, self._set_aside, self._told):
            kind.clear()
        self.refused = None
        return records

    @property
    def comparisons(self) -> int:
        """The number of different checks that compared something, whatever they found."""
        return sum(record["outcome"] != "error" for record in self._records.values())


def stands(record: Record) -> bool:
    """Tell whether a check passed or is waived, and is no worse than its baseline."""
    return (record["outcome"] == "pass" or bool(record["waivers"])) and not record["baseline_problems"]


def _is_milder(record: Record, earlier: Record) -> bool:
    if stands(record) != stands(earlier):
        return stands(record)
    if record["explored"] and record["asserted"] and not stands(record):
        return False  # the last failure is the one that Hypothesis reports
    return SEVERITY.index(record["outcome"]) < SEVERITY.index(earlier["outcome"])


def _key(record: Record) -> tuple[str, ...]:
    """Return what makes two records runs of one check; a `check_…` call never counts as a run of an assertion."""
    return "asserted" if record["asserted"] else "looked at", *_matter(record)


def _matter(record: Record) -> tuple[str, ...]:
    """Return what a record is about: its assertion, subjects, requirements and options."""
    requirements = ", ".join(entry["requirement"] for entry in record["requirements"])
    subjects = sorted(record["subjects"].items())
    if record["explored"]:  # what Hypothesis draws, data and options too, makes other runs of one check
        return record["assertion"], str([(role, subject["name"]) for role, subject in subjects]), requirements
    # where answers depend on the batch, each batch size is a matter of its own
    size = record["details"].get("batch_dependence", {}).get("batch_size")
    return record["assertion"], str(subjects), requirements, str(record["options"]), str(size)


def _name(record: Record) -> tuple[str, ...]:
    plain = {name: value for name, value in record["options"].items() if not isinstance(value, dict)}
    metrics = sorted(entry["metric"] for entry in record["requirements"])
    return record["assertion"], str(metrics), str(plain)


def nearness(record: Record) -> tuple[bool, float, float]:
    """Return what orders records of one outcome: least headroom first, then those without any, by their margin."""
    decisive = decisive_requirement(record)
    headroom = decisive.get("headroom") if decisive is not None else None
    margin = decisive["margin"] if decisive is not None else None
    shown = headroom if isinstance(headroom, (int, float)) else None
    return shown is None, 0.0 if shown is None else shown, margin if isinstance(margin, (int, float)) else math.inf


def _worst_run(record: Record) -> Record | None:
    """Return what a reader needs of the worst of many runs: the finding and its examples."""
    decisive = decisive_requirement(record)
    if decisive is None:
        return None
    return {"metric": decisive["metric"], "value": decisive["value"], "examples": record["examples"][:3]}


def decisive_requirement(record: Record) -> Record | None:
    """Return the judged requirement that decides a record's outcome, or None for a check that errored."""
    return next((entry for entry in record["requirements"] if entry["requirement"] == record["decisive"]), None)
