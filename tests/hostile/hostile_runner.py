"""Runs the cases of groups in a process of their own: `python hostile_runner.py '["GROUP"]' FOLDER DONE.json`.

A JSON line tells that a case begins and another how it ended, so that a process that dies names the case it died of.
Memory is limited to some GiB above what the group's libraries take, and each case to some seconds of the processor and
to more by the clock, because the machine may be busy.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

from hostile_cases import cases_of
from hostile_payloads import CANARY, canary

MEMORY = 4 << 30
SECONDS, BY_THE_CLOCK = 20, 200
_SHARED = "hostile-shared"


class Hung(BaseException):
    """A case took longer than it may; no reader catches this."""


def _stop(*_):
    raise Hung


def limit_memory(more: int) -> None:
    """Let this process take so many bytes of address space beside those that it has."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more,) * 2)


def run_case(case, folder: Path) -> dict:
    """Return how a case ended: the error's class and message, or that there was none."""
    folder.mkdir(parents=True)
    os.environ[CANARY] = str(folder / "canary")
    started = time.monotonic()
    found = {"error": None, "message": ""}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, BY_THE_CLOCK)
    try:
        case.build(folder)()
    except (Exception, Hung, SystemExit) as error:
        kind = type(error)
        found = {"error": f"{kind.__module__}.{kind.__qualname__}", "message": str(error)}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return found | {"executed": canary().exists(), "seconds": round(time.monotonic() - started, 3)}


def main(groups: list[str], root: Path, done: set[str]) -> None:
    """Run all cases of groups that are not done: those of good inputs first, and without a limit of memory.

    They import whatever the libraries need, which would otherwise count as memory that a hostile input takes.
    """
    faulthandler.enable()
    warnings.simplefilter("ignore")
    for kind in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(kind, _stop)
    told, shared = os.fdopen(os.dup(1), "w", buffering=1), root / _SHARED
    os.dup2(2, 1)  # what a reader prints is no result
    shared.mkdir(parents=True)
    os.environ["TMPDIR"] = str(shared)
    controls = [case for group in groups for case in cases_of(f"control: {group}")]
    cases = [case for group in groups for case in cases_of(group)]
    for number, case in enumerate([*controls, *cases]):
        if number == len(controls):
            limit_memory(MEMORY)
            gc.freeze()  # gates collect garbage again and again
        if case.label in done:
            continue
        faulthandler.dump_traceback_later(2 * BY_THE_CLOCK, exit=True)
        told.write(json.dumps({"begun": case.label}) + "\n")
        told.write(json.dumps({"ended": case.label} | run_case(case, root / str(number))) + "\n")
        shutil.rmtree(root / str(number), ignore_errors=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]), set(json.loads(Path(sys.argv[3]).read_text())))
