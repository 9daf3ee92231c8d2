"""Write what a model does on a data set to a file, for comparisons where the model is not at hand."""

from __future__ import annotations

import argparse

from cp_compress.base.showing.tables import number, table
from cp_compress.cli.compare import add_deployed_batch_size
from cp_compress.cli.models_and_data import (
    add_device,
    add_model_output,
    read_count,
    read_data,
    read_device,
    read_model,
    read_model_output,
)
from cp_compress.cli.output import DONE, add_output_arguments, emit, progress, read_target

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
        "--top-k",
        type=read_count,
        metavar="K",
        help="write the K largest logits of each example and the log of the normaliser (default: all logits)",
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
    from cp_compress.artifacts import save_observation
    from cp_compress.data import CompressedDataset, parse_codec
    from cp_compress.fidelity import observe

    codec = None if options.codec is None else parse_codec(options.codec)
    device = read_device(options)
    with progress(options, 2) as bar:
        bar.stage("reading")
        model = read_model(options.model, options.architecture, device)
        data = read_data(options.data)
        read = data if codec is None else CompressedDataset(data, codec)
        bar.stage("observing")
        seen = observe(
            model,
            read,
            device=device,
            batch_size=options.batch_size,
            deployed_batch_size=options.deployed_batch_size,
            output=read_model_output(options),
        )
        digest = save_observation(seen, options.output, layers=options.layer, top_k=options.top_k)
    rows = [("examples", number(len(seen))), ("classes", number(seen.classes)), ("digest", digest)]
    content = {"output": options.output, "digest": digest, "examples": len(seen), "classes": seen.classes}
    emit(options, f"{table(rows)}\n\nwritten to {options.output}", content)
    return DONE
