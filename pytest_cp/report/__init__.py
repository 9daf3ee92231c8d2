"""How are the records of a run shown? Reports read nothing else, and only the controlling process writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cp_compress.base.error_reasons import reason_of
from pytest_cp.report.document import build_document
from pytest_cp.report.history import history_of
from pytest_cp.report.json import write_json
from pytest_cp.report.markdown import SUMMARY_VARIABLE, append_summary, write_markdown
from pytest_cp.report.shipping import with_candidates
from pytest_cp.report.verdict import with_verdict
from pytest_cp.session.state import session_state


def write_reports(session: pytest.Session) -> list[str]:
    """Write the files that the command line asks for; return why some could not be written, one line each."""
    document = _document(session)
    unwritten = []
    for option, write in _WRITERS.items():
        path = session.config.getoption(option)
        if not path:
            continue
        try:
            write(document, session.config.invocation_params.dir / path)
        except (OSError, ValueError) as error:  # ValueError: a text that is no Unicode
            unwritten.append(f"{option}={path}: the report could not be written: {reason_of(error)}")
    return unwritten


def append_step_summary(session: pytest.Session) -> None:
    """Add the report to the summary of a step of GitHub Actions; one that cannot be written is noted."""
    try:
        append_summary(_document(session))
    except (OSError, ValueError) as error:
        note = f"{SUMMARY_VARIABLE}: the summary could not be written: {reason_of(error)}"
        session_state(session.config).notes.append(note)


def _document(session: pytest.Session) -> dict[str, Any]:
    state = session_state(session.config)
    document = build_document(session.config, state, int(session.exitstatus))
    document["history"] = history_of(session.config, state.records)
    return with_candidates(with_verdict(document))


def _write_page(document: dict[str, Any], path: Path) -> None:
    from pytest_cp.report.page import write_page

    write_page(document, path)


_WRITERS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "--cp-report-json": write_json,
    "--cp-report-markdown": write_markdown,
    "--cp-report-html": _write_page,
}
