"""Run a gate from a specification: a TOML file instead of test code.

All arguments after the specification are passed to pytest: -n 2, --cp-report-html=report.html, --cp-baseline=check, …
"""

from __future__ import annotations

import argparse
import importlib.resources
import subprocess
import sys

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.outcomes import INTERRUPTED
from cp_compress.cli.output import FAILED, UNMET, USAGE

# pytest's exit codes: tests failed, errors of the collection, internal error, usage error, no tests collected;
# an interruption has a code of its own
_CODES = {0: 0, 1: UNMET, 2: USAGE, 3: FAILED, 4: USAGE, 5: FAILED, INTERRUPTED: INTERRUPTED}
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
    try:
        code = subprocess.run([*command, *options.passed_on], check=False).returncode
    except KeyboardInterrupt:  # pytest got the signal too, and has said what it found so far
        return INTERRUPTED
    return _CODES.get(code, FAILED)
