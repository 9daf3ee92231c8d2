"""What stands in the place of older reports until a run writes its own: that it did not finish.

A process may end by itself, in the code of a model or of a native library; then no hook of pytest runs any more, and a
report of an earlier run would be taken for this one's.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import stat
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest

from cp_compress.base.environment import describe_environment
from cp_compress.base.files import write_atomically
from pytest_cp.report.document import count_outcomes, dated
from pytest_cp.report.json import write_json
from pytest_cp.report.markdown import write_markdown
from pytest_cp.report.shipping import with_candidates
from pytest_cp.report.verdict import with_verdict
from pytest_cp.session.options import REPORTS

_REASON = (
    "the run did not finish: this file was written when it started, and is replaced when it ends; "
    "either it is still running, or its process ended by itself (os._exit, a crash of a native library, a kill)"
)
_STATUS = int(pytest.ExitCode.INTERNAL_ERROR)
_WITHOUT_TESTS = ("help", "version", "markers", "showfixtures", "show_fixtures_per_test", "cacheshow")


def unfinished_document() -> dict[str, Any]:
    """Return the report of a run that has not finished: no check, a failed verdict, and why."""
    document = dated() | {
        "duration": 0.0,
        "exit_status": _STATUS,
        "finished": False,
        "outcomes": count_outcomes([]),
        "checks": [],
        "gates": 0,
        "not_compared": [],
        "baselines": {"mode": None, "verdicts": {}},
        "waivers": [],
        "notes": [_REASON],
        "sections": [],
        "provenance": {},
        "execution": {"device": None, "seed": None, "batch_size": None},
        "environment": describe_environment(),
    }
    return with_candidates(with_verdict(document))


def replace_old_reports(config: pytest.Config) -> None:
    """Replace the reports of an earlier run before conftest.py is loaded, which may be where the process ends.

    What is refused later, such as a misspelt option, leaves no green report behind either.
    """
    options = config.known_args_namespace
    # a worker of pytest-xdist has no other sign of its own yet
    worker = "no:terminal" in (getattr(options, "plugins", None) or ())
    if not worker and not any(getattr(options, name, None) for name in _WITHOUT_TESTS):
        _write(config, vars(options), only_old=True)


def write_unfinished(config: pytest.Config) -> None:
    """Write every report that is asked for as one of a run that did not finish."""
    _write(config, vars(config.option), only_old=False)


def _write(config: pytest.Config, options: dict[str, Any], *, only_old: bool) -> None:
    from pytest_cp.report.page import write_page

    document = unfinished_document()
    folder = config.invocation_params.dir
    for option, write in zip(REPORTS, (write_json, write_page, write_markdown), strict=True):
        name = options.get(option.removeprefix("--").replace("-", "_"))
        if name and (not only_old or (folder / name).is_file()):
            with contextlib.suppress(OSError):  # the end of the run, which writes it again, says what is wrong
                write(document, folder / name)
    junit = options.get("xmlpath")
    if junit:
        _write_junit(folder / Path(os.path.expandvars(junit)).expanduser(), only_old)


def _write_junit(path: Path, only_old: bool) -> None:
    """Write a JUnit file with one error, unless the path is no regular file, such as a pipe."""
    with contextlib.suppress(OSError):
        exists = path.exists()
        if (exists and not stat.S_ISREG(path.stat().st_mode)) or (only_old and not exists):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _junit_text())


def _junit_text() -> str:
    now = datetime.datetime.now(datetime.timezone.utc).astimezone().isoformat()
    counts = 'errors="1" failures="0" skipped="0" tests="1" time="0.000"'
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<testsuites name="pytest tests">'
        f'<testsuite name="pytest" {counts} timestamp={quoteattr(now)}>'
        '<testcase classname="pytest_cp" name="the-run-must-finish" time="0.000">'
        f"<error message={quoteattr(_REASON)} /></testcase></testsuite></testsuites>\n"
    )
