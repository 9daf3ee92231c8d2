"""The record of the schemes as JSON: what a scheme of this package leaves behind follows from its text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cp_compress.base.expressions import parse_expression
from cp_compress.model.order import left_by
from cp_compress.model.record import Left, Step
from cp_compress.model.registry import known_schemes


def describe_step(step: Step) -> dict[str, Any]:
    """Return a step as plain Python types, with what it left behind where its text does not say that."""
    content = step.to_json()
    if step.leaves == _left_by_text(step):
        del content["leaves"]
    return content


def read_step(content: Any) -> Step:
    """Read what `describe_step` wrote; raises KeyError, TypeError or ValueError for anything else."""
    step = Step.from_json(content)
    return step if "leaves" in content else replace(step, leaves=_left_by_text(step))


def _left_by_text(step: Step) -> tuple[Left, ...]:
    known = known_schemes()
    scheme: Any = known.get(step.scheme.partition("(")[0])
    if scheme is None:
        return ()
    if isinstance(scheme.leaves, property):  # it depends on the arguments
        (scheme,) = parse_expression(step.scheme, known, "scheme")
    return left_by(scheme, (change.tensor for change in step.changes))
