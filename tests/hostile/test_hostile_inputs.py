"""No hostile or damaged input crashes, hangs, runs code, or is refused without a clear sentence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from hostile_cases import CASES, groups
from missing_extras import PACKAGES, is_missing

RUNNER = Path(__file__).parent / "hostile_runner.py"
SECONDS = 3000
MOST_DEATHS = 3
LEAST_CASES = 200
LONGEST_MESSAGE, LONGEST_OUTPUT = 2500, 6000
REFUSALS = {
    "ArtifactError",
    "BaselineFileError",
    "CompressionError",
    "CorruptStreamError",
    "FactoryError",
    "FailedGate",
    "InvalidArgumentError",
    "NoLogitsError",
    "ObservationError",
    "SpecificationError",
    "TomlError",
    "UsageError",
    "WaiverError",
}
# what belongs to authors of libraries: stacks, addresses, names of exceptions, C++
UNCLEAR = re.compile(
    r"Traceback|INTERNALERROR|  File \"|object at 0x|<_io\.|\.(cc|cpp|h):\d+|enforce fail|std::"
    r"|(Key|Type|Attribute|Index|Overflow|Unicode\w*|JSONDecode|Unpickling|Assertion)Error\b"
)
ATTACKS = ("pickles", "arrays", "exported programs")


if sys.platform != "linux":
    pytest.skip("memory is limited as Linux does it", allow_module_level=True)


@pytest.fixture(scope="session")
def ended(tmp_path_factory) -> dict[str, dict]:
    """How every case ended, by "group: name"; several workers of one run share the answer."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    place = shared / "hostile.json"
    with FileLock(f"{place}.lock"):
        if not place.exists():
            place.write_text(json.dumps(run_all(tmp_path_factory.mktemp("hostile"))))
        return json.loads(place.read_text())


def run_all(folder: Path) -> dict[str, dict]:
    """Run all cases; one that its process does not survive "died", and the next process goes on behind it."""
    found, deaths = {}, 0
    controls = [group for group in groups() if group.startswith("control: ")]
    wanted = [group for group in groups() if group not in controls]
    while True:
        skipped = folder / f"done-{deaths}.json"
        skipped.write_text(json.dumps(sorted(found)))
        command = [sys.executable, str(RUNNER), json.dumps(wanted), str(folder / str(deaths)), str(skipped)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        environment.pop("CI", None)
        environment.pop("GITHUB_ACTIONS", None)
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment)
        begun = None
        for line in map(json.loads, done.stdout.splitlines()):
            begun = line.get("begun")
            if begun is None:
                found[line["ended"]] = line
        if begun is None and done.returncode == 0:
            return found
        deaths += 1
        told = f"the process ended with {done.returncode}: {done.stderr[-800:]}"
        assert begun is not None, told
        assert deaths <= MOST_DEATHS, told
        found[begun] = {"error": "died", "message": told, "executed": False}


def require_packages(found: dict) -> None:
    """Skip a case that could not be made or read because an optional package is not installed."""
    missing = [extra for extra in PACKAGES if is_missing(extra)]
    kind = str(found["error"]).rpartition(".")[2]
    if missing and kind in ("ModuleNotFoundError", "MissingExtraError"):
        pytest.skip(f"{found['message']} (missing extras: {', '.join(missing)})")


def test_the_corpus_is_large():
    hostile = [case for case in CASES.values() if not case.group.startswith("control: ")]
    assert len(hostile) >= LEAST_CASES
    assert len({(case.group, case.name) for case in hostile}) == len(hostile)


@pytest.mark.parametrize("case", [c for c in CASES.values() if c.group.startswith("control: ")], ids=lambda c: c.name)
def test_a_control_does_what_it_is_there_for(case, ended):
    """Good inputs are read by the same calls, and payloads do run where somebody lets them."""
    found = ended[case.label]
    require_packages(found)
    assert found["error"] is None, found["message"]
    assert found["executed"] == (case.tells == "executed")


@pytest.mark.parametrize("group", ATTACKS)
def test_each_kind_of_payload_has_a_control(group, ended):
    assert any(found["executed"] for label, found in ended.items() if label.startswith(f"control: {group}: "))


@pytest.mark.parametrize(
    "case",
    [c for c in CASES.values() if not c.group.startswith("control: ")],
    ids=lambda case: re.sub(r"\W+", "-", case.label),
)
def test_a_hostile_input_is_refused(case, ended):
    found = ended[case.label]
    require_packages(found)
    assert not found["executed"], "code of the input was run"
    assert found["error"] is not None, "the input was accepted"
    assert found["error"].rpartition(".")[2] in REFUSALS, f"{found['error']}: {found['message']}"
    message = found["message"]
    assert case.names in message, message
    assert re.search(case.tells, message, re.DOTALL), message
    assert not UNCLEAR.search(message), message
    longest = LONGEST_OUTPUT if found["error"].endswith("FailedGate") else LONGEST_MESSAGE
    assert len(message) <= longest, f"{len(message)} characters: {message[:300]}"
    assert all(letter.isprintable() or letter == "\n" for letter in message), repr(message)
