"""What is checked of a configuration before anything is collected: options, ini keys and the files they name."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from cp_compress.base.arguments import did_you_mean
from cp_compress.base.error_reasons import reason_of
from cp_compress.base.extensions import added
from pytest_cp.baselines.entries import ENVIRONMENT_POLICIES
from pytest_cp.baselines.tolerances import baseline_tolerances
from pytest_cp.session.options import INI, MARKER_TEXTS, REPORTS, execution, in_ci, specification_path
from pytest_cp.session.own_settings import read_settings
from pytest_cp.specification import SpecificationError, read_specified_waivers
from pytest_cp.waivers.waivers import Waiver, WaiverError, Waivers, read_waivers


def configure(config: pytest.Config) -> None:
    """Declare markers and refuse invalid options and ini keys; raises pytest.UsageError."""
    for marker in MARKER_TEXTS:
        config.addinivalue_line("markers", marker)
    _refuse_unknown_keys(config)
    _refuse_other_values(config)
    execution(config)
    _check_report_paths(config)
    baseline_tolerances(config)
    _check_environment_policy(config)
    _check_baseline_folder(config)
    waivers(config)
    _refuse_unsafe_baseline(config)
    _check_comparisons()


def history_notes(config: pytest.Config) -> list[str]:
    """Read the earlier reports that are asked for; raises pytest.UsageError for what is none."""
    if not config.getoption("--cp-report-history"):
        return []
    from pytest_cp.report.history import read_history

    return read_history(config)


def _check_report_paths(config: pytest.Config) -> None:
    named: dict[Path, str] = {}
    for option in REPORTS:
        report = config.getoption(option)
        if not report:
            continue
        path = config.invocation_params.dir / report
        if path.is_dir():
            raise pytest.UsageError(f"{option}={report}: is a folder; give the path of a file")
        other = named.setdefault(path.resolve(), option)
        if other != option:
            raise pytest.UsageError(f"{other} and {option} both name {report}: give each its own file")
        if not hasattr(config, "workerinput"):  # workers of pytest-xdist write no reports
            _check_report_folder(f"{option}={report}", path.parent)


def _check_report_folder(given: str, folder: Path) -> None:
    """Create a report's folder and a temporary file in it: a long run must not end without its report."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise pytest.UsageError(f"{given}: cannot be written: {reason_of(error)}") from error


def _refuse_unknown_keys(config: pytest.Config) -> None:
    known = [name for name, *_ in INI]
    for override in config.getoption("override_ini", None) or ():
        if override.startswith("cp_"):
            rule = "cp_ keys are policy; set them in the ini file, not on the command line"
            raise pytest.UsageError(f"-o {override}: {rule}")
    for key in read_settings(config.inipath):
        if key.startswith("cp_") and key not in known:
            hint = did_you_mean(key, known) or f"known keys are {', '.join(known)}"
            raise pytest.UsageError(f"{config.inipath}: unknown ini key {key}; {hint}")


def _refuse_other_values(config: pytest.Config) -> None:
    """Refuse values that are neither true nor false, of which pytest says only that they are not."""
    for name, kind, *_ in INI:
        if kind != "bool":
            continue
        try:
            config.getini(name)
        except (ValueError, TypeError, AttributeError, pytest.UsageError):
            value = read_settings(config.inipath).get(name)
            near = did_you_mean(value, ("true", "false", "yes", "no", "on", "off"))
            told = f"{config.inipath}: {name} = {value}: must be true or false{near and f'; {near}'}"
            raise pytest.UsageError(told) from None


def _refuse_unsafe_baseline(config: pytest.Config) -> None:
    mode = config.getoption("--cp-baseline")
    if mode not in ("new", "update"):
        return
    if in_ci():
        raise pytest.UsageError(f"--cp-baseline={mode}: refused in CI, where a gate must not write its own baseline")
    if config.getoption("reruns", None):
        raise pytest.UsageError(f"--cp-baseline={mode}: refused with --reruns, which would save the luckiest attempt")


def _check_comparisons() -> None:
    """Refuse a comparison of a hook that no specification could have a table of."""
    own = added("comparison")
    if not own:
        return
    from pytest_cp.specification.schema import specification_schema

    try:
        specification_schema()
    except SpecificationError as error:
        raise pytest.UsageError(f"pytest_cp_comparisons: {error}") from error


def _check_environment_policy(config: pytest.Config) -> None:
    policy = config.getini("cp_baseline_environment")
    if policy not in ENVIRONMENT_POLICIES:
        raise pytest.UsageError(f"cp_baseline_environment = {policy}: must be one of {', '.join(ENVIRONMENT_POLICIES)}")


def _check_baseline_folder(config: pytest.Config) -> None:
    folder = Path(config.getini("cp_baseline_dir"))
    if folder.anchor or ".." in folder.parts or folder == Path():
        rule = "must be a relative folder such as cp_baselines, so that each test module has its own beside it"
        raise pytest.UsageError(f"cp_baseline_dir = {folder}: {rule}")


def waivers(config: pytest.Config) -> Waivers:
    """Return the known deviations of the file that the ini key names; none where it names none."""
    found = _specified_waivers(config)
    name = config.getini("cp_waivers")
    if not name:
        return Waivers(found)
    folder = config.inipath.parent if config.inipath is not None else config.rootpath
    try:
        return Waivers((*read_waivers(folder / name).known, *found))
    except WaiverError as error:
        raise pytest.UsageError(f"cp_waivers: {error}") from error


def _specified_waivers(config: pytest.Config) -> tuple[Waiver, ...]:
    """Return the waivers that a specification holds; raises pytest.UsageError for what is wrong there."""
    path = specification_path(config)
    if path is None:
        return ()
    try:
        return read_specified_waivers(path).known
    except SpecificationError as error:
        raise pytest.UsageError(f"--cp-spec: {error}") from error
