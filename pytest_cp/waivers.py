"""Waivers: known deviations that somebody answers for, up to a size and a date.

They are written in a TOML file that the ini key `cp_waivers` names. A waiver covers a requirement that does not hold,
as long as the value is no worse than `at_worst` and the day is not past `expires`; it never covers a check that could
not be made, nor one that is worse than its baseline.
"""

from __future__ import annotations

import datetime
import fnmatch
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cp_compress.base.reasons import shortened
from pytest_cp.records import Record
from pytest_cp.toml_files import TomlError, read_toml

_KEYS = {"test": str, "metric": str, "at_worst": (int, float), "owner": str, "reason": str, "expires": datetime.date}


class WaiverError(Exception):
    """A file of waivers cannot be read, or one of them does not say what it must."""


@dataclass(frozen=True)
class Waiver:
    """One known deviation: in which tests, of which metric, how large, who answers for it, why, and until when."""

    test: str
    metric: str
    at_worst: float
    owner: str
    reason: str
    expires: datetime.date

    def expired(self, today: datetime.date) -> bool:
        """Tell whether the waiver's last day is past."""
        return today > self.expires

    def matches(self, test: str, metric: str) -> bool:
        """Tell whether the waiver is about this metric of this test; `*` and `?` stand for any text."""
        pattern = self.test.replace("[", "[[]")  # the brackets of parameters are themselves
        return metric == self.metric and fnmatch.fnmatchcase(test, pattern)

    def reaches(self, result: Record) -> bool:
        """Tell whether a judged requirement is no worse than the deviation that is known."""
        value = float(result["value"])
        return value >= self.at_worst if result["direction"] == "min" else value <= self.at_worst

    def to_json(self) -> Record:
        """Return the waiver as plain Python types."""
        return {
            "test": self.test,
            "metric": self.metric,
            "at_worst": self.at_worst,
            "owner": self.owner,
            "reason": self.reason,
            "expires": self.expires.isoformat(),
        }


class Waivers:
    """The waivers of a session."""

    def __init__(self, waivers: Iterable[Waiver] = (), today: datetime.date | None = None) -> None:
        self.known = tuple(waivers)
        self._today = today if today is not None else datetime.date.today()

    def cover(self, record: Record) -> list[Record]:
        """Return the waivers that cover all requirements of a check that do not hold; empty when one is not covered."""
        broken = [result for result in record["requirements"] if result["outcome"] != "pass"]
        if any(result["outcome"] == "error" for result in broken):
            return []
        found = [self._waiver_of(record["test"], result) for result in broken]
        if not found or any(waiver is None for waiver in found):
            return []
        return [
            waiver.to_json() | {"requirement": result["requirement"]}
            for waiver, result in zip(found, broken, strict=True)
            if waiver is not None
        ]

    def _waiver_of(self, test: str, result: Record) -> Waiver | None:
        fitting = (one for one in self.known if one.matches(test, result["metric"]) and not one.expired(self._today))
        return next((waiver for waiver in fitting if waiver.reaches(result)), None)

    def hints(self, record: Record) -> list[str]:
        """Return for a check that fails why a waiver that is about it does not cover it."""
        hints = []
        for result in record["requirements"]:
            for waiver in self.known:
                if result["outcome"] == "pass" or not waiver.matches(record["test"], result["metric"]):
                    continue
                if waiver.expired(self._today):
                    hints.append(f"the waiver of {waiver.owner} for {waiver.metric} expired on {waiver.expires}")
                elif result["outcome"] != "error" and not waiver.reaches(result):
                    hints.append(f"the waiver of {waiver.owner} covers {waiver.metric} up to {waiver.at_worst:g} only")
        return hints

    def report(self, records: Iterable[Record]) -> list[Record]:
        """Return every waiver with whether it is expired and which tests used it."""
        seen = list(records)
        rows = []
        for waiver in self.known:
            plain = waiver.to_json()
            used = sorted(
                {record["test"] for record in seen for one in record["waivers"] if plain.items() <= one.items()}
            )
            rows.append(plain | {"expired": waiver.expired(self._today), "used_by": used})
        return rows


def read_waivers(path: Path) -> Waivers:
    """Return the waivers of a TOML file, one table `[[waiver]]` each; raises WaiverError with what is wrong."""
    try:
        content = read_toml(path)[1]
    except TomlError as error:
        raise WaiverError(str(error)) from error
    tables = content.pop("waiver", [])
    if content or not isinstance(tables, list):
        held = shortened(", ".join(content) or "waiver", 200)
        raise WaiverError(f"{path}: holds {held}; a file of waivers has tables [[waiver]] only")
    return parse_waivers(tables, str(path))


def parse_waivers(tables: Iterable[Any], where: str) -> Waivers:
    """Return waivers written as mappings; raises WaiverError that begins with `where`."""
    return Waivers(_parse(table, f"{where}, waiver {number}") for number, table in enumerate(tables, start=1))


def _parse(table: Any, where: str) -> Waiver:
    if not isinstance(table, dict):
        raise WaiverError(f"{where}: must be a table with {', '.join(_KEYS)}")
    unknown, missing = sorted(table.keys() - _KEYS.keys()), sorted(_KEYS.keys() - table.keys())
    if unknown or missing:
        text = "; ".join(
            part
            for part in (
                f"lacks {', '.join(missing)}" if missing else "",
                f"unknown are {shortened(', '.join(unknown), 200)}" if unknown else "",
            )
            if part
        )
        raise WaiverError(f"{where}: {text}; a waiver has {', '.join(_KEYS)}")
    for key, kind in _KEYS.items():
        value = table[key]
        if not isinstance(value, kind) or isinstance(value, (bool, datetime.datetime)):  # type: ignore[arg-type]
            form = "a date such as 2030-01-31" if key == "expires" else "a number" if key == "at_worst" else "a text"
            raise WaiverError(f"{where}: {key} = {shortened(repr(value), 80)}: must be {form}")
        if isinstance(value, str) and not value.strip():
            raise WaiverError(f"{where}: {key} is empty")
    if not math.isfinite(table["at_worst"]):
        raise WaiverError(f"{where}: at_worst = {table['at_worst']}: a deviation without limit cannot be waived")
    _require_metric(table["metric"], where)
    _require_limit(table["metric"], table["at_worst"], where)
    return Waiver(**{**table, "at_worst": float(table["at_worst"])})


def _require_metric(metric: str, where: str) -> None:
    from cp_compress.base.errors import InvalidArgumentError
    from cp_compress.fidelity.measurement import find_comparison

    try:
        find_comparison(metric)
    except InvalidArgumentError as error:
        raise WaiverError(f"{where}: {error}") from error


def _require_limit(metric: str, at_worst: float, where: str) -> None:
    from cp_compress.fidelity.measurement import metric_range

    low, high = metric_range(metric)
    if not low < at_worst < high:
        rule = f"{metric} lies in [{low:g}, {high:g}], and at an end or beyond it all would be waived, or nothing"
        raise WaiverError(f"{where}: at_worst = {at_worst:g}: {rule}")
