"""Runs the cases of one group in a process of their own: `python hostile_runner.py GROUP FOLDER`.

A JSON line tells that a case begins and another how it ended, so that a process that dies names the case it died of.
Memory is limited to some GiB above what the group's libraries take, and each case to some seconds.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

from hostile_cases import cases_of
from hostile_payloads import CANARY, canary

MEMORY = 4 << 30
SECONDS = 20
_SHARED = "hostile-shared"


class Hung(BaseException):
    """A case took longer than it may; no reader catches this."""


def _stop(*_):
    raise Hung


def limit_memory(more: int) -> None:
    """Let this process take so many bytes of address space beside those that it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more,) * 2)


def run_case(case, folder: Path) -> dict:
    """Return how a case ended: the error's class and message, or that there was none."""
    folder.mkdir(parents=True)
    os.environ[CANARY] = str(folder / "canary")
    started = time.monotonic()
    found = {"error": None, "message": ""}
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        case.build(folder)()
    except (Exception, Hung, SystemExit) as error:
        kind = type(error)
        found = {"error": f"{kind.__module__}.{kind.__qualname__}", "message": str(error)}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return found | {"executed": canary().exists(), "seconds": round(time.monotonic() - started, 3)}


def main(group: str, root: Path) -> None:
    """Run a group, after whatever its first case needs was imported without a limit."""
    faulthandler.enable()
    faulthandler.dump_traceback_later(10 * SECONDS, exit=True)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _stop)
    told, shared = os.fdopen(os.dup(1), "w", buffering=1), root / _SHARED
    os.dup2(2, 1)  # what a reader prints is no result
    os.environ["TMPDIR"] = str(shared)
    shared.mkdir(parents=True)
    controls = cases_of(f"control: {group}")
    for number, case in enumerate([*controls, *cases_of(group)]):
        if number == len(controls):
            limit_memory(MEMORY)
        told.write(json.dumps({"begun": case.name}) + "\n")
        folder = root / str(number)
        told.write(json.dumps({"ended": case.name} | run_case(case, folder)) + "\n")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
