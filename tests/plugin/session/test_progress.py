"""Progress on a terminal, silence in logs, and an end by Ctrl-C that keeps what was found."""

import json
import os
import select
import signal
import subprocess
import sys
import time

import pytest
from forks import forking_interpreter

pyte = pytest.importorskip("pyte", reason="pyte is not installed (extra: test)")
pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")

SLOW = """
import time

@pytest.mark.parametrize("number", range(4))
@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset, number):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)
    time.sleep(({seconds})[number])
"""


def _take_interrupts():
    """Undo that a shell lets what it runs in the background ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A run of pytest on a terminal of its own, and what its screen shows."""

    def __init__(self, folder, *arguments, environment=None, interpreter=None):
        self.screen = pyte.Screen(100, 40)
        self.stream = pyte.ByteStream(self.screen)
        self.seen = []
        self.master, child = pty.openpty()
        kept = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}
        settings = {**kept, "TERM": "xterm", "COLUMNS": "100", "LINES": "40", **(environment or {})}
        code = f"import sys, pytest; sys.exit(pytest.main({['-p', 'no:cacheprovider', *arguments]}))"
        command = [interpreter or forking_interpreter(), "-u", "-c", code]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=child,
            stdout=child,
            stderr=child,
            env=settings,
            start_new_session=True,
            preexec_fn=_take_interrupts,
        )
        os.close(child)

    def watch(self, until=lambda screen: False, seconds=300):
        """Read until the screen fulfils a condition or the process ends."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ready, _, _ = select.select([self.master], [], [], 0.2)
            if ready:
                try:
                    content = os.read(self.master, 65536)
                except OSError:
                    break
                if not content:
                    break
                self.stream.feed(content)
                text = "\n".join(line.rstrip() for line in self.screen.display)
                self.seen.append(text)
                if until(text):
                    return text
            elif self.process.poll() is not None:
                break
        self.process.wait(timeout=300)
        return "\n".join(line.rstrip() for line in self.screen.display)


@pytest.mark.parametrize("arguments", [(), ("-n2",), ("-v",)], ids=["serial", "xdist", "verbose"])
def test_a_terminal_shows_what_runs_and_is_clean_in_the_end(project, arguments):
    project.write_test(SLOW.format(seconds=[0.4] * 4))
    terminal = Terminal(project.path, *arguments)
    last = terminal.watch()
    assert terminal.process.returncode == 0
    assert any("of 4 done" in text and "now test_gate" in text for text in terminal.seen)
    assert "of 4 done" not in last
    assert "4 passed" in last
    lines = [line for line in last.splitlines() if "test_gate.py" in line and "passed" not in line]
    assert lines if not arguments else True


def test_the_time_left_is_told_when_it_is_long(project):
    project.write_test(SLOW.format(seconds=[3] * 4))
    terminal = Terminal(project.path, interpreter=sys.executable)
    assert "left" in terminal.watch(until=lambda text: " left " in text)
    terminal.process.kill()
    terminal.process.wait(timeout=300)


@pytest.mark.parametrize(
    ("arguments", "environment"), [((), {"CI": "true"}), (("-q",), {}), (("-s",), {}), ((), {"TERM": "dumb"})]
)
def test_logs_and_quiet_runs_stay_quiet(project, arguments, environment):
    project.write_test(SLOW.format(seconds=[0.2] * 4))
    terminal = Terminal(project.path, *arguments, environment=environment)
    terminal.watch()
    assert terminal.process.returncode == 0
    assert not any("of 4 done" in text for text in terminal.seen)


def test_output_that_goes_to_a_file_has_no_escapes(project):
    project.write_test(SLOW.format(seconds=[0] * 4))
    assert "\x1b" not in project.run(subprocess=True).result.stdout.str()


@pytest.mark.parametrize("arguments", [(), ("-n2",)], ids=["serial", "xdist"])
def test_ctrl_c_keeps_the_records_so_far(project, arguments):
    project.write_test(SLOW.format(seconds=[0.5, 0.5, 600, 600]))  # it cannot end before it is interrupted
    reports = [f"--cp-report-{kind}=report.{kind}" for kind in ("json", "html", "markdown")]
    terminal = Terminal(project.path, *reports, *arguments, interpreter=sys.executable)
    terminal.watch(until=lambda text: any(f"{count} of 4 done" in text for count in (1, 2)))
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.watch()
    assert terminal.process.returncode == pytest.ExitCode.INTERRUPTED
    document = json.loads((project.path / "report.json").read_text())
    assert document["exit_status"] == 2
    assert 1 <= len(document["checks"]) < 4
    assert "Interrupted" in (project.path / "report.html").read_text()
    assert (project.path / "report.markdown").read_text().startswith("## ❌")
