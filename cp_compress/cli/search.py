"""Search for the smallest compressed model that meets all requirements."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.cli.compare import (
    add_requirement_arguments,
    find_level,
    read_comparison,
    read_requirements,
    require_taken,
)
from cp_compress.cli.models_and_data import (
    add_device,
    add_model_output,
    read_count,
    read_data,
    read_device,
    read_model_output,
    read_module,
    read_parameters,
)
from cp_compress.cli.output import DONE, OUTCOME_CODES, UNMET, add_output_arguments, emit, read_target, worst_outcome

if TYPE_CHECKING:
    from cp_compress.search import Preserved, SchemeSpace

_EXAMPLE = """\
example:
  cp-compress search cp_compress.examples:digits_cnn --scheme "prune(density={density})" \\
      --parameter "density=real(0.02, 1, scale=log)" --require "agreement >= 0.97" --confidence 0.95 \\
      --data cp_compress.examples:digits_training --gate-data cp_compress.examples:digits --output smallest.cp

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cp-compress search`."""
    parser.epilog = _EXAMPLE + (parser.epilog or "")
    parser.add_argument("model", metavar="MODEL", help="the model to compress")
    parser.add_argument("--scheme", required=True, help='template of the scheme, such as "prune(density={density})"')
    parser.add_argument(
        "--parameter",
        required=True,
        action="append",
        metavar="NAME=RANGE",
        help='range of a name in the template: "density=real(0.02, 1, scale=log)", "n=integer(1, 3)", '
        "\"dtype=categorical(('int8', 'float16'))\"; repeatable",
    )
    parser.add_argument(
        "--data", required=True, metavar="DATA", help="labelled examples on which candidates are judged"
    )
    parser.add_argument(
        "--gate-data", metavar="DATA", help="other examples, on which the best candidate is judged again"
    )
    parser.add_argument(
        "--allow-shared-examples", action="store_true", help="allow --gate-data to contain examples of --data"
    )
    parser.add_argument("--objective", default="artifact_bytes", help="quantity to minimise (default: artifact_bytes)")
    parser.add_argument("--strategy", help='search strategy, such as "bisection(noise=0.01)", "dr_ucb()", "bayesian()"')
    parser.add_argument("--trials", type=read_count, default=12, help="number of candidates to try (default: 12)")
    parser.add_argument(
        "--state",
        metavar="FILE",
        type=read_target,
        help="file that keeps the trials, so that a stopped search can be resumed",
    )
    parser.add_argument("--jobs", type=read_count, default=1, help="number of processes (default: 1)")
    help_output = "file for the best candidate; not written if it does not pass on --gate-data"
    parser.add_argument("--output", "-o", metavar="FILE", type=read_target, help=help_output)
    parser.add_argument("--architecture", metavar="FACTORY", help="factory of the original model, if MODEL is a file")
    add_model_output(parser)
    add_requirement_arguments(parser)
    add_device(parser)
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Search, judge the best candidate on --gate-data if given, and write it."""
    import sys

    from cp_compress.model import save
    from cp_compress.search import NoFeasibleCandidateError, search

    space = _read_space(options)
    requirements = read_requirements(options)
    if not requirements:
        raise InvalidArgumentError(
            "a search needs at least one --require; without requirements the smallest model always wins"
        )
    levels = dict.fromkeys(find_level(requirement.metric) for requirement in requirements)
    chosen = {level: read_comparison(level, options, requirements)[1] for level in levels}
    require_taken(options, [*chosen.values()])
    model = read_module(options.model, options.architecture, read_device(options))
    data = read_data(options.data)
    gate_data = None if options.gate_data is None else read_data(options.gate_data, "--gate-data")
    try:
        result = search(
            model,
            space,
            objective=options.objective,
            constraints=[_constraint(level, own, options, data) for level, own in chosen.items()],
            strategy=options.strategy,
            trials=options.trials,
            seed=options.seed,
            example_input=_first_batch(data, options.batch_size),
            gate_data=gate_data,
            allow_shared_examples=options.allow_shared_examples,
            state=options.state,
            jobs=options.jobs,
            progress=not options.quiet and sys.stderr.isatty(),
        )
    except NoFeasibleCandidateError as error:
        emit(options, f"no candidate found: {error}{_not_written(options)}", error.to_json())
        return UNMET
    outcome = worst_outcome([check.outcome for check in result.gate or ()]) or "pass"
    code = OUTCOME_CODES[outcome]
    written = options.output if code == DONE else None
    if written:
        save(result.best, written)
    told = f"\n\nwritten to {written}" if written else ""
    if options.output and not written:
        told = f"\n\noutcome on --gate-data: {outcome}{_not_written(options)}"
    emit(options, f"{result}{told}", {**result.to_json(), "output": written})
    return code


def _not_written(options: argparse.Namespace) -> str:
    if not options.output:
        return ""
    old = "; the existing file is from an earlier run" if Path(options.output).exists() else ""
    return f"\n{options.output} was NOT written{old}"


def _read_space(options: argparse.Namespace) -> SchemeSpace:
    from cp_compress.search import SchemeSpace

    return SchemeSpace(options.scheme, **read_parameters(options.parameter))


def _constraint(level: str, chosen: Mapping[str, Any], options: argparse.Namespace, data: Any) -> Preserved:
    from cp_compress.search import Preserved

    own = [requirement for requirement in read_requirements(options) if find_level(requirement.metric) == level]
    size, deployed = options.batch_size, options.deployed_batch_size
    part = read_model_output(options)
    return Preserved(level, data, own, chosen, batch_size=size, deployed_batch_size=deployed, output=part)


def _first_batch(data: Any, batch_size: int) -> Any:
    from cp_compress.inputs.reading import LabeledData
    from cp_compress.inputs.trees import arguments_of

    examples = LabeledData(data)
    return arguments_of(examples.read(range(min(batch_size, len(examples))))[0])
