"""Compare a compressed model with its reference at any level, and judge it by requirements."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cp_compress.base.error_reasons import printable_line
from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.factories import make_from
from cp_compress.base.showing.tables import number, table
from cp_compress.cli.models_and_data import (
    add_device,
    add_model_output,
    add_moved,
    add_pair_arguments,
    read_count,
    read_data,
    read_device,
    read_model_output,
    read_pair,
    read_share,
)
from cp_compress.cli.output import OUTCOME_CODES, add_output_arguments, emit, progress, worst_outcome
from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.judging.metrics import find_comparison

if TYPE_CHECKING:
    from cp_compress.fidelity.judging.judgement import Check, Result
    from cp_compress.fidelity.judging.measurement import Measurement
    from cp_compress.fidelity.judging.measuring import Compare
    from cp_compress.fidelity.judging.requirement import Requirement
    from cp_compress.fidelity.observing.observation import Observation

_LEVELS = tuple(name for name, one in COMPARISONS.items() if one.kind not in ("data", "pipeline") and not one.required)
_LISTED = 5
_WITHOUT_DEFAULT = ("layer", "input", "at_layer", "tokenizer", "encode")
_WIDTH = 79


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cp-compress compare`."""
    parser.add_argument("candidate", metavar="CANDIDATE", help="the compressed model, a MODEL as below")
    parser.add_argument("reference", metavar="REFERENCE", help="the model before compression, a MODEL as below")
    parser.add_argument("--data", required=True, metavar="DATA", help="labelled examples, as below")
    parser.add_argument(
        "--architecture", metavar="FACTORY", help="the factory behind models that are files (default: REFERENCE)"
    )
    parser.add_argument("--codec", help='store the data by this codec for the candidate, such as "jpeg(quality=50)"')
    add_model_output(parser)
    add_pair_arguments(parser)
    parser.add_argument(
        "--level", action="append", choices=_LEVELS, default=[], help="a level to measure as well; repeatable"
    )
    add_requirement_arguments(parser)
    add_device(parser)
    add_output_arguments(parser)


def add_requirement_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what a specification is made of: requirements and the options of the comparisons; the help names metrics."""
    parser.epilog = f"{_metrics_told()}\n\n{parser.epilog or ''}"
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="TEXT",
        help='a requirement, such as "agreement >= 0.99"; repeatable',
    )
    parser.add_argument(
        "--confidence", type=float, help="make each requirement a claim about the population, at this confidence"
    )
    parser.add_argument(
        "--class-groups", metavar="JSON", help='groups of classes for the cost: {"pets": [2, 3], "rest": [0, 1]}'
    )
    parser.add_argument(
        "--layer",
        action="append",
        help="layer of the embeddings; repeatable (default: the input of the last linear layer)",
    )
    parser.add_argument(
        "--epsilon", type=float, help="largest distance of the search for divergence, in units of the input"
    )
    parser.add_argument(
        "--similarity", choices=("cosine", "dot", "euclidean", "model"), help="how retrieval compares two embeddings"
    )
    parser.add_argument(
        "--encode", metavar="FACTORY", help="makes the function that turns (model, batch) into embeddings for retrieval"
    )
    parser.add_argument(
        "--tokenizer", metavar="FACTORY", help="makes what decodes token ids (decode), as served models may need"
    )
    add_moved(parser)
    parser.add_argument("--lattice", choices=("uint8",), help="search for divergence among images k/255 only")
    parser.add_argument("--method", default="saliency", help='attribution method (default: "saliency")')
    parser.add_argument(
        "--examples",
        type=read_count,
        help="number of examples to compare (default: all; 32 for boundaries, 64 for divergence)",
    )
    parser.add_argument(
        "--max-distance", type=float, help="largest distance of the search for boundaries, in units of the input"
    )
    parser.add_argument(
        "--tolerance",
        type=read_share,
        default=0.1,
        help="relative change of a distance, or error of an output, up to which it counts as preserved (default: 0.1)",
    )
    parser.add_argument(
        "--batch-size", type=read_count, default=256, help="largest number of examples in one call (default: 256)"
    )
    add_deployed_batch_size(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice (default: 0)")


def add_deployed_batch_size(parser: argparse.ArgumentParser) -> None:
    """Add the batch size that answers may depend on."""
    parser.add_argument(
        "--deployed-batch-size",
        type=read_count,
        help="batch size of the deployed model, to which forward passes are held where answers depend on the batch",
    )


def _metrics_told() -> str:
    """Return the metrics that can be required, by level, each with its side, as lines of a help."""
    lines = ["metrics that can be required, by level, with the side from which:"]
    width = max(map(len, _LEVELS))
    for level in _LEVELS:
        line = f"  {level:<{width}}"
        for metric in COMPARISONS[level].metrics:
            if metric.direction is None:
                continue
            name = f"{metric.name}_0.1" if metric.leveled else metric.name
            told = f"  {name} {'>=' if metric.direction == 'min' else '<='}"
            if len(line) + len(told) > _WIDTH:
                lines.append(line)
                line = " " * (width + 2)
            line += told
        lines.append(line)
    return "\n".join(lines)


def run(options: argparse.Namespace) -> int:
    """Measure every level that is named or required, and judge."""
    requirements = read_requirements(options)
    if options.confidence is not None and not requirements:
        raise InvalidArgumentError("--confidence is that of requirements: add --require, or leave it out")
    levels = dict.fromkeys([*options.level, *(find_level(requirement.metric) for requirement in requirements)])
    levels = levels or {"predictions": None}
    comparisons = {level: read_comparison(level, options, requirements) for level in levels}
    require_taken(options, [chosen for _, chosen in comparisons.values()])
    streamed = [level for level in levels if COMPARISONS[level].kind == "streamed"]
    if streamed and len(levels) > 1:
        others = ", ".join(level for level in levels if level != streamed[0])
        raise InvalidArgumentError(f"{streamed[0]} reads its data in another form than {others}: ask apart")
    with progress(options, len(levels) + 1) as bar:
        bar.stage("reading")
        measured: list[tuple[Measurement, Check | None]] = []
        if streamed:
            compare, chosen = comparisons[streamed[0]]
            reader = COMPARISONS[streamed[0]].read
            measured.append(_measure_streamed(options, functools.partial(compare, **chosen), reader, requirements))
        else:
            candidate, reference = _observe(options)
            for level, (compare, chosen) in comparisons.items():
                bar.stage(level)
                own = [one for one in requirements if find_level(one.metric) == level]
                measured.append(_measure(functools.partial(compare, **chosen), candidate, reference, own))
    outcomes = [check.outcome for _, check in measured if check is not None]
    outcome = worst_outcome(outcomes)
    content = {
        "candidate": options.candidate,
        "reference": options.reference,
        "data": options.data,
        "codec": options.codec,
        "outcome": outcome,
        "checks": [measurement.to_json() if check is None else check.to_json() for measurement, check in measured],
    }
    emit(options, "\n\n".join(_describe(measurement, check) for measurement, check in measured), content)
    return OUTCOME_CODES[outcome or "pass"]


def read_requirements(options: argparse.Namespace) -> list[Requirement]:
    """Return the requirements written on the command line."""
    from cp_compress.fidelity.judging.requirement import Requirement

    requirements = []
    for text in options.require:
        exact = COMPARISONS[find_level(Requirement.parse(text).metric)].kind == "size"  # it has no sampling error
        requirements.append(Requirement.parse(text, None if exact else options.confidence))
    return requirements


def read_comparison(
    level: str, options: argparse.Namespace, requirements: Sequence[Requirement]
) -> tuple[Callable[..., Measurement], dict[str, Any]]:
    """Return the comparison of a level and what the command line sets of its options."""
    comparison = COMPARISONS[level]
    given = {
        "layer": options.layer,
        "method": options.method,
        "epsilon": options.epsilon,
        "input": None if level == "boundaries" and options.at_layer else options.input,
        "at_layer": options.at_layer,
        "lattice": options.lattice,
        "similarity": options.similarity,
        "tokenizer": None if options.tokenizer is None else make_from(options.tokenizer, "--tokenizer"),
        "encode": None if options.encode is None else make_from(options.encode, "--encode"),
        "examples": options.examples,
        "max_distance": options.max_distance,
        "tolerance": options.tolerance,
        "class_distance": _read_groups(options.class_groups),
        "batch_size": options.batch_size if comparison.kind == "size" else None,
        "seed": options.seed,
    }
    chosen = {name: value for name, value in given.items() if name in comparison.options and value is not None}
    missing = [
        name for name, option in comparison.options.items() if option.default is option.empty and name not in chosen
    ]
    if missing:
        raise InvalidArgumentError(f"--{missing[0].replace('_', '-')} is needed to compare {level}")
    asked = [requirement.metric for requirement in requirements if find_level(requirement.metric) == level]
    asked = asked or [metric.name for metric in comparison.metrics]
    return comparison.compare, {**comparison.implied(asked), **chosen}


def require_taken(
    options: argparse.Namespace, chosen: Sequence[Mapping[str, Any]], names: Sequence[str] = _WITHOUT_DEFAULT
) -> None:
    """Raise InvalidArgumentError for an option that none of the comparisons takes, given what each is given."""
    for name in names:
        if getattr(options, name) is not None and not any(name in one for one in chosen):
            rule = "no level that is measured takes it: name one by --level, or leave it out"
            raise InvalidArgumentError(f"--{name.replace('_', '-')} {getattr(options, name)}: {rule}")


def find_level(metric: str) -> str:
    """Return the comparison that gives a metric; raises InvalidArgumentError for one that is not of two models."""
    level = find_comparison(metric)
    if COMPARISONS[level].required:
        rule = f"{metric} needs {' or '.join(COMPARISONS[level].required)}, which are given in Python"
        raise InvalidArgumentError(f"{rule}: use compare_{level}")
    if level not in _LEVELS:
        raise InvalidArgumentError(f"{metric} compares data, not models: it cannot be required here")
    return level


def _measure_streamed(
    options: argparse.Namespace,
    compare: Callable[..., Measurement],
    reader: Callable[[Any], Any],
    own: Sequence[Requirement],
) -> tuple[Measurement, Check | None]:
    """Return what a comparison finds that runs both models side by side on what a factory makes, and its check."""
    from cp_compress.fidelity.judging.judgement import judge
    from cp_compress.fidelity.observing.refusals import (
        require_difference,
        require_order,
        require_other_content,
        require_source,
    )
    from cp_compress.fidelity.side_by_side.sides import EQUAL

    if options.codec is not None:
        raise InvalidArgumentError("--codec stores labelled examples, which this level does not read: leave it out")
    if options.model_output is not None:
        raise InvalidArgumentError("--model-output: this level compares a whole output of its own: leave it out")
    device = read_device(options)
    candidate, reference = read_pair(options, device)
    data = read_data(options.data, reader=reader)
    require_order(candidate, reference)
    require_source(candidate, reference)
    require_difference(candidate, reference, data, None)
    sizes = {"batch_size": options.batch_size, "deployed_batch_size": options.deployed_batch_size}
    found = compare(candidate, reference, data, device=device, **sizes)
    if found.details[EQUAL]:
        require_other_content(candidate, reference, f"all {len(data)} examples")
    return found, judge(found, own) if own else None


def _observe(options: argparse.Namespace) -> tuple[Observation, Observation]:
    from cp_compress.data import CompressedDataset, parse_codec
    from cp_compress.fidelity.overview import observe_pair

    codec = None if options.codec is None else parse_codec(options.codec)
    device = read_device(options)
    candidate, reference = read_pair(options, device)
    data = read_data(options.data)
    decoded = None if codec is None else CompressedDataset(data, codec)
    settings: dict[str, Any] = {"batch_size": options.batch_size, "deployed_batch_size": options.deployed_batch_size}
    settings["output"] = read_model_output(options)
    return observe_pair(candidate, reference, data, decoded, device=device, **settings)


def _measure(
    compare: Compare, candidate: Observation, reference: Observation, own: Sequence[Requirement]
) -> tuple[Measurement, Check | None]:
    from cp_compress.fidelity.judging.batches import with_batches
    from cp_compress.fidelity.judging.judgement import judge
    from cp_compress.fidelity.judging.measuring import measure_for

    if not own:
        return with_batches(compare(candidate, reference), candidate, reference), None
    if COMPARISONS[find_level(own[0].metric)].kind == "size":
        measurement = compare(candidate, reference)
    else:
        measurement = measure_for(own, candidate, reference, compare)
    return measurement, judge(measurement, own)


def _read_groups(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidArgumentError(f"--class-groups {text!r} is no JSON: {error}") from error


def _describe(measurement: Measurement, check: Check | None) -> str:
    results: dict[str, list[Result]] = {}
    for result in () if check is None else check.results:
        results.setdefault(result.requirement.metric, []).append(result)
    rows = [(measurement.comparison, "value", "n", "required", "outcome")]
    for metric, value in measurement.metrics.items():
        bounds = (result.requirement.bound for result in results.get(metric, []))
        facts = (metric, number(value, *bounds), number(measurement.counts.get(metric)))
        judged = [(str(result.requirement), _verdict(result)) for result in results.get(metric, [])]
        rows += [(*facts, *pair) for pair in judged or [("", "")]]
    changed = [printable_line(f"  {change}") for change in measurement.examples[:_LISTED]]
    listed = ["examples that changed most:", *changed] if changed else []
    return "\n".join([table(rows), *listed, *(printable_line(f"note: {note}") for note in measurement.notes)])


def _verdict(result: Result) -> str:
    interval, bound = result.interval, result.requirement.bound
    found = "" if interval is None else f", [{number(interval.low, bound)}, {number(interval.high, bound)}]"
    more = result.examples_needed
    needed = "" if more is None else f", about {more:,} more examples would decide"
    return f"{result.outcome}{found}{needed}"
