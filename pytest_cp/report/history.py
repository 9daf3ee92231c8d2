"""What earlier reports and baselines found of the same checks: one series of values for each required metric."""

from __future__ import annotations

import datetime
import glob
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cp_compress.base.documents import read_document
from cp_compress.base.error_reasons import reason_of, shortened
from cp_compress.base.files import read_regular_text
from pytest_cp.baselines import entry_name
from pytest_cp.checks.recorder import Record
from pytest_cp.report.compressed import compressed_name
from pytest_cp.report.document import SCHEMA_VERSION
from pytest_cp.session.options import REPORTS

OPTION = "--cp-report-history"
_MAX_BYTES = 256 * 1024 * 1024
_LONGEST = 30
"""The number of earlier reports, the latest, whose values are shown."""

_EARLIER = pytest.StashKey[list[dict[str, Any]]]()


def read_history(config: pytest.Config) -> list[str]:
    """Read the earlier JSON reports that the option names; return notes on what it does not give.

    Raises pytest.UsageError for a file that is no report. This session's own report is none of them.
    """
    pattern = config.getoption(OPTION)
    config.stash[_EARLIER] = []
    if not pattern:
        return []
    folder = config.invocation_params.dir
    own = {(folder / name).resolve() for option in REPORTS if (name := config.getoption(option))}
    paths = [Path(path) for path in sorted(glob.glob(str(folder / pattern), recursive=True))]  # noqa: PTH207  absolute
    found = [_read(path) for path in paths if path.resolve() not in own]
    kept = sorted((one for one in found if one["checks"]), key=lambda one: one["when"])[-_LONGEST:]
    config.stash[_EARLIER] = kept
    return [] if kept else [f"{OPTION}={pattern}: no earlier report with checks matches"]


def history_of(config: pytest.Config, records: Sequence[Record]) -> dict[str, Any]:
    """Return for each required metric what earlier reports and its baseline found, oldest first.

    What has no earlier value is left out; a value that is not finite is None.
    """
    earlier = config.stash.get(_EARLIER, [])
    trends = []
    for record in records:
        saved = (record["baseline"] or {}).get("metrics", {})
        for entry in record["requirements"]:
            key = _key(record, entry)
            points = [
                {"created": report["created"], "value": report["checks"][key]}
                for report in earlier
                if key in report["checks"]
            ]
            if entry["metric"] in saved and not points:
                points = [{"created": "baseline", "value": _finite(saved[entry["metric"]]["then"])}]
            if points:
                shown = {"test": record["test"], "candidate": compressed_name(record), "metric": entry["metric"]}
                trends.append(
                    shown | {"ordinal": record["ordinal"], "assertion": record["assertion"], "points": points}
                )
    return {"reports": len(earlier), "trends": trends}


def trends_of(document: Mapping[str, Any], records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return the series of some checks, each with its bound and the value of this report at the end."""
    known = {_trend_key(one): one for one in document.get("history", {}).get("trends", [])}
    found = []
    for record in records:
        for entry in record["requirements"]:
            trend = known.get(_trend_key(record | {"metric": entry["metric"], "candidate": compressed_name(record)}))
            if trend is not None:
                now = {"created": "now", "value": _finite(entry["value"])}
                found.append(
                    {"metric": entry["metric"], "bound": entry["bound"], "direction": entry["direction"]}
                    | {"outcome": entry["outcome"], "points": [*trend["points"], now]}
                )
    return found


def _trend_key(one: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(one[name] for name in ("test", "candidate", "assertion", "ordinal", "metric"))


def _key(record: Record, entry: Record) -> tuple[str, ...]:
    """Return what makes checks of two sessions one: its module and name, what was compressed, and the metric."""
    module = record["test"].partition("::")[0]
    return module, entry_name(record), compressed_name(record), entry["metric"], entry["direction"]


def _read(path: Path) -> dict[str, Any]:
    """Return date and values of a report; raises pytest.UsageError for any other file."""
    try:
        content = read_document(read_regular_text(path, _MAX_BYTES))
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"{OPTION}: {path} cannot be read: {reason_of(error)}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION or not isinstance(content.get("checks"), list):
        told = f"it has schema version {shortened(repr(version), 80)}" if version != SCHEMA_VERSION else "no checks"
        raise pytest.UsageError(f"{OPTION}: {path} is no JSON report of schema version {SCHEMA_VERSION}: {told}")
    try:
        created = str(content["created"])
        values = {
            _key(record, entry): _finite(entry["value"])
            for record in content["checks"]
            for entry in record["requirements"]
        }
        when = datetime.datetime.fromisoformat(created).astimezone(datetime.timezone.utc)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise pytest.UsageError(f"{OPTION}: {path} is no report: {reason_of(error)}") from error
    return {"created": created, "when": when, "checks": values}


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
