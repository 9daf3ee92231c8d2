"""A process that is killed while it writes a baseline or a report leaves the old file or the new one."""

import hashlib
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

kind, path, moment = sys.argv[1], Path(sys.argv[2]), sys.argv[3]


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
for value in (0.25, 0.75):
    write(value)
    Path(f"{path}.{value}").write_bytes(path.read_bytes())
if moment == "unfinished":  # all is written and nothing replaced: there the writer stays until it is killed
    os.fsync = lambda descriptor: (print("unfinished", flush=True), time.sleep(600))
    write(0.25)
    raise SystemExit("the new content went to no file of its own")
print("ready", flush=True)
while True:
    write(0.25)
    write(0.75)
"""


@pytest.mark.parametrize("kind", ["baseline", "json", "markdown"])
def test_what_is_left_is_the_old_file_or_the_new_one(tmp_path, kind):
    chance = random.Random(kind)
    path = tmp_path / "written"
    moments = ["ready"] * 12 + ["unfinished"] * 5
    for moment in moments:
        command = [sys.executable, "-c", WRITER, kind, str(path), moment]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert writer.stdout.readline() == f"{moment}\n".encode()
        if moment == "ready":
            time.sleep(chance.uniform(0, 0.05))
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        if moment == "unfinished":
            assert any(tmp_path.glob(".written.*.partial"))
        allowed = {_digest(tmp_path / f"written.{value}") for value in (0.25, 0.75)}
        assert len(allowed) == 2
        assert _digest(path) in allowed


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
