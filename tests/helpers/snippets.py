"""Runs the snippets of a page of the documentation, in the current folder and in their order.

A block with a title is a file that is written there; a Python block without one is executed, with the names of those
before it; a console block holds commands, each after "$ ", and what they print. Commands run as they stand: `pytest`,
`cp-compress` and `python` in a fork of this process, by the functions that the installed commands call; anything else
by the shell. Each line of output that a page shows must be printed, in that order; "…" stands for anything. Whole
numbers must be equal, others may differ by `RELATIVE` or in their last digit; of durations, rates, dates, versions,
digests and absolute paths only the form is compared. `forks.run_program("page", PAGE, …)` runs a page in a process that
has torch loaded already.

A comment before a block says what is special about it: <!-- exit code: 1 --> or <!-- not run: why -->.
"""

import contextlib
import os
import re
import runpy
import shlex
import subprocess
import sys
import textwrap
import traceback
from dataclasses import dataclass
from pathlib import Path

RUN_LANGUAGES = ("python", "toml", "ini", "console")
_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<comment>not run|exit code): (?P<value>[^\n]*?) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w+)(?P<rest>[^\n]*)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
RELATIVE = 0.02
_FRACTION = r"[-−+]?\d[\d,]*(?:\.\d+(?:e[-+]?\d+)?|e[-+]?\d+)"
_CHANGING = (
    r"\d{4}-\d\d-\d\d(?:[T ][\d:.]+(?:Z|[-+]\d\d:\d\d)?)?",  # dates and times of day
    r"(?<![\w.])\d+\.\d+\.\d+[\w.+-]*",  # versions
    r"\b(?=\w*\d)[0-9a-f]{8,}\b",  # digests
    r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?= ?(?:[mµn]?s|seconds?|minutes?|hours?|[kMG]i?B)\b)",  # times, memory
    r"(?<![\w.)/])/(?:[\w.-]+/)+[\w.-]*",  # absolute paths
)
_PART = re.compile(f"(?P<any>…)|(?P<changing>{'|'.join(_CHANGING)})|(?P<fraction>(?<![\\w.]){_FRACTION}(?![\\w.]*\\w))")


@dataclass(frozen=True)
class Snippet:
    """One block of a page that can be run."""

    language: str
    body: str
    line: int
    title: str | None = None
    exit_code: int = 0
    not_run: str | None = None


def read_snippets(text):
    """Return the snippets of a page in its order."""
    found = []
    for block in _BLOCK.finditer(text):
        if block["language"] in RUN_LANGUAGES:
            title = re.search(r'title="([^"]+)"', block["rest"])
            found.append(
                Snippet(
                    language=block["language"],
                    body=textwrap.dedent(block["body"]),
                    line=text.count("\n", 0, block.start("language")) + 1,
                    title=title[1] if title else None,
                    exit_code=int(block["value"]) if block["comment"] == "exit code" else 0,
                    not_run=block["value"] if block["comment"] == "not run" else None,
                )
            )
    return found


def run_page(page, folder):
    """Run the snippets of a page in a folder; return None, or what went wrong."""
    namespace = {"__name__": "__main__"}
    for snippet in read_snippets(Path(page).read_text(encoding="utf-8")):
        if snippet.not_run is None:
            trouble = _run_snippet(snippet, namespace, Path(folder))
            if trouble:
                return f"{page}:{snippet.line}: {trouble}"
    return None


def _run_snippet(snippet, namespace, folder):
    if snippet.title is not None:
        target = folder / snippet.title
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(snippet.body, encoding="utf-8")
        return None
    if snippet.language == "console":
        return _run_console(snippet)
    if snippet.language != "python":
        return f"a block of {snippet.language} without a title is in no file"
    try:
        exec(compile(snippet.body, f"snippet at line {snippet.line}", "exec"), namespace)
    except BaseException:
        return traceback.format_exc()
    return None


def _run_console(snippet):
    for command, expected in read_commands(snippet.body):
        code, printed = run_command(command)
        if code != snippet.exit_code:
            return f"{command}: exit code {code} instead of {snippet.exit_code}\n{printed}"
        missing = first_missing(expected, printed)
        if missing is not None:
            return f"{command}: did not print {missing!r}\n{printed}"
    return None


def read_commands(body):
    """Return the commands of a console block, each with the lines that it is said to print."""
    commands = []
    for line in re.sub(r"\\\n\s*", "", body).splitlines():
        if line.startswith("$ "):
            commands.append((line[2:], []))
        elif line.strip():
            commands[-1][1].append(line)
    return commands


def first_missing(expected, printed):
    """Return the first line that is expected and not printed after those before it, or None."""
    lines = iter(map(_plain, printed.splitlines()))
    for line in expected:
        if line.strip() != "…" and not any(_is_shown_by(line, printed_line) for printed_line in lines):
            return line
    return None


def _is_shown_by(expected, printed):
    """Tell whether a page's line stands for a printed one, whose spaces are single."""
    pattern, fractions, end = "", [], 0
    line = _plain(expected)
    for part in _PART.finditer(line):
        pattern += re.escape(line[end : part.start()])
        end = part.end()
        if part["any"]:
            pattern += ".*?"
        elif part["changing"]:
            pattern += f"(?:{'|'.join(_CHANGING)})"
        else:
            pattern += f"({_FRACTION}|\\d+)"
            fractions.append(part["fraction"])
    found = re.fullmatch(pattern + re.escape(line[end:]), printed)
    return found is not None and all(map(_is_near, fractions, found.groups()))


def _is_near(expected, printed):
    """Tell whether a printed fraction is the expected one, but for `RELATIVE` or one unit of its last digit."""
    wanted, value = (float(text.replace(",", "").replace("−", "-")) for text in (expected, printed))
    mantissa, _, power = expected.partition("e")
    unit = 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))
    return abs(wanted - value) <= max(RELATIVE * abs(wanted), 1.001 * unit)


def _plain(line):
    return " ".join(line.replace("=", " ").split())


def run_command(command):
    """Run one command in the current folder; return its exit code and all that it printed."""
    words = shlex.split(command, comments=True)
    variables = {}
    while re.match(r"\w+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    reading, writing = os.pipe()
    if words[0] not in _COMMANDS:
        os.close(reading), os.close(writing)
        done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        return done.returncode, done.stdout.decode()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _become(words, variables, writing)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8", errors="replace") as stream:
        printed = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), printed


def _become(words, variables, output):
    """Run a command in this process, which ends with it."""
    code = 1
    try:
        for stream in (1, 2):
            os.dup2(output, stream)
        for name, stream in (("stdout", 1), ("stderr", 2)):
            setattr(sys, name, os.fdopen(stream, "w", encoding="utf-8", buffering=1, closefd=False))
        os.environ.update(variables)
        sys.argv = list(words)
        code = _COMMANDS[words[0]](words[1:]) or 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(int(code))


def _pytest(arguments):
    import pytest

    return int(pytest.main(arguments))


def _cp_compress(arguments):
    from cp_compress.cli.main import main

    return main(arguments)


def _python(arguments):
    if arguments[0] == "-c":
        exec(arguments[1], {"__name__": "__main__"})
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


_COMMANDS = {"pytest": _pytest, "cp-compress": _cp_compress, "python": _python}


def main(arguments):
    """Run the page that is named, print what went wrong, and return whether something did."""
    trouble = run_page(*arguments, Path.cwd())
    if trouble is not None:
        print(trouble)
    return trouble is not None
