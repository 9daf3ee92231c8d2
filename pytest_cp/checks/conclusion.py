"""What all assertions share: requirements, subjects, errors on the way, the record, and the failure that is raised."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ParamSpec

from cp_compress.base.arguments import check_real, reject
from cp_compress.fidelity.comparisons import Comparison
from cp_compress.fidelity.judging.judgement import Check, Requirement, judge
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.judging.metric import Metric, bound_arguments
from cp_compress.fidelity.observing.observation import Observation, observe
from cp_compress.fidelity.observing.refusals import (
    require_difference,
    require_fresh,
    require_order,
    require_originals,
    require_other_logits,
    require_source,
)
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.origin.stages import explain_damage
from cp_compress.inputs.reading import LabeledData
from pytest_cp.checks.evidence import gather_evidence
from pytest_cp.checks.execution import current_execution
from pytest_cp.checks.exploring import exploring, reject_draw, shows_nothing, steer
from pytest_cp.checks.messages import failure_message
from pytest_cp.checks.naming import describe_models, describe_pair
from pytest_cp.checks.records import (
    Record,
    asserting,
    not_asserting,
    note_subjects,
    record_check,
    record_error,
    set_aside_check,
)
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
    assertion: str, metrics: Iterable[Metric], bounds: Mapping[str, Any], confidence: float | None
) -> list[Requirement]:
    """Return the requirements that the bounds of an assertion's call make; raises InvalidArgumentError for none."""
    arguments = bound_arguments(metrics)
    asked = [
        _requirement(assertion, argument, metric, bounds[argument], confidence)
        for argument, metric in arguments.items()
        if bounds.get(argument) is not None
    ]
    if not asked:
        rule = f"no requirement is given; give at least one of {', '.join(arguments)}"
        reject(assertion, "requirements", None, rule)
    return asked


def _requirement(assertion: str, argument: str, metric: Metric, bound: Any, confidence: float | None) -> Requirement:
    name = metric.name
    if metric.leveled:
        rule = "must be a pair: the level of the quantile, in (0, 1), and its bound"
        if not isinstance(bound, (tuple, list)) or len(bound) != 2:
            reject(assertion, argument, bound, rule)
        level = check_real(assertion, argument, bound[0], rule, above=0, below=1)
        name, bound = f"{metric.name}_{level:g}", bound[1]
    direction = metric.direction
    assert direction is not None  # an argument bounds it
    return Requirement(name, direction, metric.check_bound(assertion, argument, bound), confidence)


def assert_behaviour(
    comparison: Comparison,
    subjects: tuple[Model, Model, Any, Any],
    requirements: list[Requirement],
    assertion: str,
    failure: type[PreservationError],
    options: Mapping[str, Any],
) -> Check:
    """Compare a pair by a comparison with these options and what its requirements imply, and conclude."""
    __tracebackhide__ = True
    implied = comparison.implied([requirement.metric for requirement in requirements])
    seeded = {"seed": current_execution().seed} if "seed" in comparison.options else {}

    def compare(candidate: Observation, original: Observation) -> Measurement:
        return comparison.compare(candidate, original, **{**implied, **seeded, **options})

    return assert_pair(subjects, compare, requirements, assertion, failure)


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
        if not execution.any_source:
            require_source(compressed, reference)
        original = observe(reference, dataset, device=execution.device, batch_size=execution.batch_size)
        read = dataset if compressed_dataset is None else compressed_dataset
        observed = compressed if view is None else view(compressed, original)
        if compressed_dataset is not None:
            require_originals(LabeledData(compressed_dataset), original.data)
        candidate = observe(observed, read, device=execution.device, batch_size=execution.batch_size)
        pair = describe_pair(candidate, original)
        described.clear()
        described |= pair
        require_other_logits(candidate, original)
        if not execution.allow_searched_data:
            require_fresh(candidate, original, execution.searched)
        measurement = compare(candidate, original)
        note_subjects(compressed, reference, (dataset, compressed_dataset))
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
