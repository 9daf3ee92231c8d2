"""Measure the parameters, bytes, operations and latency of a model, optionally compared with another."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cp_compress.base.errors import CompressionError, InvalidArgumentError
from cp_compress.base.showing.tables import number, table
from cp_compress.cli.models_and_data import (
    add_device,
    example_input,
    read_count,
    read_data,
    read_device,
    read_model,
    read_shape,
)
from cp_compress.cli.output import DONE, add_output_arguments, emit, progress

if TYPE_CHECKING:
    from cp_compress.fidelity.observing.runner import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cp-compress footprint`."""
    parser.add_argument("model", metavar="MODEL", help="the model to measure")
    parser.add_argument("--reference", metavar="MODEL", help="model to compare with")
    parser.add_argument(
        "--architecture", metavar="FACTORY", help="factory of the original model, for models that are files"
    )
    parser.add_argument(
        "--input-shape", type=read_shape, metavar="3,32,32", help="shape of one example, needed to count FLOPs"
    )
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="examples whose first batch is the input, for models of other inputs than one image",
    )
    parser.add_argument("--batch-size", type=read_count, default=1, help="examples per batch (default: 1)")
    parser.add_argument(
        "--latency", action="store_true", help="time both models alternately (needs --reference and --input-shape)"
    )
    parser.add_argument(
        "--repeats", type=read_count, default=20, help="number of timed calls of each model (default: 20)"
    )
    add_device(parser)
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Measure the model, and the reference where one is given."""
    from torch import nn

    from cp_compress.model.footprints import figures_of, measure_latency

    if options.input_shape is not None and options.data is not None:
        raise InvalidArgumentError("--input-shape and --data both say what the input is: leave one of them out")
    if options.latency and (options.reference is None or (options.input_shape is None and options.data is None)):
        rule = "add --reference, and --input-shape or --data"
        raise InvalidArgumentError(f"--latency compares two models on a given input: {rule}")
    device = read_device(options)
    inputs = _inputs(options, device)
    with progress(options, 3) as bar:
        bar.stage("reading the models")
        models = _read(options)
        bar.stage("measuring")
        try:
            found = {name: figures_of(model, inputs) for name, model in models.items()}
        except (RuntimeError, ValueError, TypeError) as error:
            if isinstance(error, CompressionError) or inputs is None:
                raise
            told = options.data if options.data is not None else (options.batch_size, *options.input_shape)
            raise CompressionError(f"the model cannot be run on inputs {told}: {error}") from error
        seconds: dict[str, float] = {}
        if options.latency:
            model, reference = models["model"], models["reference"]
            if not isinstance(model, nn.Module) or not isinstance(reference, nn.Module):
                raise InvalidArgumentError("--latency times models of torch alone; time a file with its own runtime")
            bar.stage("timing")
            times = measure_latency(model, reference, inputs, options.repeats)
            seconds = dict(zip(("model", "reference"), times, strict=True))
    both = len(models) > 1
    rows = [("", *models, *(["reference / model"] if both else []))]
    for name in found["model"]:
        values = [found[which][name] for which in models]
        if any(value is not None for value in values):
            known = all(value is not None for value in values) and values[0]
            ratio = [f"{(values[1] or 0) / values[0]:.2f}" if known else ""] if both else []  # type: ignore[operator]
            rows.append((name, *map(number, values), *ratio))
    if seconds:
        milliseconds = [1000 * seconds[which] for which in models]
        rows.append(("milliseconds", *map(number, milliseconds), f"{milliseconds[1] / milliseconds[0]:.2f}"))
    emit(options, table(rows), {**found, **({"seconds": seconds} if seconds else {})})
    return DONE


def _inputs(options: argparse.Namespace, device: Any) -> Any:
    """Return what models are run on: random values of a shape, the first examples of data, or None."""
    if options.data is None:
        shape = options.input_shape
        return None if shape is None else example_input(shape, options.batch_size, device)
    from cp_compress.inputs.reading import LabeledData
    from cp_compress.inputs.trees import arguments_of

    data = LabeledData(read_data(options.data))
    return arguments_of(data.read(range(min(options.batch_size, len(data))))[0].to(device))


def _read(options: argparse.Namespace) -> dict[str, Model]:
    device = read_device(options)
    models: dict[str, Model] = {"model": read_model(options.model, options.architecture, device)}
    if options.reference is not None:
        models["reference"] = read_model(options.reference, options.architecture, device, "--reference")
    return models
