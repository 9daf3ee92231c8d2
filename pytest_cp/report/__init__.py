"""Reports: they read records and nothing else, and only the controlling process writes them."""

from __future__ import annotations

import pytest

from pytest_cp.report.document import build_document
from pytest_cp.report.json import write_json
from pytest_cp.state import session_state


def write_reports(session: pytest.Session) -> None:
    """Write the files that the command line asks for."""
    state = session_state(session.config)
    path = session.config.getoption("--cp-report-json")
    if path:
        write_json(build_document(session.config, state, int(session.exitstatus)), path)
