"""Waivers: known deviations with an owner, a limit and an expiry date.

They are read from the TOML file named by the ini key `cp_waivers`. A waiver covers a requirement that does not hold,
as long as the value is no worse than `at_worst` and the day is not past `expires`; it never covers a check that could
not be made, nor one that is worse than its baseline.
"""

from __future__ import annotations

import datetime
import difflib
import fnmatch
import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cp_compress.base.error_reasons import shortened
from cp_compress.base.numbers import number, percent
from pytest_cp.checks.recorder import Record
from pytest_cp.waivers.toml_files import TomlError, read_toml

_KEYS: dict[str, Any] = {
    "test": str,
    "metric": str,
    "at_worst": (int, float),
    "owner": str,
    "reason": str,
    "expires": datetime.date,
}
_LONGEST_YEARS = 1.5
_MOST_TOLD = 20  # an untrusted table may have any number of keys


class WaiverError(Exception):
    """A file of waivers cannot be read, or one of the waivers is invalid."""


@dataclass(frozen=True)
class Waiver:
    """One known deviation: its tests, metric, limit, owner, reason and expiry date."""

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
        """Tell whether the waiver applies to this metric of this test; `*` and `?` are wildcards."""
        pattern = self.test.replace("[", "[[]")  # the brackets of parameters are themselves
        return metric == self.metric and fnmatch.fnmatchcase(test, pattern)

    def reaches(self, result: Record) -> bool:
        """Tell whether the value of a judged requirement is no worse than the limit of the waiver.

        An inconclusive claim must be proven to be no worse: what was found in too few examples is no known deviation.
        """
        value = _at_worst(result)
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


def _at_worst(result: Record) -> float:
    """Return the value of a requirement; of an inconclusive claim, the worst that the data do not refute."""
    if result["outcome"] != "inconclusive":
        return float(result["value"])
    low, high = result["interval"]
    return float(low if result["direction"] == "min" else high)


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
        """Return why waivers that match a failed check do not cover it."""
        hints = []
        for result in record["requirements"]:
            for waiver in self.known:
                if result["outcome"] == "pass" or not waiver.matches(record["test"], result["metric"]):
                    continue
                if waiver.expired(self._today):
                    hints.append(f"waiver for {waiver.metric} (owner {waiver.owner}) expired on {waiver.expires}")
                elif result["outcome"] != "error" and not waiver.reaches(result):
                    found = _at_worst(result)
                    limit = f"covers {number(waiver.at_worst, found, digits=6)} at worst"
                    if result["outcome"] == "inconclusive":
                        shown = number(found, waiver.at_worst, digits=6)
                        limit += f", but no better than {shown} is proven at {percent(result['confidence'], digits=0)}"
                    hints.append(f"waiver for {waiver.metric} (owner {waiver.owner}) {limit}")
        return hints

    def doubts(self, gates: Collection[str]) -> list[str]:
        """Return a sentence for each waiver that does not look like one known deviation for a limited time.

        `gates` are the node IDs of the gates of a session.
        """
        found = []
        for waiver in self.known:
            who = f"the waiver for {waiver.metric} in {waiver.test} (owner {waiver.owner})"
            years = (waiver.expires - self._today).days / 365.25
            if years > _LONGEST_YEARS:
                found.append(f"{who} does not expire for {years:.0f} years: a known deviation is to be mended")
            if len(gates) > 1 and all(waiver.matches(test, waiver.metric) for test in gates):
                found.append(
                    f"{who} applies to each of the {len(gates)} gates of this session: name the tests it is for"
                )
        return found

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


def unused(waiver: Record, records: Iterable[Record]) -> str:
    """Return why no test used a waiver of the report: a name that no check has is often misspelt."""
    fields = {name: waiver[name] for name in _KEYS} | {"expires": datetime.date.fromisoformat(waiver["expires"])}
    if any(Waiver(**fields).matches(record["test"], waiver["metric"]) for record in records):
        return "not used in this session"
    return "not used in this session: no check has this name"


def read_waivers(path: Path) -> Waivers:
    """Return the waivers of a TOML file, one table `[[waiver]]` each; raises WaiverError with what is wrong."""
    try:
        content = read_toml(path)[1]
    except TomlError as error:
        raise WaiverError(str(error)) from error
    tables = content.pop("waiver", [])
    if content or not isinstance(tables, list):
        held = shortened(", ".join(content) or "waiver", 200)
        raise WaiverError(f"{path}: unexpected {held}; a waiver file may contain only [[waiver]] tables")
    return parse_waivers(tables, str(path))


def parse_waivers(tables: Iterable[Any], where: str) -> Waivers:
    """Return waivers written as mappings; raises WaiverError that begins with `where`."""
    return Waivers(_parse(table, f"{where}, waiver {number}") for number, table in enumerate(tables, start=1))


def _parse(table: Any, where: str) -> Waiver:
    problems = waiver_problems(table)
    if problems:
        raise WaiverError("\n".join(f"{where}: {told}" for _, told in problems))
    return Waiver(**{**table, "at_worst": float(table["at_worst"])})


def waiver_problems(table: Any) -> list[tuple[str | None, str]]:
    """Return all that is wrong with a waiver: the key that each is about, or None for the whole, and what it is."""
    if not isinstance(table, dict):
        return [(None, f"must be a table with {', '.join(_KEYS)}")]
    found: list[tuple[str | None, str]] = []
    missing = sorted(_KEYS.keys() - table.keys())
    if missing:
        found.append((None, f"missing {', '.join(missing)}; a waiver needs {', '.join(_KEYS)}"))
    for key in sorted(table.keys() - _KEYS.keys())[:_MOST_TOLD]:
        found.append((key, f"unknown key {shortened(key, 200)}; {_advice(key, _KEYS, 'known keys are')}"))
    for key in _KEYS:
        told = _value_problem(key, table[key]) if key in table else None
        if told is not None:
            found.append((key, told))
    if not found:
        told = _limit_problem(table["metric"], table["at_worst"])
        found += [("at_worst", told)] if told is not None else []
    return found


def _value_problem(key: str, value: Any) -> str | None:
    """Return what is wrong with one value of a waiver, or None."""
    if not isinstance(value, _KEYS[key]) or isinstance(value, (bool, datetime.datetime)):
        form = "a date such as 2030-01-31" if key == "expires" else "a number" if key == "at_worst" else "a string"
        return f"{key} = {shortened(repr(value), 80)}: must be {form}"
    if isinstance(value, str) and not value.strip():
        return f"{key} is empty"
    if key == "test" and not re.search(r"\w", value):
        return f"test = {shortened(repr(value), 80)}: matches every test; name the tests with the known deviation"
    if key == "at_worst" and not math.isfinite(value):
        return f"at_worst = {value}: must be a finite number; a waiver needs a limit"
    return _metric_problem(value) if key == "metric" else None


def _metric_problem(metric: str) -> str | None:
    from cp_compress.base.errors import InvalidArgumentError
    from cp_compress.fidelity.judging.metrics import find_comparison, known_metrics

    try:
        find_comparison(metric)
    except InvalidArgumentError as error:
        known = [name for metrics in known_metrics().values() for name in metrics]
        close = difflib.get_close_matches(metric, known, n=1)
        if not close:
            return str(error)
        return f"metric = {shortened(repr(metric), 80)}: unknown metric; did you mean {close[0]}?"
    return None


def _limit_problem(metric: str, at_worst: float) -> str | None:
    from cp_compress.fidelity.judging.metrics import find_metric

    found = find_metric(metric)
    low, high = found.low, found.high
    if low < at_worst < high:
        return None
    rule = f"must lie inside the range of {metric}, [{low:g}, {high:g}]; a limit at or beyond its ends has no effect"
    return f"at_worst = {at_worst:g}: {rule}"


def _advice(name: str, known: Collection[str], else_told: str) -> str:
    """Return the known name that is meant, where one is close, else all of them."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}?" if close else f"{else_told} {', '.join(known)}"
