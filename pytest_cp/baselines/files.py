"""Baseline files: one sorted JSON file per test module, validated on reading and replaced as a whole."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from cp_compress.base.documents import read_document
from cp_compress.base.error_reasons import reason_of, shortened
from cp_compress.base.files import read_regular_text, write_atomically
from pytest_cp.checks.recorder import Record

SCHEMA_VERSION = 2
_MAX_BYTES = 64 * 1024 * 1024
_DIRECTIONS = ("min", "max")


class BaselineFileError(Exception):
    """A baseline file cannot be read, or does not hold what a baseline file holds."""


def read_entries(path: Path) -> dict[str, Record]:
    """Return the checks of a file, none where there is no file; raises BaselineFileError for a damaged one."""
    try:
        content = read_document(read_regular_text(path, _MAX_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BaselineFileError(f"baseline {path} cannot be read: {reason_of(error)}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        shown = shortened(repr(version), 80)
        remedy = "delete the file and write it again with --cp-baseline=new"
        raise BaselineFileError(f"baseline {path} has schema version {shown}, not {SCHEMA_VERSION}: {remedy}")
    checks = content.get("checks")
    if not isinstance(checks, dict):
        raise BaselineFileError(f'baseline {path} has no object "checks"')
    for name, entry in checks.items():
        trouble = _trouble(entry)
        if trouble is not None:
            raise BaselineFileError(f"baseline {path}, check {shortened(repr(name), 200)}: {trouble}")
    return checks


def write_entries(path: Path, entries: dict[str, Record]) -> None:
    """Replace the file by one that holds these checks; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"schema_version": SCHEMA_VERSION, "checks": entries}
    write_atomically(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def _trouble(entry: Any) -> str | None:
    """Return what makes an entry unusable, or None."""
    parts = ("metrics", "measured_on", "environment")
    if not isinstance(entry, dict) or not all(isinstance(entry.get(part), dict) for part in parts):
        return f"must contain the objects {', '.join(parts)}"
    for metric, saved in entry["metrics"].items():
        if not isinstance(saved, dict) or saved.get("direction") not in _DIRECTIONS:
            return f"{shortened(metric, 80)} must have a value and a direction, min or max"
        if not _is_number(saved.get("value")):
            value = shortened(repr(saved.get("value")), 80)
            return f"{shortened(metric, 80)} has the value {value}, which is not a number"
        low, high = _range_of(metric)
        if not low <= float(saved["value"]) <= high:
            value = shortened(str(saved["value"]), 80)
            return f"{shortened(metric, 80)} has the value {value}, outside its range [{low:g}, {high:g}]"
    return None if entry["metrics"] else "contains no metric"


def _range_of(metric: str) -> tuple[float, float]:
    """Return the values that a metric can take; all where no comparison gives it, which only makes an entry stale."""
    from cp_compress.fidelity.judging.metrics import known_metric

    found = known_metric(metric)
    return (-math.inf, math.inf) if found is None else (found.low, found.high)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value in ("inf", "-inf")
    try:
        return not math.isnan(float(value))
    except OverflowError:  # of a whole number that no metric can have
        return False
