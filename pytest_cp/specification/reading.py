"""From a TOML file to a checked specification; every error names the file and the line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cp_compress.base.arguments import did_you_mean
from cp_compress.base.error_reasons import shortened
from pytest_cp.specification.errors import SpecificationError
from pytest_cp.specification.explaining import explanations
from pytest_cp.specification.frozen import observation_troubles
from pytest_cp.specification.kinds import OWN_MODELS
from pytest_cp.specification.served import served_name, served_troubles
from pytest_cp.waivers.toml_files import TomlError, read_toml

if TYPE_CHECKING:
    from cp_compress.fidelity.judging.metric import Metric
    from pytest_cp.waivers.waivers import Waivers

Table = Mapping[str, Any]
FACTORY = re.compile(r"[\w.]+:[\w.]+")
"""A text that names a function without arguments."""

_MODELS = ("scheme", *OWN_MODELS)


@dataclass(frozen=True)
class Requirements:
    """One table that requires something: its level, its arguments as written, and its name among those of its level."""

    level: str
    name: str
    arguments: Table


@dataclass(frozen=True)
class Specification:
    """A checked specification: what is compared with what, on which data, and what is required."""

    path: Path
    reference: Table
    data: Table
    candidates: tuple[Table, ...]
    requirements: tuple[Requirements, ...]
    noise: tuple[str, ...]
    execution: Table
    baseline: Table
    text: str = ""


def read_tables(path: Path) -> tuple[str, dict[str, Any]]:
    """Return a specification's text and tables as they are written; raises SpecificationError for invalid TOML."""
    try:
        return read_toml(path)
    except TomlError as error:
        raise SpecificationError(str(error)) from error


def read_specification(path: Path) -> Specification:
    """Return the specification of a TOML file, checked by its schema; raises SpecificationError with file and line."""
    from pytest_cp.specification.levels import levels

    text, tables = read_tables(path)
    _check(path, text, tables)
    requirements = [
        Requirements(level, level if len(entries) == 1 else f"{level}-{position + 1}", entry)
        for level in levels()
        if level in tables
        for entries in [_as_list(tables[level])]
        for position, entry in enumerate(entries)
    ]
    return Specification(
        path,
        tables["reference"],
        tables.get("data", {}),
        tuple(_with_name(candidate) for candidate in tables["candidate"]),
        tuple(requirements),
        tuple(tables.get("noise", {}).get("references", ())),
        tables.get("execution", {}),
        tables.get("baseline", {}),
        text,
    )


def _check(path: Path, text: str, tables: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator

    from pytest_cp.specification.schema import current_schema

    errors = list(Draft202012Validator(current_schema()).iter_errors(tables))
    problems = [problem for error in errors if not _follows(error) for problem in explanations(error)]
    problems += [] if errors else _waiver_problems(tables)
    problems = problems or list(_no_numbers(tables, [])) or list(_contradictions(tables, path.parent))
    _refuse(path, text, problems)


def _follows(error: Any) -> bool:
    """Tell whether an error only follows from another: a list has none of a table's keys."""
    return error.validator == "oneOf" and not isinstance(error.instance, dict)


def _refuse(path: Path, text: str, problems: Iterable[tuple[list[str | int], str]]) -> None:
    """Raise SpecificationError with a line for each problem, in the order of the file, where there is any."""
    from pytest_cp.specification.lines import find_line

    lines = sorted((find_line(text, place), told) for place, told in problems)
    if lines:
        raise SpecificationError("\n".join(f"{path}:{line}: {told}" for line, told in lines))


def read_specified_waivers(path: Path) -> Waivers:
    """Return the waivers of a specification; raises SpecificationError with file and line for what is wrong in one."""
    from pytest_cp.waivers.waivers import parse_waivers

    text, tables = read_tables(path)
    waivers = _as_list(tables.get("waiver", []))
    _refuse(path, text, _waiver_problems({"waiver": waivers}))
    return parse_waivers(waivers, str(path))


def _waiver_problems(tables: Table) -> list[tuple[list[str | int], str]]:
    """Return what is wrong with each waiver, of which the schema says only that it is a table."""
    from pytest_cp.waivers.waivers import waiver_problems

    found: list[tuple[list[str | int], str]] = []
    for position, waiver in enumerate(tables.get("waiver", ())):
        for key, told in waiver_problems(waiver):
            found.append((["waiver", position, *([] if key is None else [key])], f"waiver {position + 1}: {told}"))
    return found


def _no_numbers(value: Any, place: list[str | int]) -> Iterator[tuple[list[str | int], str]]:
    """Yield each NaN; the limits of a schema do not exclude it, because it compares with no number."""
    if isinstance(value, float) and value != value:
        yield place, f"{'.'.join(map(str, place))} = nan: must be a number"
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _no_numbers(part, [*place, key])


def _contradictions(tables: dict[str, Any], folder: Path) -> Iterator[tuple[list[str | int], str]]:
    """Yield errors that a schema cannot express: the path, and what is wrong there."""
    from pytest_cp.baselines.tolerances import Tolerances
    from pytest_cp.specification.levels import bounds_of, levels

    tables = {"data": {}, **tables}
    yield from observation_troubles(tables)
    for where, table, options in _tables_of_files(tables):
        stray = [name for name in options if name in table]
        if stray and "file" not in table:
            yield [*where, stray[0]], f"{stray[0]} applies to a file, but {where[0]} has no file"
    try:
        Tolerances.parse(tables.get("baseline", {}).get("tolerance", 0))
    except ValueError as error:
        yield ["baseline", "tolerance"], f"baseline.tolerance = {shortened(error)}"
    given = [level for level in levels() if level in tables]
    if not given:
        yield [], f"no requirements; add at least one of the tables {', '.join(levels())}"
    for level in given:
        many = isinstance(tables[level], list)
        for position, entry in enumerate(_as_list(tables[level])):
            place: list[str | int] = [level, position] if many else [level]
            asked = [name for name in entry if name in bounds_of(level)]
            if not asked:
                yield place, f"{level} has no requirement; add at least one of {', '.join(bounds_of(level))}"
            noisy = any(isinstance(entry[name], str) for name in asked)
            if noisy and "noise" not in tables and "observation" not in tables["reference"]:
                told = 'a bound is "noise", but there is no table [noise]'
                yield place, f'{told}; write one with references = ["quantize(bfloat16)"]'
            for name in asked:
                if isinstance(entry[name], str) and _excuses_everything(bounds_of(level)[name], entry[name]):
                    told = f"{level}.{name} = {entry[name]!r}: more than half of all values would meet it"
                    yield [*place, name], told
            if "slices" in entry and "metadata" not in tables["data"]:
                columns = [name for name, one in entry["slices"].items() if isinstance(one, dict)]
                if columns:
                    told = f"slice {columns[0]} needs data.metadata, a CSV file with one row per example"
                    yield [*place, "slices"], told
            clusters = entry.get("clusters")
            if isinstance(clusters, str) and not FACTORY.fullmatch(clusters) and "metadata" not in tables["data"]:
                told = f"clusters = {clusters!r} needs data.metadata, a CSV file with one row per example"
                yield [*place, "clusters"], told
            yield from _wrong_method(level, entry, place)
            yield from _chosen_candidates(level, entry, place, tables["candidate"])
    yield from _candidate_troubles(tables["candidate"])
    yield from _factory_troubles(tables)
    named = [_with_name(candidate) for candidate in tables["candidate"]]
    yield from served_troubles(tables, named, [(level, one) for level in given for one in _as_list(tables[level])])
    device = tables.get("execution", {}).get("device")
    if device is not None and str(device).partition(":")[0].lower() in ("gpu", "nvidia"):
        told = f"execution.device = {shortened(repr(device), 80)}: torch calls it cuda, and the second one cuda:1"
        yield ["execution", "device"], told
    if given:
        yield from _never_compared(tables["candidate"], [one for level in given for one in _as_list(tables[level])])
    yield from _noise_troubles(tables.get("noise", {}).get("references", ()), folder)


def _wrong_method(level: str, entry: Table, place: list[str | int]) -> Iterator[tuple[list[str | int], str]]:
    from cp_compress.base.errors import InvalidArgumentError
    from cp_compress.fidelity.attributions.methods.declared import check_method_text
    from cp_compress.fidelity.comparisons import COMPARISONS

    method = entry.get("method")
    own = level not in COMPARISONS  # a user's own comparison may call something else by this name
    if isinstance(method, str) and not FACTORY.fullmatch(method) and not own:
        try:
            check_method_text(method)
        except InvalidArgumentError as error:
            yield [*place, "method"], shortened(error)


def _excuses_everything(metric: Metric, text: str) -> bool:
    """Tell whether the slack added to a noise is more than half of the range of the metric: no small excess of it."""
    from pytest_cp.specification.levels import slack_of

    slack = slack_of(text)
    return (slack if metric.direction == "max" else -slack) > (metric.high - metric.low) / 2


def _tables_of_files(tables: Table) -> Iterator[tuple[list[str | int], Table, Iterable[str]]]:
    from pytest_cp.specification.schema import DATA_OPTIONS, FILE_OPTIONS

    yield ["reference"], tables["reference"], FILE_OPTIONS
    yield ["data"], tables["data"], DATA_OPTIONS
    for position, candidate in enumerate(tables["candidate"]):
        yield ["candidate", position], candidate, FILE_OPTIONS


def _chosen_candidates(
    level: str, entry: Table, place: list[str | int], candidates: Sequence[Table]
) -> Iterator[tuple[list[str | int], str]]:
    from pytest_cp.specification.levels import levels, reads_data_of_candidate

    known = {_with_name(candidate)["name"]: candidate for candidate in candidates}
    for name in entry.get("candidates", known):
        if name not in known:
            advice = did_you_mean(name, known) or f"known candidates are {', '.join(known)}"
            yield [*place, "candidates"], f"unknown candidate {name!r}; {advice}"
        elif levels()[level].kind == "data" and "codec" not in known[name]:
            told = f"{level} compares data before and after a codec, but candidate {name} has no codec"
            yield place, f"{told}; list the candidates to compare under candidates"
        elif not reads_data_of_candidate(level) and not any(key in known[name] for key in (*_MODELS, "search")):
            told = f"{level} compares models, but candidate {name} compresses only the data"
            yield place, f"{told}; list the candidates to compare under candidates"


def _never_compared(candidates: Sequence[Table], entries: Sequence[Table]) -> Iterator[tuple[list[str | int], str]]:
    """Yield each candidate that no table covers: the gate would pass without checking it."""
    names = [_with_name(candidate)["name"] for candidate in candidates]
    if any(name not in names for entry in entries for name in entry.get("candidates", ())):
        return  # the name that is misspelt there is told, and may be this one
    for position, name in enumerate(names):
        if not any(name in entry.get("candidates", [name]) for entry in entries):
            told = f"candidate {name} is never compared: every table leaves it out of its candidates"
            yield ["candidate", position], told


def _noise_troubles(references: Sequence[str], folder: Path) -> Iterator[tuple[list[str | int], str]]:
    """Yield the noise references that cannot be created, whether a bound uses them or not."""
    from cp_compress.base.errors import InvalidArgumentError
    from cp_compress.model.settings import check_scheme_text

    for text in references:
        if FACTORY.fullmatch(text) or _is_file(folder / text):
            continue
        try:
            check_scheme_text(text)
        except InvalidArgumentError as error:
            rule = "not a file, not package.module:factory, and not a scheme"
            yield ["noise", "references"], f"noise.references: {shortened(repr(text), 80)}: {rule}: {shortened(error)}"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _candidate_troubles(candidates: Sequence[Table]) -> Iterator[tuple[list[str | int], str]]:
    from cp_compress.base.errors import InvalidArgumentError
    from cp_compress.data.settings import check_codec_text
    from cp_compress.model.settings import check_scheme_text

    names: dict[str, int] = {}
    for position, candidate in enumerate(candidates):
        place: list[str | int] = ["candidate", position]
        sources = [key for key in _MODELS if key in candidate]
        if len(sources) > 1:
            yield place, f"a candidate takes only one of {', '.join(_MODELS)}, not {' and '.join(sources)}"
        elif not sources and not {"codec", "search"} & candidate.keys():
            yield place, "a candidate needs a scheme, model, file, command, served, observation, codec or search"
        for key, parse in (("scheme", check_scheme_text), ("codec", check_codec_text)):
            try:
                if key in candidate:
                    parse(candidate[key])
            except InvalidArgumentError as error:
                other = "codec" if key == "scheme" else "scheme"
                swapped = f"; it is a {other}: write {other} = …" if _is_a(other, candidate[key]) else ""
                yield [*place, key], f"{shortened(error)}{swapped}"
        name = _with_name(candidate)["name"]
        if name in names:
            yield place, f"two candidates are named {name}; give each its own name"
        names[name] = position


def _is_a(kind: str, text: str) -> bool:
    from cp_compress.base.errors import InvalidArgumentError
    from cp_compress.data.settings import check_codec_text
    from cp_compress.model.settings import check_scheme_text

    try:
        (check_codec_text if kind == "codec" else check_scheme_text)(text)
    except InvalidArgumentError:
        return False
    return True


def _factory_troubles(tables: Table) -> Iterator[tuple[list[str | int], str]]:
    """Yield the factories that are written in another way; nothing of them is imported."""
    from cp_compress.base.errors import InvalidArgumentError
    from cp_compress.base.factories import names_file, read_factory

    places: list[tuple[list[str | int], Table]] = [(["reference"], tables["reference"]), (["data"], tables["data"])]
    places += [(["candidate", position], one) for position, one in enumerate(tables["candidate"])]
    for place, table in places:
        for key in ("model", "factory", "examples"):
            try:
                if key in table:
                    read_factory(table[key], f"{place[0]}.{key}")
            except InvalidArgumentError as error:
                file = names_file(table[key]) and key != "factory"
                told = f'; write file = "{table[key]}"' if file else ""
                yield [*place, key], f"{shortened(error)}{told}"


def _with_name(candidate: Table) -> Table:
    parts = [str(candidate[key]) for key in ("scheme", "model", "file", "observation", "codec") if key in candidate]
    parts += served_name(candidate["served"]) if "served" in candidate else []
    if "search" in candidate and not any(key in candidate for key in _MODELS):
        parts.insert(0, str(candidate["search"]))
    return {"name": " + ".join(parts) or Path(str(candidate.get("command", ["data"])[0])).name, **candidate}


def _as_list(tables: Any) -> list[Table]:
    return tables if isinstance(tables, list) else [tables]
