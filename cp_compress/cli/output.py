"""Output shared by the commands: exit codes, JSON, tables and progress."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cp_compress.base.error_reasons import printable_line, printable_lines
from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.files import write_atomically
from cp_compress.base.json_values import plain
from cp_compress.base.outcomes import SEVERITY, Outcome

DONE, UNMET, USAGE, INCONCLUSIVE, FAILED = range(5)
OUTCOME_CODES = {"pass": DONE, "fail": UNMET, "inconclusive": INCONCLUSIVE, "error": FAILED}


def worst_outcome(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return the outcome that decides about all, or None where nothing was judged."""
    return max(outcomes, key=SEVERITY.index, default=None)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --json and --quiet."""
    parser.add_argument(
        "--json",
        metavar="PATH",
        type=lambda text: text if text == "-" else read_target(text),
        help='write the result, or the error unless options are invalid, as JSON; "-" prints it instead of the text',
    )
    parser.add_argument("--quiet", action="store_true", help="do not show progress")


def read_target(text: str) -> str:
    """Return the path of a file that can be written later; for argparse, before any work is done."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; give the path of a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: the folder {str(path.parent)!r} does not exist")
    return text


def require_different_files(options: argparse.Namespace) -> None:
    """Reject two options that would write one file."""
    named: dict[Path, str] = {}
    for name in ("output", "json", "state", "picture"):
        value = getattr(options, name, None)
        if value and value != "-":
            other = named.setdefault(Path(value).resolve(), name)
            if other != name:
                raise InvalidArgumentError(f"--{other} and --{name} both name {value}: give each its own file")


def prepare_streams() -> None:
    """Let no letter be one that cannot be printed: an encoding without "≥" shows its number instead."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def emit(options: argparse.Namespace, text: str, content: dict[str, Any]) -> None:
    """Print the text, or the JSON when it goes to standard output; write the JSON to its file."""
    document = json.dumps(plain(content), indent=2, ensure_ascii=False)
    if options.json == "-":
        _print_json(document)
        return
    if options.json:
        write_atomically(options.json, (document + "\n").encode("utf-8", "backslashreplace"))
    _print(printable_lines(text))


def emit_error(options: argparse.Namespace, message: str, code: int) -> None:
    """Give an error as JSON where JSON was asked for."""
    document = json.dumps({"error": message, "exit_code": code}, indent=2, ensure_ascii=False)
    if options.json == "-":
        _print_json(document)
    elif options.json:
        with contextlib.suppress(OSError):  # the error itself may be that this file cannot be written
            write_atomically(options.json, (document + "\n").encode("utf-8", "backslashreplace"))


def _print_json(document: str) -> None:
    """Print JSON of the same values, in which a terminal or a build server finds nothing to obey."""
    shown = "".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in document)
    _print(re.sub(r"##(?=\w*\[)", r"#\\u0023", shown))


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader stopped reading; the exit code still gives the verdict
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Progress:
    """A bar of stages on standard error; silent with --quiet and where nobody watches."""

    def __init__(self, quiet: bool, stages: int) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=stages, disable=quiet or not sys.stderr.isatty(), leave=False, file=sys.stderr)
        self._started = False

    def stage(self, name: str) -> None:
        """Say what is done now; whatever was before it is finished."""
        if self._started:
            self._bar.update()
        self._started = True
        self._bar.set_description(printable_line(name))

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


@contextlib.contextmanager
def progress(options: argparse.Namespace, stages: int) -> Iterator[Progress]:
    """Show a bar of so many stages while the work inside goes on."""
    bar = Progress(options.quiet, stages)
    try:
        yield bar
    finally:
        bar.close()
