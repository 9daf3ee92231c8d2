"""Compress a model by a scheme and write it to one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from cp_compress.cli.output import DONE, add_output_arguments, emit, number, progress, read_target, table
from cp_compress.cli.subjects import add_device, read_device, read_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cp-compress compress`."""
    parser.add_argument("model", metavar="MODEL", help="the model to compress")
    parser.add_argument("--scheme", required=True, help='such as "prune(density=0.1) | quantize(float16)"')
    help_output = "where to write the compressed model"
    parser.add_argument("--output", "-o", required=True, type=read_target, metavar="FILE", help=help_output)
    parser.add_argument("--architecture", metavar="FACTORY", help="the factory behind MODEL, where that is a file")
    add_device(parser)
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Compress, save, read back and check, and say what was done to each layer and what it saved."""
    from cp_compress.base.digests import digest_model
    from cp_compress.base.errors import CompressionError
    from cp_compress.model import compression_report, footprint, parse_scheme, save

    scheme = parse_scheme(options.scheme)
    device = read_device(options)
    with progress(options, 4) as bar:
        bar.stage("reading the model")
        model = read_model(options.model, options.architecture, device)
        bar.stage(str(scheme))
        candidate = scheme.compress(model)
        bar.stage("saving")
        save(candidate, options.output)
        bar.stage("checking the file")
        architecture = options.architecture or options.model
        try:
            again = digest_model(read_model(options.output, architecture, device))
        except Exception:
            Path(options.output).unlink()
            raise
        if again != digest_model(candidate):
            Path(options.output).unlink()
            raise CompressionError(f"{options.output} does not read back as the model that was written; it was removed")
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
