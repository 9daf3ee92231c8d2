"""Reports: they read records and nothing else, and only the controlling process writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_cp.report.document import build_document
from pytest_cp.report.json import write_json
from pytest_cp.report.markdown import append_summary, write_markdown
from pytest_cp.state import session_state


def write_reports(session: pytest.Session) -> None:
    """Write the files that the command line asks for."""
    state = session_state(session.config)
    document = build_document(session.config, state, int(session.exitstatus))
    for option, write in _WRITERS.items():
        path = session.config.getoption(option)
        if path:
            write(document, session.config.invocation_params.dir / path)
    append_summary(document)


def _write_page(document: dict[str, Any], path: Path) -> None:
    from pytest_cp.report.page import write_page

    write_page(document, path)


_WRITERS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "--cp-report-json": write_json,
    "--cp-report-markdown": write_markdown,
    "--cp-report-html": _write_page,
}
