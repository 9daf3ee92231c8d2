"""Calls of the command `cp-compress` within this process."""

import json

from cp_compress.cli.main import main


def run(capsys, *arguments):
    """Return exit code, standard output and standard error of one call."""
    try:
        code = main([*arguments])
    except SystemExit as exit:
        code = exit.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def read(capsys, *arguments):
    """Return exit code and the JSON of one call."""
    code, out, _ = run(capsys, *arguments, "--json", "-")
    return code, json.loads(out)
