"""Gates that were collected and are left out of a session: by -k, -m, --deselect, --lf, --ignore, a shard or a hook."""

from __future__ import annotations

import fnmatch
import inspect
import os
import re
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cp_compress.base.arguments import did_you_mean
from pytest_cp.session.parametrization import is_gate
from pytest_cp.session.state import session_state

WORDS_OF_GATES = ("pytest_cp", "compressed_model", "compressed_dataset")
"""A module with one of these words is taken for one with gates where its tests are not known."""
_MOST_FILES = 1000  # below one ignored folder


def may_compare(item: pytest.Item) -> bool:
    """Tell whether a test is a gate, or names an assertion of the plugin itself, with subjects of its own."""
    return is_gate(item) or _names_assertion(getattr(item, "obj", None))


def _names_assertion(test: Any) -> bool:
    inner = getattr(getattr(test, "hypothesis", None), "inner_test", test)
    function = inspect.unwrap(getattr(inner, "__func__", inner)) if callable(inner) else None
    if not inspect.isfunction(function):
        return False
    names = function.__code__.co_names
    values = [function.__globals__.get(name) for name in names]
    if any(inspect.isfunction(value) and _is_assertion(value) for value in values):
        return True
    modules = any(isinstance(value, types.ModuleType) and value.__name__ == "pytest_cp" for value in values)
    return modules and any(name.startswith("assert_") for name in names)


def _is_assertion(function: types.FunctionType) -> bool:
    return function.__module__.startswith("pytest_cp.assertions.") and function.__name__.startswith("assert_")


def note_found(items: Iterable[pytest.Item]) -> None:
    """Remember tests that may be gates, before anything leaves them out."""
    for item in items:
        if may_compare(item):
            session_state(item.config).found_gates.append(item)


def note_last_failed(collector: pytest.Collector, report: pytest.CollectReport) -> None:
    """Remember the gates of a file that --lf reads in part or not at all; others of its tests are seen elsewhere."""
    config = collector.config
    if not getattr(config.option, "lf", False) or not isinstance(collector, pytest.File) or not report.passed:
        return
    if any("::" in argument for argument in config.args):
        return  # which tests of the file were asked for is not known here
    note_found(node for node in report.result if isinstance(node, pytest.Item))
    if not report.result and _has_words(collector.path):
        reason = "deselected by --lf: no test of this file failed last time"
        session_state(config).deselected[collector.nodeid] = reason


def note_ignored(config: pytest.Config, path: Path) -> None:
    """Remember the modules with gates at a path that the command line ignores."""
    named = [Path(os.path.normpath(config.invocation_params.dir / one)) for one in config.getoption("ignore") or ()]
    globs = [str(config.invocation_params.dir / one) for one in config.getoption("ignore_glob") or ()]
    given = [str(argument) for argument in config.invocation_params.args]
    if not any(argument.startswith("--ignore") for argument in given):
        return  # what the project's own file ignores is the project's decision
    if path in named or any(fnmatch.fnmatch(str(path), glob) for glob in globs):
        for module in _modules(config, path):
            name = Path(os.path.relpath(module, config.rootpath)).as_posix()
            session_state(config).deselected[name] = "left out by --ignore"


def _modules(config: pytest.Config, path: Path) -> Iterator[Path]:
    patterns = config.getini("python_files")
    files = [path] if path.is_file() else path.rglob("*.py")
    for _, file in zip(range(_MOST_FILES), files, strict=False):
        if any(fnmatch.fnmatch(file.name, pattern) for pattern in patterns) and _has_words(file):
            yield file


def _has_words(path: Path) -> bool:
    return path.is_file() and any(word in path.read_text(encoding="utf-8", errors="replace") for word in WORDS_OF_GATES)


def meant_by_keyword(config: pytest.Config, tests: Iterable[str]) -> str:
    """Return which word of the names of tests is meant by a word of -k that is in none of them, or an empty text."""
    names = [test.lower() for test in tests]
    words = {word for name in names for word in re.findall(r"\w+", name.rpartition("::")[2]) if not word.isdigit()}
    words |= {word.removeprefix("test_") for word in words}
    for word in re.findall(r"\w+", config.option.keyword.lower()):
        if word not in ("and", "or", "not") and not any(word in name for name in names):
            return did_you_mean(word, sorted(words))
    return ""


def left_out(session: pytest.Session, found: Iterable[pytest.Item]) -> dict[str, str]:
    """Return the found gates that are not among the tests of a session, and what left them out."""
    kept = {id(item) for item in session.items} | {item.nodeid for item in session.items}
    missing = [item.nodeid for item in found if id(item) not in kept and item.nodeid not in kept]
    near = "" if session.items else meant_by_keyword(session.config, missing)
    return {test: f"{_reason(session.config, test)}{near and f' ({near})'}" for test in missing}


def _reason(config: pytest.Config, test: str) -> str:
    if any(test.startswith(prefix) for prefix in config.getoption("deselect") or ()):
        return "deselected by --deselect"
    given = {
        f"-k {config.option.keyword!r}": config.option.keyword,
        f"-m {config.option.markexpr!r}": config.option.markexpr,
        "--lf": getattr(config.option, "lf", False),
        "--stepwise": getattr(config.option, "stepwise", False),
    }
    by = [option for option, value in given.items() if value]
    return f"deselected by {' or '.join(by)}" if by else "left out by a plugin or by conftest.py"
