"""Decoded data as an assertion: close to the original, and small."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from typing_extensions import Unpack

from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.observing.refusals import require_originals
from cp_compress.fidelity.reconstruction import compare_reconstruction
from cp_compress.inputs.reading import LabeledData
from pytest_cp.assertions.bounds import ReconstructionBounds
from pytest_cp.checks.call_options import taking_bounds
from pytest_cp.checks.conclusion import Family, build_requirements, conclude, recording_errors, returning_twin
from pytest_cp.checks.naming import describe_data
from pytest_cp.checks.recorder import Record
from pytest_cp.checks.records import note_subjects
from pytest_cp.errors import NothingComparedError, ReconstructionNotPreservedError


@taking_bounds(METRICS["reconstruction"].values())
def assert_reconstruction(
    decoded: Any,
    original: Any,
    *,
    confidence: float | None = None,
    family: Family | None = None,
    **bounds: Unpack[ReconstructionBounds],
) -> Check:
    """Assert that decoded data is close to the original, and small.

    Args:
        decoded: A data set or a tensor (n, ...); a `CompressedDataset` also brings its bytes an example.
        original: The same examples before a codec stored them.
        confidence: The confidence of claims about the population, in [0.5, 1); None compares the values on the given
            data with their bounds.
        family: "candidates" makes the confidence one of all candidates of the test together: each is judged with its
            share of the error (Bonferroni). None for each candidate by itself.
        **bounds: The requirements; one or more. Errors are in units of the data, PSNR in dB for a data range of 1.

    Returns:
        The check, whose `measurement` holds all metrics.

    Raises:
        ReconstructionNotPreservedError: If a requirement does not hold.
        NothingComparedError: If both are one object, or hold the same content and no codec stored it.
        InvalidArgumentError: If no requirement is given, or an argument is not as described.
    """
    __tracebackhide__ = True
    assertion = "assert_reconstruction"
    requirements = build_requirements(assertion, METRICS["reconstruction"].values(), bounds, confidence, family)
    subjects: Record = {}
    with recording_errors(assertion, subjects):
        if decoded is original:
            raise NothingComparedError("nothing was compressed: decoded and original are one object")
        if not any(isinstance(one, Tensor) for one in (decoded, original)):
            require_originals(LabeledData(decoded), LabeledData(original))
        measurement = compare_reconstruction(decoded, original)
        note_subjects(data=(decoded, original))
        count = measurement.counts["max_error"]
        subjects["decoded"] = describe_data(decoded, None, count)
        subjects["original"] = describe_data(original, None, count)
        if measurement.metrics["max_error"] == 0 and not hasattr(decoded, "codec"):
            raise NothingComparedError(
                "nothing was compressed: decoded holds the same values as original, and no codec stored it"
            )
    return conclude(measurement, requirements, assertion, subjects, ReconstructionNotPreservedError)


check_reconstruction = returning_twin(assert_reconstruction)
