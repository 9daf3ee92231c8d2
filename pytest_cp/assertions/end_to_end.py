"""Speed from stored data to answers as an assertion: faster than the uncompressed pipeline, or fast enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from typing_extensions import Unpack

from cp_compress.fidelity.end_to_end import compare_end_to_end
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.observing.refusals import require_originals
from cp_compress.fidelity.observing.runner import Model
from cp_compress.inputs.reading import LabeledData
from pytest_cp.assertions.bounds import EndToEndBounds
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import (
    Family,
    build_requirements,
    conclude,
    recording_errors,
    require_candidate,
    returning_twin,
)
from pytest_cp.checks.execution import current_execution
from pytest_cp.checks.naming import describe_data, describe_models
from pytest_cp.checks.recorder import Record
from pytest_cp.checks.records import note_subjects
from pytest_cp.errors import PipelineNotFasterError


@taking_bounds(METRICS["end_to_end"].values(), observing=False)
def assert_end_to_end(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    compressed_dataset: Any = None,
    batch_size: int = 64,
    workers: int = 0,
    backward: bool = False,
    coefficients: bool = False,
    transform: Callable[[Any], Any] | None = None,
    loss: Callable[[Any, Tensor], Tensor] | None = None,
    examples: int | None = None,
    turns: int = 9,
    confidence: float | None = None,
    family: Family | None = None,
    **bounds: Unpack[EndToEndBounds],
) -> Check:
    """Assert that the compressed pipeline, from stored data to answers, is faster than the uncompressed one.

    Both are run in turns, the reference on `dataset` and the compressed model on `compressed_dataset`, in batches of
    torch's `DataLoader`. Figures are those of the machine that runs the test.

    Args:
        compressed: The candidate; the reference itself where only the data is compressed.
        reference: The model before compression.
        dataset: What the reference reads: the data as it is without compression, such as an `ImageFolder`.
        compressed_dataset: What the candidate reads, such as a `StoredDataset`; None for `dataset`.
        batch_size: The number of examples in a batch.
        workers: The number of processes that load.
        backward: Whether gradients are computed too, as in training.
        coefficients: Whether the candidate reads the coefficients of its streams.
        transform: A function from a batch of inputs to what both models take.
        loss: What gradients are those of; by default the cross-entropy.
        examples: The number of examples of a timed pass; by default those of the data, at most 64 batches.
        turns: The number of timed passes of each, 3 or more; a claim at 95 % needs 5.
        confidence: The confidence of claims about the median of turns on this machine, in [0.5, 1); None compares the
            measured median with its bound.
        family: "candidates" makes the confidence one of all candidates of the test together.
        **bounds: The requirements; one or more.

    Returns:
        The check, whose `measurement.details` hold both profiles and the speed-up of every turn.

    Raises:
        PipelineNotFasterError: If a requirement does not hold.
        NothingComparedError: If model and data are the same on both sides.
        InvalidArgumentError: If no requirement is given, or an argument is not as described.
    """
    __tracebackhide__ = True
    assertion = "assert_end_to_end"
    requirements = build_requirements(assertion, METRICS["end_to_end"].values(), bounds, confidence, family)
    subjects: Record = {}
    with recording_errors(assertion, subjects):
        subjects |= describe_models(compressed, reference, compressed_dataset)
        require_candidate(compressed, reference, dataset, compressed_dataset)
        data = LabeledData(dataset)
        if compressed_dataset is not None:
            require_originals(LabeledData(compressed_dataset), data)
        subjects["data"] = describe_data(dataset, None, len(data))
        measurement = compare_end_to_end(
            compressed,
            reference,
            dataset if compressed_dataset is None else compressed_dataset,
            dataset,
            batch_size=batch_size,
            workers=workers,
            backward=backward,
            coefficients=coefficients,
            transform=transform,
            loss=loss,
            device=current_execution().device,
            examples=examples,
            turns=turns,
        )
        note_subjects(compressed, reference, (dataset, compressed_dataset))
    return conclude(measurement, requirements, assertion, subjects, PipelineNotFasterError)


check_end_to_end = returning_twin(assert_end_to_end)
