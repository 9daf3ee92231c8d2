"""The script for a GPU bounds its parts, goes on when one fails, and runs where there is no GPU."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("gpu_check")
    for name in ("gpu_check", "gpu_parts"):
        sys.modules.pop(name, None)


def test_a_part_that_fails_leaves_the_rest(script, tmp_path):
    def run(part, device):
        return (f"figures of {part}", "no kernel" if part == "rates" else "")

    written = tmp_path / "found.md"
    assert script.check(["bits", "rates", "tests"], "cuda", written, run) == 1
    text = written.read_text()
    assert all(f"figures of {part}" in text for part in ("bits", "rates", "tests"))
    assert text.count("**Failed") == 1
    assert "no kernel" in text
    assert script.check(["bits"], "cuda", written, run) == 0


def test_all_parts_together_take_no_more_than_eight_minutes(script):
    assert sum(seconds for _, seconds in script.PARTS.values()) <= 8 * 60


def test_a_part_ends_when_its_time_is_over(script, monkeypatch):
    monkeypatch.setitem(script.PARTS, "machine", ("The machine", 0.01))
    assert script.run_in_a_process("machine", "cpu")[1].startswith("it was ended")


def test_a_part_that_cannot_run_says_why(script, monkeypatch):
    monkeypatch.setattr(script.sys, "executable", sys.executable)
    monkeypatch.setitem(script.PARTS, "machine", ("The machine", 100))
    _, failure = script.run_in_a_process("machine", "nowhere")
    assert "exit code 2" in failure
    assert "nowhere" in failure


@pytest.mark.gpu
@pytest.mark.parametrize("part", ["machine", "bits", "nvjpeg"])
def test_parts_run(gpu, script, capsys, part):
    parts = importlib.import_module("gpu_parts")
    assert getattr(parts, part)(gpu, True) == 0
    printed = capsys.readouterr().out
    assert "torch" in printed if part == "machine" else printed.count("\n|") > 2
