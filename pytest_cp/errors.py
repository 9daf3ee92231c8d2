"""The failures that assertions raise: one class per kind of behaviour, so that tools can distinguish them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cp_compress.base.errors import NothingComparedError as NothingComparedError

if TYPE_CHECKING:
    from cp_compress.fidelity.judging.judgement import Check


class PreservationError(AssertionError):
    """Behaviour was not preserved, or not proven to be; `check` holds the requirements and the measured values."""

    def __init__(self, message: str, check: Check) -> None:
        super().__init__(message)
        self.check = check


class PredictionsNotPreservedError(PreservationError):
    """The compressed model's predictions differ by more than is allowed."""


class EmbeddingsNotPreservedError(PreservationError):
    """The compressed model's embeddings differ by more than is allowed."""


class AttributionsNotPreservedError(PreservationError):
    """The compressed model's attributions differ by more than is allowed."""


class PointingNotPreservedError(PreservationError):
    """The compressed model's attributions miss a required region, or fall into a forbidden one."""


class ConceptsNotPreservedError(PreservationError):
    """The compressed model's sensitivity to concepts differs by more than is allowed."""


class BoundariesNotPreservedError(PreservationError):
    """The compressed model's decision boundaries moved by more than is allowed."""


class RobustnessNotPreservedError(PreservationError):
    """The compressed model's answers to corrupted inputs differ by more than is allowed."""


class DivergenceFoundError(PreservationError):
    """Inputs were found on which the compressed model and its reference predict different classes."""


class OutputsNotPreservedError(PreservationError):
    """What the compressed model gives differs from what its reference gives by more than is allowed."""


class LanguageNotPreservedError(PreservationError):
    """The compressed language model predicts the next token otherwise by more than is allowed."""


class RetrievalNotPreservedError(PreservationError):
    """The compressed encoder or reranker finds other documents by more than is allowed."""


class DetectionsNotPreservedError(PreservationError):
    """The compressed detector finds other objects by more than is allowed."""


class GenerationNotPreservedError(PreservationError):
    """The compressed model generates something else by more than is allowed."""


class ReconstructionNotPreservedError(PreservationError):
    """Decoded data differs from the original by more than is allowed."""


class FootprintNotReducedError(PreservationError):
    """The compressed model is not as much smaller or faster as required."""


class PipelineNotFasterError(PreservationError):
    """The compressed pipeline, from stored data to answers, is not as fast as required."""


class ComparisonNotPreservedError(PreservationError):
    """A comparison or a measurement of the user's own does not hold what is required of it."""


class BaselineError(PreservationError):
    """A check is worse than its baseline, has no baseline, or its baseline was measured on other subjects."""
