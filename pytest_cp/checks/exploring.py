"""What checks do while Hypothesis draws their inputs: steer it, and leave out what shows nothing."""

from __future__ import annotations

import contextlib
import math
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from cp_compress.fidelity.judging.judgement import Check


def exploring() -> bool:
    """Tell whether Hypothesis is drawing inputs, so that many checks are runs of one."""
    hypothesis = sys.modules.get("hypothesis")
    return hypothesis is not None and bool(hypothesis.currently_in_test_context())


def ends_a_draw(error: Exception) -> bool:
    """Tell whether an exception is how Hypothesis ends a run of a test, and no failure."""
    return "hypothesis" in sys.modules and isinstance(error, _hypothesis().errors.HypothesisException)


def steer(check: Check) -> None:
    """Let Hypothesis, where it runs the test, look for smaller margins."""
    margin = check.worst.margin
    if not math.isfinite(margin) or not exploring():
        return
    hypothesis = _hypothesis()
    with contextlib.suppress(hypothesis.errors.HypothesisException):  # a second check of one kind in one test
        hypothesis.target(-margin, label=str(check.worst.requirement))


def shows_nothing(check: Check) -> bool:
    """Tell whether neither model meets a boundary along any ray, and no requirement is broken by that."""
    rays = check.measurement.details.get("rays")
    if check.measurement.comparison != "boundaries" or not isinstance(rays, dict) or not rays["compared"]:
        return False
    outcomes = {result.outcome for result in check.results}
    return rays["reached_by_neither"] == rays["compared"] and "error" in outcomes and outcomes <= {"error", "pass"}


def reject_draw() -> NoReturn:
    """End this run of the test, so that Hypothesis draws other inputs."""
    _hypothesis().reject()
    raise AssertionError("Hypothesis took a rejected draw")


def _hypothesis() -> Any:
    return sys.modules["hypothesis"]
