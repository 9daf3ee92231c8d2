"""The options of an assertion's call, as a record holds them: what tells two checks of one kind apart."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from cp_compress.base.arguments import did_you_mean
from cp_compress.base.identity import identify
from cp_compress.fidelity.judging.metric import Metric, bound_arguments, explain_argument
from pytest_cp.checks.execution import current_execution, deploying
from pytest_cp.checks.exploring import exploring
from pytest_cp.checks.records import called_with, noting_refusals

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

SUBJECTS = {"compressed", "reference", "dataset", "compressed_dataset", "decoded", "original", "example_input"}
_ELSEWHERE = {
    "confidence",
    "family",
    "save_to",
    "tokenizer",
}  # told by the requirement, and without effect on what is found
DEPLOYED = "deployed_batch_size"
"""The argument of every assertion that runs two models on data: what their forward passes are held to."""
OUTPUT = "output"
"""The argument of every assertion that runs two models on data: the part of what they give that is compared."""
_OF_A_TEST = ("device", "seed", "batch_size")
"""What a call has not, because all checks of a test run alike."""
_DIGITS = 16


def bounds_of(metrics: Iterable[Metric]) -> list[inspect.Parameter]:
    """Return the parameters by which an assertion bounds metrics."""
    return [
        inspect.Parameter(
            argument,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation="tuple[float, float] | None" if metric.leveled else "float | None",
        )
        for argument, metric in bound_arguments(metrics).items()
    ]


def taking_bounds(
    metrics: Iterable[Metric], *, observing: bool = True
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Let an assertion with `**bounds` take the bounds of metrics, and its checks carry the options that were chosen.

    The signature that callers see names each bound, and of an assertion that runs two models on data the deployed batch
    size, which is no option (baselines know it where answers depend on it), and the output that is compared; one that
    is not `observing` what models answer takes neither. Raises TypeError for any other keyword, as Python itself does,
    with the argument that is meant.
    """
    named = {parameter.name: parameter for parameter in bounds_of(metrics)}

    def decorate(assertion: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        signature = inspect.signature(assertion)
        own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        options = {one.name: one.default for one in own if one.name not in SUBJECTS | _ELSEWHERE}
        runs = observing and {"reference", "dataset"} <= set(signature.parameters)
        held = [inspect.Parameter(DEPLOYED, inspect.Parameter.KEYWORD_ONLY, default=None, annotation="int | None")]
        if runs:
            kinds = "str | int | Callable[[Any], Any] | None"
            held.append(inspect.Parameter(OUTPUT, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kinds))

        @functools.wraps(assertion)
        def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            __tracebackhide__ = True
            with noting_refusals(assertion.__name__):
                return checked_call(*args, **kwargs)

        def checked_call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            __tracebackhide__ = True
            deployed: Any = kwargs.pop(DEPLOYED, None) if runs else None
            output: Any = kwargs.pop(OUTPUT, None) if runs else None
            for name in kwargs:
                if name not in named and name not in signature.parameters:
                    others = [one.name for one in (*own, *(held if runs else [])) if one.name not in SUBJECTS]
                    raise TypeError(_unexpected(assertion.__name__, name, metrics, [*named, *others]))
            chosen = {
                name: value
                for name, value in kwargs.items()
                if name in options and not is_default(value, options[name])
            }
            with deploying(assertion.__name__, deployed, output):
                compared = current_execution().output if runs else None
                chosen |= {OUTPUT: compared} if compared is not None else {}
                with called_with({name: _describe(value) for name, value in sorted(chosen.items())}):
                    return assertion(*args, **kwargs)

        call.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own, *(held if runs else []), *named.values()]
        )
        return call

    return decorate


def _unexpected(assertion: str, name: str, metrics: Iterable[Metric], others: Iterable[str]) -> str:
    """Return what is wrong with a keyword that an assertion does not take, and which one is meant."""
    known = list(others)
    reason = explain_argument(name, metrics)
    if name in _OF_A_TEST and OUTPUT in known:
        reason = f"say it for the whole test, by @pytest.mark.cp_execution({name}=…)"
    advice = did_you_mean(name, known) or f"it takes {', '.join(known)}"
    return f"{assertion}() got an unexpected keyword argument {name!r}: {reason or advice}"


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
