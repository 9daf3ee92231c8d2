"""Level C with masks as an assertion: the model looks where it must, and not where it must not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import Unpack

from cp_compress.base.arguments import reject
from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.observing.runner import Model
from pytest_cp.assertions.bounds import PointingBounds
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import assert_behaviour, build_requirements, returning_twin
from pytest_cp.errors import PointingNotPreservedError


@taking_bounds(METRICS["pointing"].values())
def assert_pointing(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    compressed_dataset: Any = None,
    must_look: Any = None,
    must_not_look: Any = None,
    method: Any = "saliency",
    examples: int | Sequence[int] | None = None,
    confidence: float | None = None,
    **bounds: Unpack[PointingBounds],
) -> Check:
    """Level C: assert that the compressed model looks where it must, and not where it must not.

    `must_look` and `must_not_look` are masks as in `compare_pointing`: a boolean tensor (h, w) or (n, h, w), the name
    of an attribute of the data set that holds one, or a function of (inputs, labels). Of the attribution by `method`,
    `min_pointing_mass` bounds the mean share inside `must_look`, `max_pointing_mass_drop` how much less that is than
    the reference's, `min_pointing_hits` the share of examples whose strongest place is inside, and
    `max_forbidden_mass` the mean share inside `must_not_look`; all are shares in [0, 1]. `examples` is a number of
    examples, spread evenly over the data set, or their indices (default: all). Raises PointingNotPreservedError, and
    NothingComparedError when model and data are the same on both sides.
    """
    __tracebackhide__ = True
    assertion = "assert_pointing"
    requirements = build_requirements(assertion, METRICS["pointing"].values(), bounds, confidence)
    masks = {"must_look": must_look, "must_not_look": must_not_look}
    for requirement in requirements:
        needed = "must_not_look" if requirement.metric == "forbidden_mass" else "must_look"
        if masks[needed] is None:
            reject(assertion, needed, None, f"{requirement.metric} is the share inside this mask: give it")
    return assert_behaviour(
        COMPARISONS["pointing"],
        (compressed, reference, dataset, compressed_dataset),
        requirements,
        assertion,
        PointingNotPreservedError,
        {"method": method, "examples": examples, "must_look": must_look, "must_not_look": must_not_look},
    )


check_pointing = returning_twin(assert_pointing)
