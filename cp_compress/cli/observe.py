"""Write what a model does on a data set to a file, for comparisons where the model is not at hand."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.showing.tables import number, table
from cp_compress.cli.compare import add_deployed_batch_size
from cp_compress.cli.models_and_data import (
    add_device,
    add_model_output,
    read_count,
    read_data,
    read_device,
    read_equivalent,
    read_model,
    read_model_output,
)
from cp_compress.cli.output import DONE, add_output_arguments, emit, progress, read_target
from cp_compress.fidelity.comparisons import COMPARISONS

if TYPE_CHECKING:
    import torch

    from cp_compress.fidelity.observing.runner import Model

_EXAMPLE = """\
example:
  cp-compress observe reference.onnx --data test.npz --output reference.obs
  cp-compress compare candidate.onnx reference.obs --data test.npz --require "agreement >= 0.99"

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cp-compress observe`."""
    parser.epilog = _EXAMPLE + (parser.epilog or "")
    parser.add_argument("model", metavar="MODEL", help="the model to observe")
    parser.add_argument("--data", required=True, metavar="DATA", help="the examples, as below")
    parser.add_argument(
        "--output", "-o", required=True, type=read_target, metavar="FILE", help="file for the observation"
    )
    parser.add_argument("--architecture", metavar="FACTORY", help="factory of the model, if MODEL is a file of weights")
    parser.add_argument(
        "--layer",
        action="append",
        default=[],
        metavar="PATH",
        help="layer whose embeddings are written; repeatable; default: is the input of the last linear one",
    )
    parser.add_argument(
        "--level",
        choices=("predictions", "language"),
        default="predictions",
        help="what the model is: one that answers each example, or a language model (default: predictions)",
    )
    parser.add_argument(
        "--top-k",
        type=read_count,
        metavar="K",
        help="write the K largest logits of each example, or token, and the log of the normaliser (default: all; "
        "64 for --level language)",
    )
    parser.add_argument(
        "--noise",
        action="append",
        default=[],
        metavar="REFERENCE",
        help='a reference that is as good: a scheme such as "quantize(bfloat16)", or a MODEL; repeatable: what metrics '
        "are among all of them is written",
    )
    parser.add_argument(
        "--codec", help='store the data by this codec for the model, such as "jpeg(quality=50)", as for a candidate'
    )
    add_model_output(parser)
    parser.add_argument(
        "--batch-size", type=read_count, default=256, help="largest number of examples in one call (default: 256)"
    )
    add_deployed_batch_size(parser)
    add_device(parser)
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run the model over the data, write the file, and print its digest."""
    from cp_compress.artifacts.guards import opened
    from cp_compress.artifacts.observations.format import read_layout

    device = read_device(options)
    with progress(options, 2) as bar:
        bar.stage("reading")
        model = read_model(options.model, options.architecture, device)
        observe = _observe_language if options.level == "language" else _observe_examples
        bar.stage("observing")
        digest = observe(model, options, device)
    with opened(options.output, sys.maxsize) as file:
        facts = read_layout(file, options.output)[0]
    what = "documents" if options.level == "language" else "examples"
    classes = "vocabulary" if options.level == "language" else "classes"
    count, choices = facts["data"]["count"], facts["outputs"]["classes"]
    rows = [(what, number(count)), (classes, number(choices)), ("digest", digest)]
    content = {"output": options.output, "digest": digest, what: count, classes: choices}
    emit(options, f"{table(rows)}\n\nwritten to {options.output}", content)
    return DONE


def _observe_examples(model: Model, options: argparse.Namespace, device: torch.device) -> str:
    from cp_compress.artifacts import observe_to_file
    from cp_compress.data import CompressedDataset, parse_codec

    codec = None if options.codec is None else parse_codec(options.codec)
    data = read_data(options.data)
    return observe_to_file(
        model,
        data if codec is None else CompressedDataset(data, codec),
        options.output,
        device=device,
        batch_size=options.batch_size,
        deployed_batch_size=options.deployed_batch_size,
        output=read_model_output(options),
        layers=options.layer,
        top_k=options.top_k,
        noise={text: read_equivalent(text, model, options.architecture, device) for text in options.noise},
    )


def _observe_language(model: Model, options: argparse.Namespace, device: torch.device) -> str:
    from cp_compress.artifacts import observe_language_to_file

    for name in ("layer", "codec", "model_output", "noise"):
        if getattr(options, name):
            rule = "is for models that answer each example, and not for --level language"
            raise InvalidArgumentError(f"--{name.replace('_', '-')} {rule}")
    return observe_language_to_file(
        model,
        read_data(options.data, reader=COMPARISONS["language"].read),
        options.output,
        top_k=options.top_k or 64,
        device=device,
        batch_size=options.batch_size,
        deployed_batch_size=options.deployed_batch_size,
    )
