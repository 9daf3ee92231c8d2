"""Compress a model with a scheme and write it to one file."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.files import write_atomically
from cp_compress.base.showing.tables import number, table
from cp_compress.cli.models_and_data import add_device, read_device, read_module
from cp_compress.cli.output import DONE, add_output_arguments, emit, progress, read_target

if TYPE_CHECKING:
    import torch
    from torch import nn

_OTHER_FORMATS = (".onnx", ".pt", ".pt2", ".pth", ".tflite", ".engine", ".gguf", ".npz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cp-compress compress`."""
    parser.add_argument("model", metavar="MODEL", help="the model to compress")
    parser.add_argument(
        "--scheme", required=True, help='how to compress, such as "prune(density=0.1) | quantize(float16)"'
    )
    help_output = "file for the compressed model"
    parser.add_argument("--output", "-o", required=True, type=read_target, metavar="FILE", help=help_output)
    parser.add_argument("--architecture", metavar="FACTORY", help="factory of the original model, if MODEL is a file")
    add_device(parser)
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Compress, save, read back and verify; print the change of each layer and the sizes."""
    from cp_compress.model import compression_report, footprint, parse_scheme
    from cp_compress.model.scheme import apply_scheme

    ending = Path(options.output).suffix.lower()
    if ending in _OTHER_FORMATS:
        told = f"what is written is a .cp file, and no {ending} file: name it {Path(options.output).stem}.cp"
        raise InvalidArgumentError(f"--output {options.output}: {told}")
    scheme = parse_scheme(options.scheme)
    device = read_device(options)
    with progress(options, 4) as bar:
        bar.stage("reading the model")
        model = read_module(options.model, options.architecture, device)
        bar.stage(str(scheme))
        candidate = apply_scheme(scheme, model)
        bar.stage("saving")
        write_atomically(options.output, _saved(candidate, options, device))
        before, after = footprint(model), footprint(candidate)
    report = compression_report(model, candidate)
    rows = [("", "before", "after", "ratio")]
    for name in ("parameters", "nonzero", "artifact_bytes", "resident_bytes"):
        was, now = getattr(before, name), getattr(after, name)
        rows.append((name, number(was), number(now), f"{was / now:.2f}" if now else ""))
    content = {
        "scheme": str(scheme),
        "output": options.output,
        "before": before.to_json(),
        "after": after.to_json(),
        "report": report.to_json(),
    }
    emit(options, f"{report}\n\n{table(rows)}\n\nwritten to {options.output}", content)
    return DONE


def _saved(candidate: nn.Module, options: argparse.Namespace, device: torch.device) -> bytes:
    """Return the file of a model, which reads back as that model."""
    from cp_compress.base.digests import digest_model
    from cp_compress.base.errors import CompressionError
    from cp_compress.model import save

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(options.output).name
        save(candidate, path)
        again = read_module(str(path), options.architecture or options.model, device)
        if digest_model(again) != digest_model(candidate):
            raise CompressionError(f"{options.output} was not written: it would not read back as the same model")
        return path.read_bytes()
