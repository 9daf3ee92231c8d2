"""The failures that assertions raise: one class for each kind of behaviour, so that tools can tell them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cp_compress.base.errors import NothingComparedError as NothingComparedError

if TYPE_CHECKING:
    from cp_compress.fidelity.judging.judgement import Check


class PreservationError(AssertionError):
    """Behaviour was not preserved, or not proven to be; `check` holds what was required and found."""

    def __init__(self, message: str, check: Check) -> None:
        super().__init__(message)
        self.check = check


class PredictionsNotPreservedError(PreservationError):
    """The compressed model's predictions differ by more than is allowed."""


class EmbeddingsNotPreservedError(PreservationError):
    """The compressed model represents the examples otherwise than is allowed."""


class AttributionsNotPreservedError(PreservationError):
    """The compressed model looks at other parts of its inputs than is allowed."""


class PointingNotPreservedError(PreservationError):
    """The compressed model does not look where it must, or looks where it must not."""


class ConceptsNotPreservedError(PreservationError):
    """The compressed model's answers rest on other concepts than is allowed."""


class BoundariesNotPreservedError(PreservationError):
    """The compressed model's decision boundaries moved by more than is allowed."""


class RobustnessNotPreservedError(PreservationError):
    """The compressed model answers corrupted inputs otherwise than is allowed."""


class DivergenceFoundError(PreservationError):
    """Inputs were found on which the compressed model says something else than its reference."""


class ReconstructionNotPreservedError(PreservationError):
    """Decoded data differs from the original by more than is allowed."""


class FootprintNotReducedError(PreservationError):
    """The compressed model is not as much smaller or faster as is required."""


class ComparisonNotPreservedError(PreservationError):
    """A comparison or a measurement of the user's own does not hold what is required of it."""


class BaselineError(PreservationError):
    """A check is worse than its baseline, has none, or the baseline is of other subjects."""
