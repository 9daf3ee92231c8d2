"""A pytest plugin that checks whether a compressed model still behaves like the original.

Everything is imported on first use: `import pytest_cp` loads neither torch nor Hypothesis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cp_compress.base.lazy import lazy_exports
from pytest_cp.assertions import ASSERTIONS

if TYPE_CHECKING:
    from pytest_cp.assertions.attributions import assert_attribution_iou as assert_attribution_iou
    from pytest_cp.assertions.attributions import check_attribution_iou as check_attribution_iou
    from pytest_cp.assertions.boundaries import assert_boundary_distance as assert_boundary_distance
    from pytest_cp.assertions.boundaries import check_boundary_distance as check_boundary_distance
    from pytest_cp.assertions.comparison import assert_comparison as assert_comparison
    from pytest_cp.assertions.comparison import check_comparison as check_comparison
    from pytest_cp.assertions.concepts import assert_concepts_preserved as assert_concepts_preserved
    from pytest_cp.assertions.concepts import check_concepts_preserved as check_concepts_preserved
    from pytest_cp.assertions.detections import assert_detections_preserved as assert_detections_preserved
    from pytest_cp.assertions.detections import check_detections_preserved as check_detections_preserved
    from pytest_cp.assertions.divergence import assert_no_divergence as assert_no_divergence
    from pytest_cp.assertions.divergence import check_no_divergence as check_no_divergence
    from pytest_cp.assertions.embeddings import assert_embeddings_preserved as assert_embeddings_preserved
    from pytest_cp.assertions.embeddings import check_embeddings_preserved as check_embeddings_preserved
    from pytest_cp.assertions.end_to_end import assert_end_to_end as assert_end_to_end
    from pytest_cp.assertions.end_to_end import check_end_to_end as check_end_to_end
    from pytest_cp.assertions.footprint import assert_footprint as assert_footprint
    from pytest_cp.assertions.footprint import check_footprint as check_footprint
    from pytest_cp.assertions.generation import assert_generation_preserved as assert_generation_preserved
    from pytest_cp.assertions.generation import check_generation_preserved as check_generation_preserved
    from pytest_cp.assertions.language import assert_language_preserved as assert_language_preserved
    from pytest_cp.assertions.language import check_language_preserved as check_language_preserved
    from pytest_cp.assertions.measurement import assert_measurement as assert_measurement
    from pytest_cp.assertions.measurement import check_measurement as check_measurement
    from pytest_cp.assertions.outputs import assert_outputs_preserved as assert_outputs_preserved
    from pytest_cp.assertions.outputs import check_outputs_preserved as check_outputs_preserved
    from pytest_cp.assertions.pointing import assert_pointing as assert_pointing
    from pytest_cp.assertions.pointing import check_pointing as check_pointing
    from pytest_cp.assertions.predictions import assert_preserved_predictions as assert_preserved_predictions
    from pytest_cp.assertions.predictions import check_preserved_predictions as check_preserved_predictions
    from pytest_cp.assertions.reconstruction import assert_reconstruction as assert_reconstruction
    from pytest_cp.assertions.reconstruction import check_reconstruction as check_reconstruction
    from pytest_cp.assertions.retrieval import assert_retrieval_preserved as assert_retrieval_preserved
    from pytest_cp.assertions.retrieval import check_retrieval_preserved as check_retrieval_preserved
    from pytest_cp.assertions.robustness import assert_robustness as assert_robustness
    from pytest_cp.assertions.robustness import check_robustness as check_robustness
    from pytest_cp.directions import direction_batches as direction_batches
    from pytest_cp.errors import AttributionsNotPreservedError as AttributionsNotPreservedError
    from pytest_cp.errors import BaselineError as BaselineError
    from pytest_cp.errors import BoundariesNotPreservedError as BoundariesNotPreservedError
    from pytest_cp.errors import ComparisonNotPreservedError as ComparisonNotPreservedError
    from pytest_cp.errors import ConceptsNotPreservedError as ConceptsNotPreservedError
    from pytest_cp.errors import DetectionsNotPreservedError as DetectionsNotPreservedError
    from pytest_cp.errors import DivergenceFoundError as DivergenceFoundError
    from pytest_cp.errors import EmbeddingsNotPreservedError as EmbeddingsNotPreservedError
    from pytest_cp.errors import FootprintNotReducedError as FootprintNotReducedError
    from pytest_cp.errors import GenerationNotPreservedError as GenerationNotPreservedError
    from pytest_cp.errors import LanguageNotPreservedError as LanguageNotPreservedError
    from pytest_cp.errors import NothingComparedError as NothingComparedError
    from pytest_cp.errors import OutputsNotPreservedError as OutputsNotPreservedError
    from pytest_cp.errors import PipelineNotFasterError as PipelineNotFasterError
    from pytest_cp.errors import PointingNotPreservedError as PointingNotPreservedError
    from pytest_cp.errors import PredictionsNotPreservedError as PredictionsNotPreservedError
    from pytest_cp.errors import PreservationError as PreservationError
    from pytest_cp.errors import ReconstructionNotPreservedError as ReconstructionNotPreservedError
    from pytest_cp.errors import RetrievalNotPreservedError as RetrievalNotPreservedError
    from pytest_cp.errors import RobustnessNotPreservedError as RobustnessNotPreservedError

_ERRORS = (
    "AttributionsNotPreservedError",
    "BaselineError",
    "BoundariesNotPreservedError",
    "ComparisonNotPreservedError",
    "ConceptsNotPreservedError",
    "DetectionsNotPreservedError",
    "DivergenceFoundError",
    "EmbeddingsNotPreservedError",
    "FootprintNotReducedError",
    "GenerationNotPreservedError",
    "LanguageNotPreservedError",
    "OutputsNotPreservedError",
    "NothingComparedError",
    "PipelineNotFasterError",
    "PointingNotPreservedError",
    "PredictionsNotPreservedError",
    "PreservationError",
    "ReconstructionNotPreservedError",
    "RetrievalNotPreservedError",
    "RobustnessNotPreservedError",
)
_MODULES = {
    **{f"{verb}_{name}": f"assertions.{home}" for verb in ("assert", "check") for home, name in ASSERTIONS.items()},
    **dict.fromkeys(_ERRORS, "errors"),
    "direction_batches": "directions",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, {name: f"{__name__}.{module}" for name, module in _MODULES.items()})
