"""Write a first specification of a gate, with bounds proposed from measured noise."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cp_compress.base.error_reasons import printable_line
from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.files import write_atomically
from cp_compress.base.showing.tables import number, table
from cp_compress.cli.compare import add_deployed_batch_size, require_taken
from cp_compress.cli.models_and_data import (
    add_device,
    add_model_output,
    add_moved,
    can_be_compressed,
    read_count,
    read_data,
    read_device,
    read_equivalent,
    read_model,
    read_model_output,
)
from cp_compress.cli.output import DONE, add_output_arguments, emit, progress, read_target
from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.judging.metrics import find_metric

if TYPE_CHECKING:
    from cp_compress.fidelity.proposals import Proposal

_EXAMPLE = """\
example:
  cp-compress init cp_compress.examples:digits_cnn --data cp_compress.examples:digits
  cp-compress gate gate.toml

"""
_SCHEME = "quantize(int8)"
_NOISE = "quantize(bfloat16)"
_SHARE_OF_COMPRESSION = 0.9
_LEVELS = tuple(name for name, comparison in COMPARISONS.items() if comparison.proposed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cp-compress init`."""
    parser.epilog = _EXAMPLE + (parser.epilog or "")
    parser.add_argument("reference", metavar="REFERENCE", help="the model before compression, a MODEL as below")
    parser.add_argument("--data", required=True, metavar="DATA", help="labelled examples: a factory, .npz or a folder")
    parser.add_argument("--architecture", metavar="FACTORY", help="the factory behind a model that is a file")
    parser.add_argument(
        "--scheme",
        action="append",
        default=[],
        help=f"a candidate; repeatable (default: {_SCHEME}, where there is no --candidate)",
    )
    parser.add_argument(
        "--candidate", action="append", default=[], metavar="MODEL", help="a candidate that is there; repeatable"
    )
    noise_help = (
        f"an equivalent reference: a MODEL of another seed, or a scheme; repeatable (default: {_NOISE}; for an ONNX "
        "file or an exported program, itself with rounded weights)"
    )
    parser.add_argument("--noise", action="append", default=[], metavar="MODEL", help=noise_help)
    parser.add_argument(
        "--level", action="append", choices=_LEVELS, default=[], help="a level to propose bounds for; repeatable"
    )
    add_model_output(parser)
    parser.add_argument("--method", help='attribution method, such as "occlusion(mask_token=103)" (default: saliency)')
    add_moved(parser)
    parser.add_argument("--slack", type=float, default=4.0, help="how many times the noise is allowed (default: 4)")
    parser.add_argument("--output", "-o", default="gate.toml", type=read_target, help="default: gate.toml")
    parser.add_argument("--overwrite", action="store_true", help="replace the file where there is one")
    parser.add_argument("--batch-size", type=read_count, default=256, help="examples in one call (default: 256)")
    add_deployed_batch_size(parser)
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    add_device(parser)
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Observe the reference, its equivalents and the candidates; propose bounds; write the file."""
    from cp_compress.artifacts import served_levels
    from cp_compress.artifacts.rounding import read_rounded
    from cp_compress.fidelity import observe
    from cp_compress.fidelity.footprints import compare_footprints
    from cp_compress.fidelity.judging.telling import require_telling
    from cp_compress.fidelity.observing.refusals import require_difference
    from cp_compress.fidelity.proposals import propose_applicable
    from cp_compress.model import parse_scheme
    from cp_compress.model.scheme import apply_scheme

    if Path(options.output).exists() and not options.overwrite:
        raise InvalidArgumentError(f"--output {options.output}: is there already; --overwrite replaces it")
    asked = options.level or _LEVELS
    chosen = _chosen_options(options)
    require_taken(options, [chosen.get(level, {}) for level in asked], ("method", "input", "at_layer"))
    usual = [] if options.candidate else [_SCHEME]
    schemes = {text: parse_scheme(text) for text in options.scheme or usual}
    device = read_device(options)
    with progress(options, len(schemes) + len(options.candidate) + 3) as bar:
        bar.stage("reading")
        reference = _read_reference(options, device)
        data = read_data(options.data)
        size: dict[str, Any] = {"batch_size": options.batch_size, "deployed_batch_size": options.deployed_batch_size}
        size["output"] = read_model_output(options)
        bar.stage("noise")
        noise = options.noise or ([_NOISE] if can_be_compressed(reference) else [])
        others = [read_equivalent(text, reference, options.architecture, device) for text in noise]
        others = others or [read_rounded(options.reference, str(device))]
        references = [observe(model, data, device=device, **size) for model in (reference, *others)]
        candidates, compressions = {}, {}
        for text, scheme in schemes.items():
            bar.stage(text)
            model = apply_scheme(scheme, reference)
            candidates[text] = observe(model, data, device=device, **size)
            compressions[text] = compare_footprints(model, reference, None, ["compression"]).metrics["compression"]
        for text in options.candidate:
            bar.stage(text)
            given = read_model(text, options.architecture or _factory_of(options), device, "--candidate")
            require_difference(given, reference, data, None)
            candidates[text] = observe(given, data, device=device, **size)
            compressions[text] = compare_footprints(given, reference, None, ["compression"]).metrics["compression"]
        bar.stage("bounds")
        served = served_levels(reference, role="reference")
        # a method or directions may serve where the usual ones do not: the comparison says itself what it lacks
        reasons = {level: why for level in asked if (why := served[level]) is not None and level not in chosen}
        levels = [level for level in asked if level not in reasons]
        proposals, left_out = propose_applicable(
            references, candidates, levels=levels, slack=options.slack, seed=options.seed, options=chosen
        )
        doubts = require_telling(references[0], [one.as_requirement() for one in proposals])
        left_out = {name: printable_line(why) for name, why in (reasons | left_out).items()}
    text = "\n".join(_lines(options, noise, list(schemes), proposals, left_out, compressions)) + "\n"
    names = [*schemes, *options.candidate]
    write_atomically(options.output, text)
    rows = [("level", "metric", "noise", "proposed", *names)]
    rows += [
        (one.level, one.metric, number(one.noise), _required(one), *(_told(one, name) for name in names))
        for one in proposals
    ]
    kept = all(one.holds(value) for one in proposals for value in one.candidates.values())
    end = (
        "all candidates meet the bounds" if kept else "values marked with ! miss their bound: find out why, or relax it"
    )
    content: dict[str, Any] = {"output": options.output, "proposals": [_plain(one) for one in proposals]}
    content |= {"left_out": left_out, "notes": list(doubts)}
    told = "".join(f"left out: {name}: {why}\n" for name, why in left_out.items())
    told += "".join(f"note: {printable_line(doubt)}\n" for doubt in doubts)
    written = f"wrote {options.output}; run: cp-compress gate {options.output}"
    emit(options, f"{table(rows)}\n\n{told}{end}\n{written}", content)
    return DONE


def _read_reference(options: argparse.Namespace, device: Any) -> Any:
    """Return the reference; raises InvalidArgumentError for one that no scheme compresses, where schemes are meant."""
    model = read_model(options.reference, options.architecture, device, "REFERENCE")
    if not can_be_compressed(model) and (options.scheme or not options.candidate):
        rule = (
            "bounds are measured on what schemes make of the reference, and only a torch.nn.Module can be compressed; "
            "give the model that it was made from, as package.module:factory or as weights with --architecture, or "
            "name candidates that are there by --candidate. In the specification, this file can then be a candidate: "
            f'[[candidate]] file = "{options.reference}"'
        )
        raise InvalidArgumentError(f"REFERENCE {options.reference} is an {type(model).__name__}: {rule}")
    return model


def _chosen_options(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return what the command line says of the comparisons at levels C and D, by level."""
    given = {
        "attributions": {"method": options.method, "input": options.input},
        "boundaries": {"input": None if options.at_layer else options.input, "at_layer": options.at_layer},
    }
    named = {level: {name: one for name, one in own.items() if one is not None} for level, own in given.items()}
    return {level: own for level, own in named.items() if own}


def _factory_of(options: argparse.Namespace) -> str | None:
    """Return the architecture behind candidates that are files of weights: the reference's factory."""
    return options.reference if ":" in options.reference else None


def _plain(proposal: Proposal) -> dict[str, Any]:
    return {
        "level": proposal.level,
        "metric": proposal.metric,
        "direction": proposal.direction,
        "bound": proposal.bound,
        "noise": proposal.noise,
        "count": proposal.count,
        "candidates": dict(proposal.candidates),
        "found": proposal.found,
    }


def _required(proposal: Proposal) -> str:
    return f"{'≥' if proposal.direction == 'min' else '≤'} {number(proposal.bound)}"


def _told(proposal: Proposal, candidate: str) -> str:
    value = proposal.candidates[candidate]
    return number(value, proposal.bound) + ("" if proposal.holds(value) else " !")


def _lines(
    options: argparse.Namespace,
    noise: Sequence[str],
    schemes: Sequence[str],
    proposals: Sequence[Proposal],
    left_out: Mapping[str, str],
    compressions: dict[str, float],
) -> Iterator[str]:
    """Yield the lines of a specification that says beside each bound where it comes from."""
    yield "# A gate: what a compressed model must preserve. Run it with: cp-compress gate " + options.output
    yield "# `cp-compress gate --schema` prints the JSON Schema of this file, with all tables and keys."
    yield "schema_version = 1"
    yield ""
    yield "[reference]"
    if Path(options.reference).exists():
        yield f"file = {_quoted(_beside(options.reference, options.output))}"
        if options.architecture:
            yield f"factory = {_quoted(options.architecture)}"
    else:
        yield f"model = {_quoted(options.reference)}"
    yield ""
    yield "[data]"
    if Path(options.data).exists():
        yield f"file = {_quoted(_beside(options.data, options.output))}"
    else:
        yield f"examples = {_quoted(options.data)}"
    yield '# metadata = "rows.csv"  # a row an example, for slices such as: night = {column = "time", equals = "night"}'
    yield ""
    for scheme in schemes:
        yield "[[candidate]]"
        yield f"scheme = {_quoted(scheme)}"
        yield '# codec = "jpeg(quality=90)"  # stores the data that the candidate reads'
        yield ""
    for candidate in vars(options).get("candidate", ()):
        yield "[[candidate]]"
        yield f"name = {_quoted(candidate)}"
        if Path(candidate).exists():
            yield f"file = {_quoted(_beside(candidate, options.output))}"
            if _holds_weights(candidate):
                yield f"factory = {_quoted(options.architecture or _factory_of(options) or '')}"
        else:
            yield f"model = {_quoted(candidate)}"
        yield ""
    yield "[execution]"
    yield f"seed = {options.seed}  # of every random choice; the bounds were measured with it"
    part = read_model_output(options)
    if part is not None:
        yield f"output = {part if isinstance(part, int) else _quoted(part)}  # of what models give, what is compared"
    deployed = vars(options).get("deployed_batch_size")
    if deployed is not None:
        yield f"batch_size = {options.batch_size}"
        yield f"deployed_batch_size = {deployed}"
    yield ""
    told = ", ".join(noise) or "itself with weights in bfloat16"
    yield f"# The noise was measured between the reference and {told}, and {options.slack:g} times as much"
    yield "# is allowed; references trained from other seeds are a better measure (--noise). A bound may also be"
    yield '# "noise" or "noise - 0.01", which is measured in each run. On fresh data of as many examples, candidates'
    yield "# that are no worse than the noise break one bound or more with values of samples in 5 % of cases or fewer."
    if noise:
        yield "[noise]"
        yield f"references = [{', '.join(_quoted(_noise_reference(text, options.output)) for text in noise)}]"
    for level in dict.fromkeys(one.level for one in proposals):
        yield ""
        yield f"[{level}]"
        chosen = [one for one in proposals if one.level == level]
        for proposal in chosen:
            values = ", ".join(
                f"{name} has {number(value, proposal.bound)}" for name, value in proposal.candidates.items()
            )
            yield f"# noise {number(proposal.noise)} (n = {proposal.count}); {values}"
            if proposal.found is not None:
                yield f"# a true value of {number(proposal.found)} breaks the bound on 80 % of such data sets"
            yield f"{find_metric(proposal.metric).argument} = {proposal.bound!r}"
        for name, value in chosen[0].options.items():
            yield f"{name} = {_quoted(value) if isinstance(value, str) else repr(value)}"
        if level == "predictions":
            yield "# confidence = 0.95  # makes them claims about the population; needs more examples"
    if left_out:
        yield ""
    yield from (f"# left out: {name}: {why}" for name, why in left_out.items())
    yield ""
    yield "[footprint]"
    yield f"# {', '.join(f'{name} is {value:.3g} times smaller' for name, value in compressions.items())}"
    yield f"min_compression = {max(1.0, round(_SHARE_OF_COMPRESSION * min(compressions.values()), 2))!r}"


def _holds_weights(path: str) -> bool:
    from cp_compress.artifacts.guards import MAX_BYTES
    from cp_compress.artifacts.recognition import recognise

    return recognise(path, MAX_BYTES) in ("torch", "safetensors", "cp")


def _beside(path: str, output: str) -> str:
    """Return a path as the specification has it: relative to its own folder."""
    import os

    return Path(os.path.relpath(path, Path(output).parent)).as_posix()


def _noise_reference(text: str, output: str) -> str:
    return _beside(text, output) if Path(text).exists() else text


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
