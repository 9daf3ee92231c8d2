"""What all assertions share: requirements, subjects, errors on the way, the record, and the failure that is raised."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, ParamSpec, get_args

from cp_compress.base.arguments import check_choice, check_real, reject
from cp_compress.base.digests import examining_once
from cp_compress.base.showing.work import limited_to
from cp_compress.fidelity.comparisons import Comparison
from cp_compress.fidelity.judging.judgement import Check, judge
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.judging.measuring import measure_for
from cp_compress.fidelity.judging.metric import Metric, bound_arguments
from cp_compress.fidelity.judging.requirement import Requirement
from cp_compress.fidelity.observing.observation import Observation, observe
from cp_compress.fidelity.observing.refusals import (
    require_difference,
    require_fresh,
    require_order,
    require_originals,
    require_other_logits,
    require_source,
    require_unused,
)
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.origin.stages import explain_damage
from cp_compress.inputs.clusters import has_clusters
from cp_compress.inputs.reading import LabeledData
from pytest_cp.checks.cards import RecordedCheck
from pytest_cp.checks.evidence import gather_evidence
from pytest_cp.checks.execution import current_execution
from pytest_cp.checks.exploring import exploring, reject_draw, shows_nothing, steer
from pytest_cp.checks.messages import failure_message
from pytest_cp.checks.naming import describe_models, describe_pair
from pytest_cp.checks.recorder import Record
from pytest_cp.checks.records import (
    asserting,
    not_asserting,
    note_subjects,
    record_check,
    record_error,
    set_aside_check,
)
from pytest_cp.errors import BaselineError, PreservationError

Parameters = ParamSpec("Parameters")
Family = Literal["candidates"]
"""The claims that hold together at a confidence: those about all candidates of a test."""


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
    metrics: Iterable[Metric],
    bounds: Mapping[str, Any],
    confidence: float | None,
    family: Family | None = None,
) -> list[Requirement]:
    """Return the requirements that the bounds of an assertion's call make; raises InvalidArgumentError for none."""
    arguments = bound_arguments(metrics)
    size = _size_of_family(assertion, family, confidence)
    asked = [
        _requirement(assertion, argument, metric, bounds[argument], confidence, size)
        for argument, metric in arguments.items()
        if bounds.get(argument) is not None
    ]
    if not asked:
        rule = f"no requirement is given; give at least one of {', '.join(arguments)}"
        reject(assertion, "requirements", None, rule)
    return asked


def _size_of_family(assertion: str, family: Family | None, confidence: float | None) -> int:
    """Return how many candidates a claim is about together, 1 for each by itself."""
    if family is None:
        return 1
    check_choice(assertion, "family", family, get_args(Family))
    if confidence is None:
        reject(assertion, "family", family, "is about the confidence of claims: give confidence, too")
    size = current_execution().candidates
    if size is None:
        rule = (
            "needs the candidates of a test, of the fixture compressed_model or compressed_dataset or a specification"
        )
        reject(assertion, "family", family, rule)
    return size


def _requirement(
    assertion: str, argument: str, metric: Metric, bound: Any, confidence: float | None, family: int
) -> Requirement:
    name = metric.name
    if metric.leveled:
        rule = "must be a pair: the level of the quantile, in (0, 1), and its bound"
        if not isinstance(bound, (tuple, list)) or len(bound) != 2:
            reject(assertion, argument, bound, rule)
        level = check_real(assertion, argument, bound[0], rule, above=0, below=1)
        name, bound = f"{metric.name}_{level:g}", bound[1]
    direction = metric.direction
    assert direction is not None  # an argument bounds it
    return Requirement(name, direction, metric.check_bound(assertion, argument, bound), confidence, family)


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

    asked = {**implied, **seeded, **options}

    def compare(candidate: Observation, original: Observation) -> Measurement:
        return comparison.compare(candidate, original, **asked)

    return assert_pair(subjects, compare, requirements, assertion, failure, options=asked)


def require_candidate(compressed: Model, reference: Model, dataset: Any, compressed_dataset: Any) -> None:
    """Refuse two models that are no candidate and its reference, before either is run."""
    require_order(compressed, reference)
    require_difference(compressed, reference, dataset, compressed_dataset)
    if not current_execution().any_source:
        require_source(compressed, reference)


def assert_pair(
    subjects: tuple[Model, Model, Any, Any],
    compare: Callable[[Observation, Observation], Measurement],
    requirements: list[Requirement],
    assertion: str,
    failure: type[PreservationError],
    *,
    view: Callable[[Model, Observation], Model] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Check:
    """Compare a pair and conclude; `view` gives the model to observe in the compressed one's place, where it has no
    logits of its own, and `options` are what the comparison is called with.
    """
    __tracebackhide__ = True
    compressed, reference, dataset, compressed_dataset = subjects
    described: Record = {}
    with recording_errors(assertion, described), examining_once():
        described |= describe_models(compressed, reference, compressed_dataset)  # for errors, too
        require_candidate(compressed, reference, dataset, compressed_dataset)
        execution = current_execution()
        settings: dict[str, Any] = {
            "device": execution.device,
            "batch_size": execution.batch_size,
            "deployed_batch_size": execution.deployed_batch_size,
            "output": execution.output,
        }
        original = observe(reference, dataset, **settings)
        read = dataset if compressed_dataset is None else compressed_dataset
        observed = compressed if view is None else view(compressed, original)
        if compressed_dataset is not None:
            require_originals(LabeledData(compressed_dataset), original.data)
        # a model in the candidate's place has made its answers of the output already
        candidate = observe(observed, read, **(settings if observed is compressed else settings | {"output": None}))
        pair = describe_pair(candidate, original)
        described.clear()
        described |= pair
        require_other_logits(candidate, original)
        if not execution.allow_searched_data:
            require_fresh(candidate, original, execution.searched)
        claim = any(one.confidence is not None for one in requirements) and not execution.allow_searched_data
        used = require_unused(candidate, original, claim=claim)
        measurement = measure_for(requirements, candidate, original, compare)
        _require_clusters(assertion, measurement, requirements, dataset)
        if used:
            measurement = dataclasses.replace(measurement, notes=(*measurement.notes, *used))
        note_subjects(compressed, reference, (dataset, compressed_dataset))
    return conclude(measurement, requirements, assertion, described, failure, (candidate, original), options)


def _require_clusters(
    assertion: str, measurement: Measurement, requirements: Iterable[Requirement], dataset: Any
) -> None:
    """Refuse a claim that takes examples for independent which the data set says belong together."""
    claims = [requirement for requirement in requirements if requirement.confidence is not None]
    if claims and measurement.details.get("clusters") is None and has_clusters(dataset):
        rule = (
            "the data set says which examples belong together, and only claims about predictions are made of clusters"
        )
        reject(assertion, "confidence", claims[0].confidence, f"{rule}: leave the confidence out")


def _explain(candidate: Observation, reference: Observation, *, by_noise: bool) -> Record:
    # Hypothesis fails many times with one candidate, and what explains it is the same each time
    key = ("origin", reference.content_key, reference.data_digest, by_noise)
    return candidate.remember(key, lambda: explain_damage(candidate, reference, by_noise=by_noise))


@contextlib.contextmanager
def recording_errors(assertion: str, subjects: Record) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        record_error(error, assertion, subjects)
        raise


def _with_coverage(
    measurement: Measurement, requirements: list[Requirement], subjects: Record
) -> tuple[Measurement, list[Requirement]]:
    """Add what the session requires of each candidate's coverage; a coverage that is unknown has no value."""
    least, found = current_execution().min_coverage, subjects.get("candidate", {}).get("coverage")
    if least is None or found is None:
        return measurement, requirements
    if any(one.metric == "coverage" and one.bound >= least for one in requirements):
        return measurement, requirements
    value = math.nan if found["share"] is None else found["share"]
    metrics, counts = {**measurement.metrics, "coverage": value}, {**measurement.counts, "coverage": 1}
    measured = dataclasses.replace(measurement, metrics=metrics, counts=counts)
    return measured, [*requirements, Requirement("coverage", "min", least)]


def conclude(
    measurement: Measurement,
    requirements: list[Requirement],
    assertion: str,
    subjects: Record,
    failure: type[PreservationError],
    observations: tuple[Observation, Observation] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Check:
    __tracebackhide__ = True
    with recording_errors(assertion, subjects):
        check = judge(*_with_coverage(measurement, requirements, subjects))
    if asserting() and exploring() and shows_nothing(check):
        set_aside_check(check, assertion, subjects)
        reject_draw()
    steer(check)
    record = record_check(check, assertion, subjects)
    execution = current_execution()
    with limited_to(execution.time_budget):
        if observations is not None and record["asserted"] and record["outcome"] != "pass" and execution.origin:
            record["origin"] = _explain(*observations, by_noise=measurement.comparison == "outputs")
        if observations is not None and execution.illustrate and not record["explored"]:
            record["evidence"] = gather_evidence(measurement, *observations, options)
    check = RecordedCheck(check.measurement, check.results, record)
    if not check.passed and not record["waivers"]:
        raise failure(failure_message(record), check)
    if record["baseline_problems"]:
        raise BaselineError(failure_message(record), check)
    return check
