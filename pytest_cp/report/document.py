"""The report as plain data: verdict, checks worst first, what was not compared, and where it ran."""

from __future__ import annotations

import datetime
import time
from typing import Any

import pytest

from cp_compress.base.environment import describe_environment
from cp_compress.base.outcomes import SEVERITY
from pytest_cp.checks.recorder import Record, nearness
from pytest_cp.session.extending import complete_document
from pytest_cp.session.options import execution
from pytest_cp.session.state import SessionState

SCHEMA_VERSION = 1


def told_document(state: SessionState, exit_status: int) -> dict[str, Any]:
    """Return the part of the report that says what was compared and what was not."""
    return {
        "exit_status": exit_status,
        "finished": True,
        "outcomes": count_outcomes(state.records),
        "checks": worst_first(state.records),
        "gates": len(state.all_gates),
        "not_compared": [
            {"test": test, "reason": reason, "kind": kind}
            for test, (kind, reason) in sorted(state.not_compared.items())
        ],
    }


def build_document(config: pytest.Config, state: SessionState, exit_status: int) -> dict[str, Any]:
    """Return the whole report of a session as JSON-ready data."""
    settings = execution(config)
    document = dated() | {"duration": round(time.time() - state.started, 3)} | told_document(state, exit_status)
    document |= {
        "baselines": {"mode": state.baselines.mode, "verdicts": count_verdicts(state.records)},
        "waivers": state.waivers.report(state.records),
        "notes": list(state.notes),
        "sections": [],
        "provenance": {},
        "execution": {
            "device": settings.device,
            "seed": settings.seed,
            "batch_size": settings.batch_size,
            "deployed_batch_size": settings.deployed_batch_size,
        },
        "environment": describe_environment(),
    }
    complete_document(config, document)
    return document


def dated() -> dict[str, Any]:
    """Return what every report begins with: the version of its schema, and when it was written."""
    created = datetime.datetime.now(datetime.timezone.utc)
    return {"schema_version": SCHEMA_VERSION, "created": created.astimezone().isoformat(timespec="seconds")}


def count_outcomes(records: list[Record]) -> dict[str, int]:
    """Return how many records have each outcome; a failure that waivers cover counts as "waived" alone."""
    names = [shown_outcome(record) for record in records]
    return {outcome: names.count(outcome) for outcome in (*reversed(SEVERITY), "waived")}


def shown_outcome(record: Record) -> str:
    """Return a record's outcome, or "waived" where waivers cover that it does not pass and its baseline holds."""
    return "waived" if record["waivers"] and not record["baseline_problems"] else str(record["outcome"])


def count_verdicts(records: list[Record]) -> dict[str, int]:
    """Return how many records have each baseline verdict."""
    found = [record["baseline"]["verdict"] for record in records if record["baseline"] is not None]
    return {verdict: found.count(verdict) for verdict in sorted(set(found))}


def worst_first(records: list[Record]) -> list[Record]:
    """Return records ordered by outcome, then by the headroom of the requirement that decides them."""
    return sorted(records, key=lambda one: (-SEVERITY.index(one["outcome"]), *nearness(one), one["test"]))
