"""Command-line options, ini keys and markers: what a session runs, and where."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cp_compress.base.arguments import did_you_mean
from cp_compress.base.documents import read_document
from cp_compress.base.error_reasons import reason_of
from cp_compress.base.factories import make_from
from cp_compress.base.files import read_regular
from pytest_cp.checks.execution import Execution

_SHORTEST_OPTION = 4
_LARGEST_RESULTS = 1 << 30
BASELINE_MODES = ("check", "new", "update")
ORIGIN_MODES = ("auto", "off")
REPORTS = ("--cp-report-json", "--cp-report-html", "--cp-report-markdown")
_CI_VARIABLES = ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "TEAMCITY_VERSION", "TF_BUILD")

# name, type, default, help
INI: tuple[tuple[str, Any, Any, str], ...] = (
    ("cp_reference", "string", "", 'factory of the reference model, "package.module:factory"'),
    ("cp_dataset", "string", "", 'factory of the labelled examples, "package.module:factory"'),
    ("cp_schemes", "linelist", [], "schemes for compressed_model, one per line, such as prune(density=0.1)"),
    ("cp_codecs", "linelist", [], "codecs for compressed_dataset, one per line, such as jpeg(quality=75)"),
    ("cp_device", "string", "", "device to compress and observe on (default: CUDA if available, else CPU)"),
    ("cp_seed", "string", "0", "seed of every random choice (default 0)"),
    ("cp_batch_size", "string", "256", "largest number of examples in one forward call (default 256)"),
    (
        "cp_deployed_batch_size",
        "string",
        "",
        "batch size of the deployed model, to which forward passes are held where answers depend on the batch",
    ),
    (
        "cp_output",
        "string",
        "",
        "part of what models give that is compared: a name such as logits, the place in a tuple, or a factory of a "
        "function of the output (default: the logits)",
    ),
    ("cp_origin", "string", "auto", "auto: a failing check names the layers that cause the damage; off: it does not"),
    (
        "cp_time_budget",
        "string",
        "",
        "seconds that a decided check may take for its layers and the evidence of reports (default: no limit)",
    ),
    ("cp_cache_dir", "string", "", "cache folder for compressed models (default: in pytest's cache folder)"),
    (
        "cp_baseline_dir",
        "string",
        "cp_baselines",
        "folder of baselines, beside each test module (default cp_baselines)",
    ),
    ("cp_search_results", "paths", [], "JSON results of searches; gates on the examples that they used are refused"),
    ("cp_allow_searched_data", "bool", False, "allow gates on examples that a search has used"),
    (
        "cp_baseline_tolerance",
        "string",
        "0",
        'how much worse than its baseline a metric may be: 0.001, 2%, or lines such as "psnr 2%" (default 0)',
    ),
    (
        "cp_baseline_environment",
        "string",
        "note",
        "what to do when device or versions differ from the baseline: note, fail or ignore (default note)",
    ),
    (
        "cp_fail_on_deselected",
        "bool",
        False,
        "fail a session in which gates were collected and left out, by -k, -m, --deselect, --lf or a plugin",
    ),
    (
        "cp_min_coverage",
        "string",
        "",
        "least share of its reference's weights that each candidate must have changed, such as 0.9 (default: none)",
    ),
    ("cp_junit_properties", "bool", False, "write each check's value, bound and margin to JUnit XML as properties"),
    ("cp_ratchet", "bool", False, "fail a check that is better than its baseline until the baseline is updated"),
    ("cp_waivers", "string", "", "TOML file of waivers: known deviations with size, owner, reason and expiry date"),
)
MARKER_TEXTS = (
    "compress_model(scheme, ...): run the test once per scheme, with the fixture `compressed_model`",
    "compress_dataset(codec, ...): run the test once per codec, with the fixture `compressed_dataset`",
    "cp_execution(device=None, seed=None, batch_size=None, deployed_batch_size=None, output=None, origin=None, "
    "time_budget=None): where and how the test's checks run",
    "cp_baseline(tolerance=None, ratchet=None): how the test's checks are compared with their baselines",
)
_EXECUTION_ARGUMENTS = ("device", "seed", "batch_size", "deployed_batch_size", "output", "origin", "time_budget")
MARKERS = tuple(text.partition("(")[0] for text in MARKER_TEXTS)


def add_options(parser: pytest.Parser) -> None:
    """Declare the plugin's options and ini keys."""
    group = parser.getgroup("cp", "preservation under compression (pytest_cp)")
    scheme_help = "also compress the reference model with SCHEME, in addition to cp_schemes; repeatable"
    group.addoption("--cp-scheme", action="append", default=[], metavar="SCHEME", help=scheme_help)
    codec_help = "also compress the data set with CODEC, in addition to cp_codecs; repeatable"
    group.addoption("--cp-codec", action="append", default=[], metavar="CODEC", help=codec_help)
    group.addoption("--cp-device", metavar="DEVICE", help="device to compress and observe on: cpu, cuda, cuda:1, …")
    group.addoption("--cp-seed", type=int, metavar="N", help="seed of every random choice")
    group.addoption("--cp-batch-size", type=int, metavar="N", help="largest number of examples in one forward call")
    origin_help = "auto: a failing check names the layers that cause the damage (default); off: it does not"
    group.addoption("--cp-origin", choices=ORIGIN_MODES, help=origin_help)
    spec_help = "TOML file of a gate without test code; run it with: pytest --pyargs pytest_cp.gate --cp-spec PATH"
    group.addoption("--cp-spec", action="append", metavar="PATH", help=spec_help)
    group.addoption("--cp-cache-dir", metavar="DIR", help="cache folder for compressed models, kept between runs")
    json_help = "write a JSON report of all checks and their evidence to PATH"
    group.addoption("--cp-report-json", metavar="PATH", help=json_help)
    html_help = "write a self-contained HTML report for an approver to PATH: verdict, evidence, images"
    group.addoption("--cp-report-html", metavar="PATH", help=html_help)
    markdown_help = "write a Markdown report to PATH, for example for a pull request"
    group.addoption("--cp-report-markdown", metavar="PATH", help=markdown_help)
    history_help = "earlier JSON reports whose values the HTML report shows as trends, such as 'reports/*.json'"
    group.addoption("--cp-report-history", metavar="GLOB", help=history_help)
    baseline_help = "check: fail checks that are worse than their baseline or have none; new: add missing baselines; "
    baseline_help += "update: replace the baselines of the checks that ran"
    group.addoption("--cp-baseline", choices=BASELINE_MODES, help=baseline_help)
    for name, kind, default, text in INI:
        parser.addini(name, text, type=kind, default=default)


def refuse_misspelt_options(parser: pytest.Parser, args: list[str]) -> None:
    """Raise pytest.UsageError for an option that pytest does not know and that one of this plugin is near to.

    In a run of a specification all options are looked at: `cp-compress gate` hands them on to pytest.
    """
    _, unknown = parser.parse_known_and_unknown_args(args)
    known = [name for group in (parser._anonymous, *parser._groups) for one in group.options for name in one.names()]
    long = [name for name in known if name.startswith("--")]
    ours = [name for name in long if name.startswith("--cp-")]
    gate = any(word == "--cp-spec" or word.startswith("--cp-spec=") for word in args)
    for word in unknown:
        name = word.partition("=")[0]
        key = name.removeprefix("--").replace("-", "_")
        if not name.startswith("--") or len(name) < _SHORTEST_OPTION:
            continue
        advice = did_you_mean(name, ours if name.startswith("--cp") else long if gate else ())
        policy = f"{key} is set in the ini file, not on the command line" if key in {entry[0] for entry in INI} else ""
        if policy or advice:
            told = "; ".join(filter(None, (policy, advice)))
            raise pytest.UsageError(f"{word}: there is no such option; {told}")


def in_ci() -> bool:
    """Tell whether a build server runs this process, by the variables that such servers set."""
    return any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in _CI_VARIABLES)


def execution(config: pytest.Config, marker: pytest.Mark | None = None) -> Execution:
    """Return where and how checks run: from the command line, then the marker, then the ini file.

    Raises pytest.UsageError for values that are not allowed.
    """
    marked = _marker_arguments(marker)
    device = _first(config.getoption("--cp-device"), marked.get("device"), config.getini("cp_device") or None)
    if device is not None and not re.fullmatch(r"[a-z]+(:\d+)?", str(device)):
        raise pytest.UsageError(f"cp device {device!r}: must be a torch device such as cpu, cuda or cuda:1")
    if str(device).partition(":")[0] in ("gpu", "nvidia"):
        raise pytest.UsageError(f"cp device {device!r}: torch calls it cuda, and the second one cuda:1")
    seed = _first(config.getoption("--cp-seed"), marked.get("seed"), config.getini("cp_seed"))
    size = _first(config.getoption("--cp-batch-size"), marked.get("batch_size"), config.getini("cp_batch_size"))
    origin = _first(config.getoption("--cp-origin"), marked.get("origin"), config.getini("cp_origin"))
    if origin not in ORIGIN_MODES:
        raise pytest.UsageError(f"cp origin {origin!r}: must be {' or '.join(ORIGIN_MODES)}")
    largest = _whole("cp batch size", size, at_least=1)
    return Execution(
        device=None if device is None else str(device),
        seed=_whole("cp seed", seed, at_least=0),
        batch_size=largest,
        deployed_batch_size=_deployed(config, marked, largest),
        output=_output(_first(marked.get("output"), config.getini("cp_output") or None)),
        origin=origin == "auto",
        evidence_folder=_evidence_folder(config),
        illustrate=bool(config.getoption("--cp-report-html")),
        searched=_searched_examples(config.getini("cp_search_results")),
        allow_searched_data=config.getini("cp_allow_searched_data"),
        min_coverage=_share("cp_min_coverage", config.getini("cp_min_coverage")),
        time_budget=_seconds(_first(marked.get("time_budget"), config.getini("cp_time_budget") or None)),
    )


def _deployed(config: pytest.Config, marked: Mapping[str, Any], largest: int) -> int | None:
    given = _first(marked.get("deployed_batch_size"), config.getini("cp_deployed_batch_size") or None)
    if given is None:
        return None
    size = _whole("cp deployed batch size", given, at_least=1)
    if size > largest:
        rule = f"must be at most the cp batch size, {largest}, the largest of any forward call; raise that"
        raise pytest.UsageError(f"cp deployed batch size {size}: {rule}")
    return size


def _output(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    if ":" in given:
        return make_from(given, "cp_output")
    return int(given) if given.lstrip("-").isdigit() else given


def _evidence_folder(config: pytest.Config) -> Path | None:
    report = config.getoption("--cp-report-json") or config.getoption("--cp-report-html")
    return config.invocation_params.dir / Path(report).parent / "divergences" if report else None


def _searched_examples(paths: list[Path]) -> frozenset[str]:
    digests: set[str] = set()
    for path in paths:
        try:
            digests |= read_search_result(path)[1]
        except ValueError as error:
            raise pytest.UsageError(f"cp_search_results: {error}") from error
    return frozenset(digests)


def read_search_result(path: Path) -> tuple[str | None, frozenset[str]]:
    """Return the scheme that a search found, by its JSON result, and the digests of the examples that it has seen.

    The scheme is None for a search of something else. Raises ValueError, with the path, for any other file.
    """
    try:
        content = read_document(read_regular(path, _LARGEST_RESULTS))
        digests = frozenset(str(digest) for digest in content["search_digests"])
        scheme = content.get("scheme")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a JSON result of a search: {reason_of(error)}") from error
    return scheme if isinstance(scheme, str) else None, digests


def specification_named(config: pytest.Config) -> str | None:
    """Return what --cp-spec names, or None; raises pytest.UsageError for two: the second would hide the first."""
    named: list[str] = list(dict.fromkeys(config.getoption("--cp-spec") or ()))
    if len(named) > 1:
        rule = "a session runs one specification; run them separately"
        raise pytest.UsageError(f"--cp-spec={', '.join(named)}: {rule}")
    return named[0] if named else None


def reproducing_arguments(item: pytest.Item) -> tuple[str, ...]:
    """Return the arguments of pytest that run one test again, from the folder in which it was called."""
    config = item.config
    path, separator, name = item.nodeid.partition("::")
    whole, called_in = config.rootpath / path, config.invocation_params.dir
    try:
        path = Path(os.path.relpath(whole, called_in)).as_posix()
    except ValueError:  # on another drive
        path = whole.as_posix()
    chosen = [("-c", config.getoption("inifilename", None)), ("--rootdir", config.getoption("rootdir", None))]
    places = [part for option, value in chosen if value for part in (option, str(value))]
    return (f"{path}{separator}{name}", *places, *_reproducing_options(config))


def _reproducing_options(config: pytest.Config) -> tuple[str, ...]:
    """Return the command-line arguments that change what is compressed and how checks run."""
    names = ("--cp-scheme", "--cp-codec")
    added = [f"{name}={value}" for name in names for value in config.getoption(name)]
    specification = specification_named(config)
    if specification is not None:
        added.append(f"--cp-spec={specification}")
    given = [(name, config.getoption(name)) for name in ("--cp-device", "--cp-seed", "--cp-batch-size")]
    return (*added, *(f"{name}={value}" for name, value in given if value is not None))


def _marker_arguments(marker: pytest.Mark | None) -> Mapping[str, Any]:
    if marker is None:
        return {}
    unknown = set(marker.kwargs) - {*_EXECUTION_ARGUMENTS}
    if marker.args or unknown:
        given = ", ".join([*map(repr, marker.args), *sorted(unknown)])
        allowed = f"{', '.join(_EXECUTION_ARGUMENTS[:-1])} and {_EXECUTION_ARGUMENTS[-1]}"
        raise pytest.UsageError(f"cp_execution({given}): takes only the keyword arguments {allowed}")
    return marker.kwargs


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _whole(name: str, value: Any, *, at_least: int) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = at_least - 1
    if number < at_least:
        raise pytest.UsageError(f"{name} {value!r}: must be a whole number of {at_least} or more")
    return number


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if isinstance(value, bool) or not 0 < seconds < math.inf:
        raise pytest.UsageError(f"cp time budget {value!r}: must be a number of seconds above 0, such as 60")
    return seconds


def _share(name: str, value: str) -> float | None:
    if not value:
        return None
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise pytest.UsageError(f"{name} = {value}: must be a share of the weights above 0 and at most 1, such as 0.9")
    return share


def schemes(config: pytest.Config) -> list[str]:
    """Return the schemes of the ini file, then those that the command line adds; it cannot take any away."""
    return _union(config.getini("cp_schemes"), config.getoption("--cp-scheme"))


def codecs(config: pytest.Config) -> list[str]:
    """Return the codecs of the ini file, then those that the command line adds; it cannot take any away."""
    return _union(config.getini("cp_codecs"), config.getoption("--cp-codec"))


def _union(*lists: list[str]) -> list[str]:
    return list(dict.fromkeys(entry.strip() for entries in lists for entry in entries if entry.strip()))


def specification_path(config: pytest.Config) -> Path | None:
    """Return the file that --cp-spec names, or None; raises pytest.UsageError for two."""
    name = specification_named(config)
    return None if name is None else Path(os.path.normpath(config.invocation_params.dir / name))
