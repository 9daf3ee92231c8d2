"""Any comparison as an assertion: one of the user's own, or one of this package by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from cp_compress.base.arguments import reject
from cp_compress.fidelity.comparisons import Comparison, known_comparisons
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.metric import bound_arguments
from cp_compress.fidelity.observing.runner import Model
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import Family, assert_behaviour, build_requirements, returning_twin
from pytest_cp.checks.records import noting_refusals
from pytest_cp.errors import ComparisonNotPreservedError

_ASSERTION = "assert_comparison"


def assert_comparison(
    compressed: Model,
    reference: Model,
    dataset: Any,
    comparison: Comparison | str,
    *,
    compressed_dataset: Any = None,
    confidence: float | None = None,
    family: Family | None = None,
    **arguments: Any,
) -> Check:
    """Assert what a comparison of your own requires.

    The check is recorded, reported, held to its baseline and to waivers, and fails closed as every other one.

    Args:
        compressed: The candidate.
        reference: The model that it is compared with.
        dataset: The examples that both models read.
        comparison: A `Comparison` of two models' behaviour, or the name of one that the hook `pytest_cp_comparisons`
            has added.
        compressed_dataset: What the candidate reads instead of `dataset`.
        confidence: The confidence of claims about the population, in [0.5, 1); None compares values on the given data.
        family: "candidates" makes the confidence one of all candidates of the test together: each is judged with its
            share of the error (Bonferroni). None for each candidate by itself.
        arguments: Bounds of the comparison's metrics, such as `max_gap=0.1`, and its options.

    Returns:
        The check.

    Raises:
        ComparisonNotPreservedError: If a requirement does not hold.
        NothingComparedError: If model and data are the same on both sides.
        InvalidArgumentError: If there is no such comparison, or nothing is required.
        TypeError: If an argument is neither a bound nor an option of the comparison.
    """
    __tracebackhide__ = True
    with noting_refusals(_ASSERTION):
        assertion = as_assertion(_find(comparison))
        return assertion(
            compressed,
            reference,
            dataset,
            compressed_dataset=compressed_dataset,
            confidence=confidence,
            family=family,
            **arguments,
        )


def as_assertion(comparison: Comparison) -> Callable[..., Check]:
    """Return the assertion of a comparison, with its bounds and options as keyword arguments."""
    options = [
        option.replace(kind=option.KEYWORD_ONLY)
        for name, option in comparison.options.items()
        if name != "seed" and option.kind in (option.POSITIONAL_OR_KEYWORD, option.KEYWORD_ONLY)
    ]

    def assertion(
        compressed: Model,
        reference: Model,
        dataset: Any,
        *,
        compressed_dataset: Any = None,
        confidence: float | None = None,
        family: Family | None = None,
        **arguments: Any,
    ) -> Check:
        __tracebackhide__ = True
        bounds = bound_arguments(comparison.metrics)
        asked = {name: value for name, value in arguments.items() if name in bounds}
        return assert_behaviour(
            comparison,
            (compressed, reference, dataset, compressed_dataset),
            build_requirements(_ASSERTION, comparison.metrics, asked, confidence, family),
            _ASSERTION,
            ComparisonNotPreservedError,
            {name: value for name, value in arguments.items() if name not in bounds},
        )

    signature = inspect.signature(assertion)
    own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
    assertion.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    assertion.__name__ = assertion.__qualname__ = _ASSERTION
    assertion.__doc__ = inspect.getdoc(comparison.compare) or f"Assert what {comparison.name} measures."
    return taking_bounds(comparison.metrics)(assertion)


def _find(comparison: Comparison | str) -> Comparison:
    known = {name: one for name, one in known_comparisons().items() if one.kind == "behaviour"}
    found = known.get(comparison) if isinstance(comparison, str) else comparison
    if not isinstance(found, Comparison) or found.kind != "behaviour":
        rule = f"must be a Comparison of two models' behaviour, or the name of one: {', '.join(known)}"
        reject(_ASSERTION, "comparison", comparison, rule)
    return found


check_comparison = returning_twin(assert_comparison)
