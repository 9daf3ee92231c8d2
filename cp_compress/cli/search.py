"""Search for the smallest compressed model that still meets every requirement."""

from __future__ import annotations

import argparse

from cp_compress.cli.output import DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cp-compress search`."""


def run(options: argparse.Namespace) -> int:
    """Search."""
    return DONE
