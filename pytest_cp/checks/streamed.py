"""What happens to a check of two models that run side by side on data of their own form, up to its conclusion."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cp_compress.base.digests import examining_once
from cp_compress.fidelity.comparisons import Comparison
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.requirement import Requirement
from cp_compress.fidelity.language.frozen_tokens import FrozenTokens
from cp_compress.fidelity.observing.outputs import view_of
from cp_compress.fidelity.observing.refusals import (
    notes_on_used,
    refuse_searched,
    require_other_content,
)
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.side_by_side.sides import EQUAL
from cp_compress.inputs.seen import searched_digests, seen_digests
from pytest_cp.checks.conclusion import conclude, recording_errors, require_candidate
from pytest_cp.checks.execution import current_execution
from pytest_cp.checks.naming import describe_data, describe_models
from pytest_cp.checks.recorder import Record
from pytest_cp.checks.records import note_subjects
from pytest_cp.errors import PreservationError


def assert_streamed(
    comparison: Comparison,
    subjects: tuple[Model, Model, Any],
    requirements: list[Requirement],
    assertion: str,
    failure: type[PreservationError],
    options: Mapping[str, Any],
) -> Check:
    """Compare two models on data with these options and what the requirements imply, and conclude."""
    __tracebackhide__ = True
    compressed, reference, dataset = subjects
    execution = current_execution()
    described: Record = {}
    with recording_errors(assertion, described):
        with examining_once():
            described |= describe_models(compressed, reference, None)
            require_candidate(compressed, reference, dataset, None)
        data = comparison.read(frozen_documents(compressed, reference) if dataset is None else dataset)
        claim = any(one.confidence is not None for one in requirements)
        doubts = _doubts(compressed, data, claim=claim)
        measurement = comparison.compare(
            view_of(compressed, execution.output),
            view_of(reference, execution.output),
            data,
            device=execution.device,
            batch_size=execution.batch_size,
            deployed_batch_size=execution.deployed_batch_size,
            **comparison.implied([one.metric for one in requirements]),
            **options,
        )
        described["data"] = describe_data(data.source, measurement.details["data_digest"], len(data))
        if measurement.details[EQUAL]:
            require_other_content(compressed, reference, f"all {len(data)} examples")
        measurement = dataclasses.replace(measurement, notes=(*measurement.notes, *doubts))
        note_subjects(compressed, reference, (dataset,))
    return conclude(measurement, requirements, assertion, described, failure)


def frozen_documents(candidate: Model, reference: Model) -> Any:
    """Return the documents on which two frozen language models were observed, None for other models."""
    if isinstance(candidate, FrozenTokens) and isinstance(reference, FrozenTokens):
        return reference.data
    return None


def _doubts(candidate: Model, data: Any, *, claim: bool) -> list[str]:
    """Return notes on examples with which the candidate was made; raises as `require_fresh` and `require_unused`."""
    execution = current_execution()
    used = seen_digests(candidate)
    if not used and not execution.searched:
        return []
    digests = data.example_digests()
    if not execution.allow_searched_data:
        refuse_searched(digests, execution.searched | searched_digests(candidate), data.source)
    return notes_on_used(
        used, lambda: [frozenset(one) for one in digests], claim=claim and not execution.allow_searched_data
    )
