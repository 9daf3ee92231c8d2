"""Run a gate from a specification: a TOML file instead of test code.

All arguments after the specification are passed to pytest: -n 2, --cp-report-html=report.html, --cp-baseline=check, …
"""

from __future__ import annotations

import argparse
import importlib.resources
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.outcomes import COMPLETION_VARIABLE, INTERRUPTED, NOTHING_JUDGED
from cp_compress.cli.output import FAILED, UNMET, USAGE

# pytest's exit codes: tests failed, errors of the collection, internal error, usage error, no tests collected;
# an interruption has a code of its own
_CODES = {0: 0, 1: UNMET, 2: USAGE, 3: FAILED, 4: USAGE, 5: FAILED, NOTHING_JUDGED: FAILED, INTERRUPTED: INTERRUPTED}
_VERDICTS = (0, 1)  # they say what the candidates do, which only a run that finished can know
_SECONDS_TO_END = 10  # after an interruption, for the reports
_EXAMPLE = """\
All further arguments are passed to pytest: -n 2, --cp-report-html=report.html, --cp-baseline=check, …

example:
  cp-compress init package.module:model --data package.module:data
  cp-compress gate gate.toml -n 2

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cp-compress gate`."""
    parser.epilog = _EXAMPLE + (parser.epilog or "")
    parser.add_argument(
        "specification", metavar="GATE.toml", nargs="?", help="specification: candidates, data and requirements"
    )
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of a specification, for editors")
    parser.set_defaults(passes_on=True, json=None)


def run(options: argparse.Namespace) -> int:
    """Run pytest on the specification, or print the schema."""
    if options.schema:
        print(importlib.resources.files("pytest_cp.specification").joinpath("schema.json").read_text(encoding="utf-8"))
        return 0
    if options.specification is None:
        raise InvalidArgumentError("no specification is given; name one: cp-compress gate gate.toml")
    command = [sys.executable, "-m", "pytest", "-p", "pytest_cp.interruption", "--pyargs", "pytest_cp.gate"]
    command.append(f"--cp-spec={options.specification}")
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder, "completion")
        environment = {**os.environ, COMPLETION_VARIABLE: str(mark)}
        code = _run([*command, *options.passed_on], environment)
        told = mark.read_text(encoding="utf-8") if mark.exists() else None
    if code in _VERDICTS and told != str(code):
        found = "did not finish" if told is None else f"had ended its session with {told}"
        print(
            f"cp-compress: pytest ended with exit code {code}, but it {found}: its process ended by itself, as by "
            "os._exit in the code of a model, or in a native library; nothing is known of the candidates",
            file=sys.stderr,
        )
        return FAILED
    return _CODES.get(code, FAILED)


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Run a program to its end and return its exit code; one that is interrupted may first write its reports."""
    child = subprocess.Popen(command, env=environment)
    try:
        return child.wait()
    except KeyboardInterrupt:  # the child got the signal too, unless it was sent to this process alone
        try:
            child.wait(_SECONDS_TO_END)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            child.terminate()
        return INTERRUPTED
    finally:
        if child.poll() is None:
            try:
                child.wait(1)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
