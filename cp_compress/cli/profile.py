"""Measure where the time from stored data to answers goes, and what compression really buys."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.factories import make_from
from cp_compress.base.files import write_atomically
from cp_compress.cli.encode import read_examples_or_folder
from cp_compress.cli.models_and_data import add_device, read_count, read_device, read_model, read_module
from cp_compress.cli.output import DONE, add_output_arguments, emit, progress, read_target

if TYPE_CHECKING:
    from cp_compress.pipeline.profiling import Pipeline

_EXAMPLE = """\
DATA is a folder that `cp-compress encode` wrote, a folder of images (folder/class/image.png), or a factory. Every
combination of DATA, --codec, --scheme and --workers is run in turns with the others; the first is what the others are
compared with: the first DATA as it is, the model as it is.

example:
  cp-compress profile cp_compress.examples:digits --model cp_compress.examples:digits_cnn \\
      --codec "jpeg(quality=75)" --scheme "quantize(int8)" --workers 0 --workers 2

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cp-compress profile`."""
    parser.epilog = _EXAMPLE + (parser.epilog or "")
    parser.add_argument("data", metavar="DATA", nargs="+", help="stored or original examples; several are compared")
    parser.add_argument("--model", metavar="MODEL", help="the model that answers (default: data is loaded alone)")
    parser.add_argument("--architecture", metavar="FACTORY", help="factory of the original model, if MODEL is a file")
    parser.add_argument(
        "--codec",
        action="append",
        default=[],
        help="store DATA in memory by this codec, beside DATA as it is; repeatable",
    )
    parser.add_argument(
        "--scheme",
        action="append",
        default=[],
        help="compress the model by this scheme, beside it as it is; repeatable",
    )
    parser.add_argument(
        "--workers", action="append", type=_read_workers, help="processes that load (default: 0); repeatable"
    )
    parser.add_argument("--coefficients", action="store_true", help="read coefficients of stored data, not its pixels")
    parser.add_argument("--backward", action="store_true", help="compute gradients too, as in training")
    parser.add_argument(
        "--transform", metavar="FACTORY", help="makes the function from a batch of inputs to what the model takes"
    )
    parser.add_argument("--batch-size", type=read_count, default=64, help="examples in a batch (default: 64)")
    parser.add_argument(
        "--examples", type=read_count, help="examples of a timed pass (default: those of DATA, at most 64 batches)"
    )
    parser.add_argument("--passes", type=read_count, default=3, help="timed passes of each (default: 3)")
    parser.add_argument("--picture", metavar="FILE", type=read_target, help="SVG file to draw the stages in")
    add_device(parser)
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Profile every combination and print one line each, or the stages of a single one."""
    about = [name for name in ("scheme", "architecture", "backward") if getattr(options, name)]
    if options.model is None and about:
        raise InvalidArgumentError(f"--{about[0]} is about a model: add --model MODEL")
    from cp_compress.pipeline.picture import draw
    from cp_compress.pipeline.profiling import profile_pipelines

    with progress(options, 2) as bar:
        bar.stage("reading")
        pipelines = _pipelines(options)
        bar.stage("running")
        found = profile_pipelines(pipelines, examples=options.examples, passes=options.passes)
    if options.picture:
        write_atomically(options.picture, draw(found).encode("utf-8", "backslashreplace"))
    shown = str(found.profiles[0] if len(found.profiles) == 1 else found)
    told = f"\n\ndrawn in {options.picture}" if options.picture else ""
    emit(options, f"{shown}{told}", {**found.to_json(), "picture": options.picture})
    return DONE


def _pipelines(options: argparse.Namespace) -> dict[str, Pipeline]:
    from cp_compress.model import parse_scheme
    from cp_compress.pipeline.profiling import Pipeline

    device = read_device(options)
    models: dict[str, Any] = {"": None}
    if options.scheme:
        dense = read_module(options.model, options.architecture, device, "--model")
        models[""] = dense
        models |= {scheme: parse_scheme(scheme).compress(dense) for scheme in options.scheme}
    elif options.model is not None:
        models[""] = read_model(options.model, options.architecture, device, "--model")
    data = {name: _read_data(name) for name in options.data}
    transform = None if options.transform is None else make_from(options.transform, "--transform")
    pipelines: dict[str, Pipeline] = {}
    many = len(data) > 1 or any(getattr(one, "codec", None) is not None for one in data.values())
    workers = list(dict.fromkeys(options.workers or [0]))
    for (name, one), codec, (scheme, model), count in itertools.product(
        data.items(), ("", *options.codec), models.items(), workers
    ):
        if options.coefficients and not codec and getattr(one, "codec", None) is None:
            continue  # pixels have none
        parts = [name if many else "", codec, scheme, f"{count} workers" if len(workers) > 1 else ""]
        pipelines[", ".join(part for part in parts if part) or "as it is"] = Pipeline(
            one,
            model,
            codec=codec or None,
            coefficients=options.coefficients,
            transform=transform,
            batch_size=options.batch_size,
            workers=count,
            backward=options.backward,
            device=device,
        )
    if not pipelines:
        raise InvalidArgumentError("--coefficients are those of stored data: add --codec, or give a stored DATA")
    return pipelines


def _read_data(name: str) -> Any:
    from cp_compress.data import StoredDataset

    if (Path(name) / "manifest.json").is_file():
        return StoredDataset(name)
    return read_examples_or_folder(name)


def _read_workers(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)
