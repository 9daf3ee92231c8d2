"""Baselines that are damaged, forged, or no files at all."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

from hostile_payloads import written
from hostile_registry import add_case, hostile

from gate_cases.gates import SUBJECTS, run_pytest

GROUP = "baselines"
_NAME = "test_gate assert_preserved_predictions(agreement)"
_METRIC = {"value": 0.9, "n": 60, "interval": None, "direction": "min"}
GOOD = {
    "schema_version": 2,
    "checks": {
        _NAME: {"metrics": {"agreement": _METRIC}, "measured_on": {"seed": 0}, "environment": {"device": "cpu"}}
    },
}


def reads(folder: Path, content: bytes | str):
    """Write a baseline, and return the call that reads it."""
    from pytest_cp.baselines.files import read_entries

    path = written(folder / "test_gate.json", content)
    return lambda: read_entries(path)


def changed(*place) -> str:
    """Return the good baseline with the value at a place replaced by another, which is the last of the arguments."""
    document = copy.deepcopy(GOOD)
    *path, last, value = place
    holder = document
    for key in path:
        holder = holder[key]
    holder[last] = value
    return json.dumps(document)


def _metric(field: str, value) -> str:
    return changed("checks", _NAME, "metrics", "agreement", field, value)


_TEXT = json.dumps(GOOD)
_TEXTS = {
    "an empty file": ("", "cannot be read: Expecting value"),
    "half a file": (_TEXT[:90], "cannot be read"),
    "a file without its last bracket": (_TEXT[:-1], "cannot be read"),
    "two files in one": (_TEXT + _TEXT, "cannot be read: Extra data"),
    "a list": ("[]", "schema version None"),
    "a number": ("7", "schema version None"),
    "nothing": ("null", "schema version None"),
    "TOML": ("schema_version = 2\n", "cannot be read"),
    "another encoding": (_TEXT.encode("utf-16"), "can't decode|byte order"),
    "bytes that are no UTF-8": (_TEXT.replace("cpu", "\xff").encode("latin-1"), "can't decode byte"),
    "a byte order mark": (b"\xef\xbb\xbf" + _TEXT.encode(), "begins with a byte order mark"),
    "zeros": (bytes(200), "cannot be read"),
    "marks of a merge": ("<<<<<<< HEAD\n" + _TEXT + "\n=======\n", "cannot be read"),
    "100 000 brackets": ("[" * 100_000, "nested too deeply"),
    "100 000 tables": ('{"a":' * 100_000, "nested too deeply"),
    "a check twice": (_TEXT[:-2] + ", " + json.dumps(GOOD["checks"])[1:] + "}", "twice"),
    "a value twice": (_TEXT.replace('"value": 0.9', '"value": 0.1, "value": 0.9'), "has the key 'value' twice"),
    "a version of the past": (changed("schema_version", 1), "schema version 1, not 2"),
    "a version that is true": (changed("schema_version", True), "schema version True"),
    "a version of 100 000 letters": (changed("schema_version", "x" * 100_000), "schema version 'xxx"),
    "checks that are a list": (changed("checks", []), 'no object "checks"'),
    "a check that is a number": (changed("checks", _NAME, 7), "must contain the objects"),
    "a check without metrics": (changed("checks", _NAME, "metrics", {}), "contains no metric"),
    "a check that does not say on what": (changed("checks", _NAME, "measured_on", None), "must contain the objects"),
    "a metric that is a number": (changed("checks", _NAME, "metrics", "agreement", 0.9), "a value and a direction"),
    "a value that is no number": (_metric("value", float("nan")), "the value nan, which is not a number"),
    "a value that is a text": (_metric("value", "0.9"), "the value '0.9', which is not a number"),
    "a value that is true": (_metric("value", True), "the value True, which is not a number"),
    "a value that is missing": (_metric("value", None), "the value None, which is not a number"),
    "a value that is a list": (_metric("value", [0.9]), "which is not a number"),
    "a value of 400 digits": (_metric("value", 10**400), "which is not a number"),
    "a value of 5000 digits": (_TEXT.replace("0.9", "9" * 5000), "cannot be read: Exceeds the limit"),
    "a value of 100 000 letters": (_metric("value", "9" * 100_000), "which is not a number"),
    "a direction that is none": (_metric("direction", "up"), "a direction, min or max"),
    "a direction that is a list": (_metric("direction", ["min"]), "a direction, min or max"),
    "a name with control characters": (
        _TEXT.replace(_NAME, "\\u001b[2J\\nx").replace("0.9", '"x"'),
        "which is not a number",
    ),
}
for _name, (_text, _tells) in _TEXTS.items():
    add_case(GROUP, _name, lambda folder, text=_text: reads(folder, text), tells=_tells, names="test_gate.json")


@hostile(GROUP, "more than 64 MiB", tells="at most 67,108,864", names="test_gate.json")
def _(folder):
    return reads(folder, " " * (64 << 20) + _TEXT)


def _special(folder: Path, make):
    from pytest_cp.baselines.files import read_entries

    make(folder / "test_gate.json")
    return lambda: read_entries(folder / "test_gate.json")


SPECIAL = {
    "a folder": (Path.mkdir, "is a folder"),
    "a FIFO": (os.mkfifo, "not a regular file"),
    "a link to an endless device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "a link to itself": (lambda path: path.symlink_to(path), "symbolic links"),
    "a link to another's file": (lambda path: path.symlink_to("/etc/hostname"), "cannot be read|schema version"),
    "a name below a file": (lambda path: path.symlink_to("/etc/hostname/x"), "Not a directory"),
}
for _name, (_make, _tells) in SPECIAL.items():
    add_case(
        GROUP,
        f"{_name} in its place",
        lambda folder, make=_make: _special(folder, make),
        tells=_tells,
        names="test_gate.json",
    )

TEST = """
import pytest
from pytest_cp import assert_preserved_predictions
from cp_compress import Prune
import subjects

def test_gate():
    model = subjects.make_model()
    assert_preserved_predictions(Prune(0.4).compress(model), model, subjects.make_data(), min_agreement=0.1)
"""


def gate(folder: Path, *arguments: str):
    """Write a gate with a baseline to be read, and return the call that runs it."""
    written(folder / "pytest.ini", "[pytest]\n")
    written(folder / "subjects.py", SUBJECTS)
    written(folder / "test_gate.py", TEST)
    return lambda: run_pytest(folder, "test_gate.py", *arguments)


def _with(folder: Path, content, *arguments: str):
    action = gate(folder, *arguments)
    place = folder / "cp_baselines/test_gate.json"
    place.parent.mkdir()
    if callable(content):
        content(place)
    elif content is not None:
        written(place, content)
    return action


_GATES = {
    "half a file, checked": (_TEXT[:90], ("--cp-baseline=check",), "cannot be read"),
    "half a file, updated": (_TEXT[:90], ("--cp-baseline=update",), "cannot be read|CI"),
    "a FIFO, checked": (os.mkfifo, ("--cp-baseline=check",), "not a regular file"),
    "a folder, checked": (Path.mkdir, ("--cp-baseline=check",), "is a folder"),
    "a value of 400 digits, checked": (_metric("value", 10**400), ("--cp-baseline=check",), "which is not a number"),
    "a link to nowhere, checked": (
        lambda path: path.symlink_to("nowhere.json"),
        ("--cp-baseline=check",),
        "no baseline in",
    ),
    "other data, checked": (_TEXT, ("--cp-baseline=check",), "stale, since these changed: candidate, data"),
    "other requirements, checked": (
        _TEXT.replace("min", "max"),
        ("--cp-baseline=check",),
        "stale, since these changed",
    ),
    "an environment of lists, checked": (
        changed("checks", _NAME, "environment", {"device": [1, {}]}),
        ("--cp-baseline=check",),
        "stale, since these changed",
    ),
}
for _name, (_content, _arguments, _tells) in _GATES.items():
    add_case(
        GROUP,
        f"a gate with {_name}",
        lambda folder, content=_content, arguments=_arguments: _with(folder, content, *arguments),
        tells=_tells,
        names="test_gate.json" if "stale" not in _tells else "test_gate",
    )


@hostile(f"control: {GROUP}", "the good baseline is read", tells="", names="")
def _(folder):
    return reads(folder, _TEXT)


@hostile(f"control: {GROUP}", "the good gate passes", tells="", names="")
def _(folder):
    return gate(folder)
