"""What all assertions share: requirements, subjects, errors on the way, the record, and the failure that is raised."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal, ParamSpec

from cp_compress.base.arguments import check_real, reject
from cp_compress.fidelity.judging.judgement import Check, Requirement, judge
from cp_compress.fidelity.judging.measurement import Measurement, metric_range
from cp_compress.fidelity.observing.observation import Observation, observe
from cp_compress.fidelity.observing.refusals import (
    require_difference,
    require_fresh,
    require_order,
    require_other_logits,
)
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.origin.stages import explain_damage
from pytest_cp.checks.evidence import gather_evidence
from pytest_cp.checks.execution import current_execution
from pytest_cp.checks.exploring import exploring, reject_draw, shows_nothing, steer
from pytest_cp.checks.messages import failure_message
from pytest_cp.checks.naming import describe_models, describe_pair
from pytest_cp.checks.records import Record, asserting, not_asserting, record_check, record_error, set_aside_check
from pytest_cp.errors import BaselineError, PreservationError

Parameters = ParamSpec("Parameters")


def returning_twin(assertion: Callable[Parameters, Check]) -> Callable[Parameters, Check]:
    @functools.wraps(assertion)
    def check(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Check:
        with not_asserting():
            try:
                return assertion(*args, **kwargs)
            except PreservationError as error:
                return error.check

    check.__name__ = check.__qualname__ = assertion.__name__.replace("assert_", "check_")
    check.__doc__ = f"Return the check that `{assertion.__name__}` makes, whether it passes or not."
    return check


def build_requirements(
    assertion: str,
    confidence: float | None,
    *,
    at_least: dict[str, float | None] | dict[str, float] | None = None,
    at_most: dict[str, float | None] | None = None,
) -> list[Requirement]:
    lower = [_requirement(assertion, metric, "min", bound, confidence) for metric, bound in (at_least or {}).items()]
    upper = [_requirement(assertion, metric, "max", bound, confidence) for metric, bound in (at_most or {}).items()]
    asked = [requirement for requirement in lower + upper if requirement is not None]
    if not asked:
        known = [f"min_{metric}" for metric in at_least or {}] + [f"max_{metric}" for metric in at_most or {}]
        known = [_argument_name(name) for name in known]
        reject(assertion, "requirements", None, f"no requirement is given; give at least one of {', '.join(known)}")
    return asked


def _requirement(
    assertion: str, metric: str, direction: Literal["min", "max"], bound: float | None, confidence: float | None
) -> Requirement | None:
    if bound is None:
        return None
    argument = _argument_name(f"{direction}_{metric}")
    low, high = metric_range(metric)
    rule = f"must lie in [{low:g}, {high:g}], the range of {metric}"
    checked = check_real(assertion, argument, bound, rule, at_least=low, at_most=high)
    return Requirement(metric, direction, checked, confidence)


def _argument_name(text: str) -> str:
    return text.replace("max_max_", "max_").replace("min_min_", "min_")


def assert_pair(
    subjects: tuple[Model, Model, Any, Any],
    compare: Callable[[Observation, Observation], Measurement],
    requirements: list[Requirement],
    assertion: str,
    failure: type[PreservationError],
    *,
    view: Callable[[Model, Observation], Model] | None = None,
) -> Check:
    """Compare a pair and conclude; `view` gives the model to observe in the compressed one's place, where it has no
    logits of its own.
    """
    __tracebackhide__ = True
    compressed, reference, dataset, compressed_dataset = subjects
    described: Record = {}
    with recording_errors(assertion, described):
        described |= describe_models(compressed, reference, compressed_dataset)  # for errors, too
        require_order(compressed, reference)
        require_difference(compressed, reference, dataset, compressed_dataset)
        execution = current_execution()
        original = observe(reference, dataset, device=execution.device, batch_size=execution.batch_size)
        read = dataset if compressed_dataset is None else compressed_dataset
        observed = compressed if view is None else view(compressed, original)
        candidate = observe(observed, read, device=execution.device, batch_size=execution.batch_size)
        pair = describe_pair(candidate, original)
        described.clear()
        described |= pair
        require_other_logits(candidate, original)
        if not execution.allow_searched_data:
            require_fresh(candidate, original, execution.searched)
        measurement = compare(candidate, original)
    return conclude(measurement, requirements, assertion, described, failure, (candidate, original))


def _explain(candidate: Observation, reference: Observation) -> Record:
    # Hypothesis fails many times with one candidate, and what explains it is the same each time
    key = ("origin", reference.model_digest, reference.data_digest)
    return candidate.remember(key, lambda: explain_damage(candidate, reference))


@contextlib.contextmanager
def recording_errors(assertion: str, subjects: Record) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        record_error(error, assertion, subjects)
        raise


def conclude(
    measurement: Measurement,
    requirements: list[Requirement],
    assertion: str,
    subjects: Record,
    failure: type[PreservationError],
    observations: tuple[Observation, Observation] | None = None,
) -> Check:
    __tracebackhide__ = True
    with recording_errors(assertion, subjects):
        check = judge(measurement, requirements)
    if asserting() and exploring() and shows_nothing(check):
        set_aside_check(check, assertion, subjects)
        reject_draw()
    steer(check)
    record = record_check(check, assertion, subjects)
    if observations is not None and record["asserted"] and record["outcome"] != "pass" and current_execution().origin:
        record["origin"] = _explain(*observations)
    if observations is not None and current_execution().illustrate and not record["explored"]:
        record["evidence"] = gather_evidence(measurement, *observations)
    if not check.passed and not record["waivers"]:
        raise failure(failure_message(record), check)
    if record["baseline_problems"]:
        raise BaselineError(failure_message(record), check)
    return check
