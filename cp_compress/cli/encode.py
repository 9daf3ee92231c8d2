"""Compress a labelled data set and write it as a folder of shards."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cp_compress.base.errors import InvalidArgumentError, MissingExtraError, ObservationError
from cp_compress.base.factories import make_from
from cp_compress.cli.inspect import describe_store, store_content
from cp_compress.cli.models_and_data import (
    add_device,
    read_count,
    read_data,
    read_device,
    read_model,
    read_parameters,
)
from cp_compress.cli.output import DONE, add_output_arguments, emit

if TYPE_CHECKING:
    import torch

_EXAMPLE = """\
For this command, DATA is a factory or a folder of images (folder/class/image.png). The images are read as RGB; alpha
and the EXIF orientation are ignored.

example:
  cp-compress encode cp_compress.examples:digits --codec "jpeg(quality=75)" --output digits.store

To resume a run that was stopped, repeat the same command.

With --preserve each example is stored at the smallest setting at which all models keep their answers:
  cp-compress encode cp_compress.examples:digits --codec "jpeg(quality={quality})" \\
      --parameter "quality=integer(1, 100)" --preserve cp_compress.examples:digits_cnn --output digits.store

"""
_CONNECT_SECONDS = 15
_PRESERVING = ("parameter", "held_back", "measure", "at_most", "otherwise", "transform", "architecture", "device")


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
    _add_preserving(parser)
    add_device(parser)
    add_output_arguments(parser)


def _add_preserving(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a setting for each example")
    group.add_argument(
        "--preserve",
        action="append",
        metavar="MODEL",
        help="model that must keep its answers, as MODEL or NAME=MODEL; each example gets the smallest setting at "
        "which it does; repeatable",
    )
    group.add_argument("--parameter", metavar="NAME=RANGE", help='range of the setting: "quality=integer(1, 100)"')
    group.add_argument(
        "--held-back", action="append", metavar="MODEL", help="model that is not asked, and reported; repeatable"
    )
    group.add_argument("--measure", choices=("answer", "margin"), help="what is kept (default: answer)")
    group.add_argument(
        "--at-most", type=float, metavar="NUMBER", help="largest loss of a logit's margin, for --measure margin"
    )
    group.add_argument(
        "--otherwise",
        choices=("refuse", "mildest", "lossless"),
        help="what happens to examples that no setting keeps (default: refuse, with their numbers)",
    )
    group.add_argument(
        "--transform", metavar="FACTORY", help="makes the function from a stored batch to what the models take"
    )
    group.add_argument(
        "--architecture", metavar="FACTORY", help="factory of the model whose weights a MODEL file holds"
    )


def run(options: argparse.Namespace) -> int:
    """Encode, resuming an earlier run if there is one, and print the size on disk."""
    from cp_compress.data import parse_codec, write_store

    if options.preserve:
        return _run_preserving(options)
    unused = [name for name in _PRESERVING if getattr(options, name) is not None]
    if unused:
        rule = "is about models that must keep their answers: add --preserve MODEL"
        raise InvalidArgumentError(f"--{unused[0].replace('_', '-')} {rule}")
    codec = parse_codec(options.codec)
    data = read_examples_or_folder(options.data)
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


def _run_preserving(options: argparse.Namespace) -> int:
    """Encode each example at a setting of its own, and print the size on disk and what is kept."""
    from cp_compress.search import CodecSpace, write_preserved_store

    if options.parameter is None:
        raise InvalidArgumentError('--preserve needs the range of a setting: --parameter "quality=integer(1, 100)"')
    if options.cluster is not None:
        raise InvalidArgumentError("--cluster: with --preserve models are run here; use --jobs to write in parallel")
    family = CodecSpace(options.codec, **read_parameters([options.parameter]))
    device = read_device(options)
    models = {what: _read_models(options, what, device) for what in ("preserve", "held_back")}
    with _told_as_options("write_preserved_store"):
        stored = write_preserved_store(
            read_examples_or_folder(options.data),
            family,
            options.output,
            models["preserve"],
            measure=options.measure or "answer",
            at_most=options.at_most,
            otherwise=options.otherwise or "refuse",
            held_back=models["held_back"],
            transform=None if options.transform is None else make_from(options.transform, "--transform"),
            shard_size=options.shard_size,
            batch_size=options.batch_size,
            jobs=options.jobs,
            progress=not options.quiet and sys.stderr.isatty(),
            overwrite=options.overwrite,
        )
    emit(options, f"{describe_store(stored)}\n\nwritten to {options.output}", store_content(stored))
    return DONE


def _read_models(options: argparse.Namespace, what: str, device: torch.device) -> dict[str, Any]:
    """Return models by the names that they are given, or by the texts that name them."""
    models: dict[str, Any] = {}
    option = f"--{what.replace('_', '-')}"
    for text in getattr(options, what) or ():
        name, equals, model = text.partition("=")
        name, model = (name, model) if equals and name.isidentifier() else (text, text)
        if name in models:
            raise InvalidArgumentError(f"{option} {text}: two models are called {name}")
        models[name] = read_model(model, options.architecture, device, option)
    return models


def read_examples_or_folder(name: str) -> Any:
    """Return the examples of a factory, or of a folder of images; raises InvalidArgumentError for another name."""
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
def _told_as_options(function: str = "write_store") -> Iterator[None]:
    """Let errors name the options of the command instead of the arguments of a function."""
    try:
        yield
    except InvalidArgumentError as error:
        told = str(error).replace("overwrite=True", "--overwrite")
        raise InvalidArgumentError(
            re.sub(rf"^(write_store|{function})\(path=(.*?)\): ", r"--output \2: ", told)
        ) from error


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
