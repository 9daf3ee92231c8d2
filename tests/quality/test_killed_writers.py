"""A process that is killed while it writes a baseline or a report leaves the old file or the new one."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest

if sys.platform == "win32":
    pytest.skip("this system has no SIGKILL", allow_module_level=True)

WRITER = """
import os
import sys
import time
from pathlib import Path

from pytest_cp.baselines.files import write_entries
from pytest_cp.report.json import write_json
from pytest_cp.report.markdown import write_markdown

kind, path = sys.argv[1], Path(sys.argv[2])


def entry(value):
    metrics = {"agreement": {"value": value, "n": 100, "direction": "min", "interval": None}}
    return {"metrics": metrics, "measured_on": {"data": "d" * 64}, "environment": {"torch": "2"}}


def document(value):
    notes = [f"{value} note {number}" for number in range(4000)]
    empty = {name: [] for name in ("checks", "not_compared", "waivers", "sections")}
    return {"exit_status": 0, "outcomes": {"pass": 1}, "notes": notes, "provenance": {}, **empty}


write = {
    "baseline": lambda value: write_entries(path, {f"test_{i}": entry(value) for i in range(1000)}),
    "json": lambda value: write_json(document(value), path),
    "markdown": lambda value: write_markdown(document(value), path),
}[kind]


def live(moment):
    for value in (0.25, 0.75):
        write(value)
        Path(f"{path}.{value}").write_bytes(path.read_bytes())
    if moment == "unfinished":  # all is written and nothing replaced: there the writer stays until it is killed
        os.fsync = lambda descriptor: (print(moment, os.getpid(), flush=True), time.sleep(600))
        write(0.25)
        raise SystemExit("the new content went to no file of its own")
    print(moment, os.getpid(), flush=True)
    while True:
        write(0.25)
        write(0.75)


for line in sys.stdin:  # each writer is a fork of this process, which has imported what it needs
    child = os.fork()
    if child == 0:
        live(line.strip())
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


@pytest.mark.parametrize("kind", ["baseline", "json", "markdown"])
def test_what_is_left_is_the_old_file_or_the_new_one(tmp_path, kind):
    chance = random.Random(kind)
    path = tmp_path / "written"
    moments = ["ready"] * 12 + ["unfinished"] * 5
    command = [sys.executable, "-c", WRITER, kind, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writers:
        for moment in moments:
            print(moment, file=writers.stdin, flush=True)
            reached, writer = writers.stdout.readline().split()
            assert reached == moment
            if moment == "ready":
                time.sleep(chance.uniform(0, 0.05))
            os.kill(int(writer), signal.SIGKILL)
            assert writers.stdout.readline() == "ended\n"
            if moment == "unfinished":
                assert any(tmp_path.glob(".written.*.partial"))
            allowed = {_digest(tmp_path / f"written.{value}") for value in (0.25, 0.75)}
            assert len(allowed) == 2
            assert _digest(path) in allowed


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
