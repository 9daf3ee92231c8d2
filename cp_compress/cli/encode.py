"""Compress a labelled data set and write it as a folder of shards."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cp_compress.base.errors import InvalidArgumentError, MissingExtraError, ObservationError
from cp_compress.cli.inspect import describe_store, store_content
from cp_compress.cli.models_and_data import read_count, read_data
from cp_compress.cli.output import DONE, add_output_arguments, emit

_EXAMPLE = """\
For this command, DATA is a factory or a folder of images (folder/class/image.png). The images are read as RGB; alpha
and the EXIF orientation are ignored.

example:
  cp-compress encode cp_compress.examples:digits --codec "jpeg(quality=75)" --output digits.store

To resume a run that was stopped, repeat the same command.

"""
_CONNECT_SECONDS = 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cp-compress encode`."""
    parser.epilog = _EXAMPLE + (parser.epilog or "")
    parser.add_argument("data", metavar="DATA", help="labelled examples, or a folder of images")
    parser.add_argument("--codec", required=True, help='how to compress, such as "jpeg(quality=75)" or "zfp(rate=4)"')
    parser.add_argument(
        "--output",
        "-o",
        required=True,
        metavar="FOLDER",
        help="folder to write to; it is created if missing, its parent must exist",
    )
    parser.add_argument("--shard-size", type=read_count, default=1024, help="examples per shard (default: 1024)")
    parser.add_argument("--batch-size", type=read_count, default=256, help="examples encoded at once (default: 256)")
    parser.add_argument("--jobs", type=read_count, default=1, help="number of processes (default: 1)")
    parser.add_argument(
        "--cluster", metavar="ADDRESS", help="address of a Dask scheduler whose workers see the same folders"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a data set that is already in FOLDER")
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Encode, resuming an earlier run if there is one, and print the size on disk."""
    from cp_compress.data import parse_codec, write_store

    codec = parse_codec(options.codec)
    data = _read_examples(options.data)
    with _cluster(options.cluster), _told_as_options():
        stored = write_store(
            data,
            codec,
            options.output,
            shard_size=options.shard_size,
            batch_size=options.batch_size,
            jobs=options.jobs,
            backend=None if options.cluster is None else "dask",
            progress=not options.quiet and sys.stderr.isatty(),
            overwrite=options.overwrite,
        )
    emit(options, f"{describe_store(stored)}\n\nwritten to {options.output}", store_content(stored))
    return DONE


def _read_examples(name: str) -> Any:
    if not Path(name).is_dir():
        if ":" not in name:
            raise InvalidArgumentError(f'DATA {name!r} is neither a folder nor of the form "package.module:factory"')
        return read_data(name, "DATA")
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(name)
    except FileNotFoundError as error:
        told = " ".join(str(error).split())
        raise ObservationError(f"DATA {name} is not a folder with one subfolder of images per class: {told}") from error


@contextlib.contextmanager
def _told_as_options() -> Iterator[None]:
    """Let errors name the options of the command instead of the arguments of `write_store`."""
    try:
        yield
    except InvalidArgumentError as error:
        told = str(error).replace("overwrite=True", "--overwrite")
        raise InvalidArgumentError(re.sub(r"^write_store\(path=(.*?)\): ", r"--output \1: ", told)) from error


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Let the work inside go to the workers of a Dask scheduler, where there is one."""
    if address is None:
        yield
        return
    try:
        import distributed
    except ImportError as error:
        raise MissingExtraError("encoding on a Dask cluster", "cluster") from error
    client: Any = distributed.Client
    with client(address, timeout=_CONNECT_SECONDS):
        yield
