"""Verify a compressed data set on disk and list lost examples."""

from __future__ import annotations

import argparse
import sys

from cp_compress.cli.models_and_data import require_path
from cp_compress.cli.output import DONE, FAILED, add_output_arguments, emit

_EXAMPLE = """\
example:
  cp-compress verify digits.store

The exit code is 4 if the data set is damaged. To write the lost shards again, repeat the `cp-compress encode` command.

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cp-compress verify`."""
    parser.epilog = _EXAMPLE + (parser.epilog or "")
    parser.add_argument("folder", metavar="FOLDER", help="folder written by `cp-compress encode`")
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Read every shard and compare it with its checksum."""
    from cp_compress.data import verify_store

    report = verify_store(require_path(options.folder, "FOLDER"), progress=not options.quiet and sys.stderr.isatty())
    emit(options, str(report), report.to_json())
    return DONE if report.intact else FAILED
