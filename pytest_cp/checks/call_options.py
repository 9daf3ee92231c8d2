"""The options of an assertion's call, as a record holds them: what tells two checks of one kind apart."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from cp_compress.base.identity import identify
from cp_compress.fidelity.judging.measurement import METRICS
from pytest_cp.checks.exploring import exploring
from pytest_cp.checks.records import called_with

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

SUBJECTS = {"compressed", "reference", "dataset", "compressed_dataset", "decoded", "original", "example_input"}
_ELSEWHERE = {"confidence", "save_to"}  # told by the requirement, and without effect on what is found
_METRIC_NAMES = frozenset(name for metrics in METRICS.values() for name in metrics)
_DIGITS = 16


def is_requirement(argument: str) -> bool:
    """Tell whether an argument of an assertion is a bound: `min_` or `max_` before a metric."""
    bare = argument.removeprefix("min_").removeprefix("max_")
    return argument != bare and (bare in _METRIC_NAMES or argument in _METRIC_NAMES)


def keeping_options(assertion: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let the checks of an assertion carry the options that its caller chose."""
    parameters = inspect.signature(assertion).parameters
    defaults = {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in SUBJECTS | _ELSEWHERE and not is_requirement(name)
    }

    @functools.wraps(assertion)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        __tracebackhide__ = True
        chosen = {
            name: value for name, value in kwargs.items() if name in defaults and not is_default(value, defaults[name])
        }
        with called_with({name: _describe(value) for name, value in sorted(chosen.items())}):
            return assertion(*args, **kwargs)

    return call


def is_default(value: Any, default: Any) -> bool:
    """Tell whether a plain value is the default, or an object the same one."""
    return value is default or (
        type(value) is type(default) and isinstance(value, (str, int, float)) and value == default
    )


def _describe(value: Any) -> Any:
    """Return plain values as they are, functions by name, and anything else by a digest of its content."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Path):
        return value.as_posix()
    if (
        isinstance(value, (list, tuple))
        and all(isinstance(part, (str, int, float)) for part in value)
        and len(value) < 9
    ):
        return list(value)
    if inspect.isroutine(value) or inspect.isclass(value):
        return str(value.__qualname__)
    # of what Hypothesis draws, each run has another digest, which costs time and tells nobody anything
    return {"type": type(value).__name__, "digest": None if exploring() else identify(value)[:_DIGITS]}
