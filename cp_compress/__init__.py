"""Compress models and data sets, and measure what that changes in behaviour.

Everything is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cp_compress.base.lazy import lazy_exports

if TYPE_CHECKING:
    from cp_compress.artifacts import ServedModel as ServedModel
    from cp_compress.artifacts import load_observation as load_observation
    from cp_compress.artifacts import save_observation as save_observation
    from cp_compress.base.errors import ArtifactError as ArtifactError
    from cp_compress.base.errors import CompressionError as CompressionError
    from cp_compress.base.errors import CorruptStreamError as CorruptStreamError
    from cp_compress.base.errors import FactoryError as FactoryError
    from cp_compress.base.errors import InvalidArgumentError as InvalidArgumentError
    from cp_compress.base.errors import MissingExtraError as MissingExtraError
    from cp_compress.base.errors import NoEffectError as NoEffectError
    from cp_compress.base.errors import NothingComparedError as NothingComparedError
    from cp_compress.base.errors import ObservationError as ObservationError
    from cp_compress.base.errors import TrainingError as TrainingError
    from cp_compress.data import JPEG as JPEG
    from cp_compress.data import ZFP as ZFP
    from cp_compress.data import CompressedDataset as CompressedDataset
    from cp_compress.data import StoredDataset as StoredDataset
    from cp_compress.data import parse_codec as parse_codec
    from cp_compress.data import verify_store as verify_store
    from cp_compress.data import write_store as write_store
    from cp_compress.fidelity import Requirement as Requirement
    from cp_compress.fidelity import boundary_distances as boundary_distances
    from cp_compress.fidelity import compare as compare
    from cp_compress.fidelity import compare_attributions as compare_attributions
    from cp_compress.fidelity import compare_boundaries as compare_boundaries
    from cp_compress.fidelity import compare_concepts as compare_concepts
    from cp_compress.fidelity import compare_detections as compare_detections
    from cp_compress.fidelity import compare_divergence as compare_divergence
    from cp_compress.fidelity import compare_embeddings as compare_embeddings
    from cp_compress.fidelity import compare_generation as compare_generation
    from cp_compress.fidelity import compare_language as compare_language
    from cp_compress.fidelity import compare_outputs as compare_outputs
    from cp_compress.fidelity import compare_pointing as compare_pointing
    from cp_compress.fidelity import compare_predictions as compare_predictions
    from cp_compress.fidelity import compare_reconstruction as compare_reconstruction
    from cp_compress.fidelity import compare_retrieval as compare_retrieval
    from cp_compress.fidelity import find_divergence as find_divergence
    from cp_compress.fidelity import find_origin as find_origin
    from cp_compress.fidelity import judge as judge
    from cp_compress.fidelity import noise_floor as noise_floor
    from cp_compress.fidelity import observe as observe
    from cp_compress.fidelity.robustness import compare_robustness as compare_robustness
    from cp_compress.inputs.detection import DetectionData as DetectionData
    from cp_compress.inputs.prompts import GenerationData as GenerationData
    from cp_compress.inputs.retrieval import RetrievalData as RetrievalData
    from cp_compress.inputs.tasks import TaskDataset as TaskDataset
    from cp_compress.inputs.unlabeled import Unlabeled as Unlabeled
    from cp_compress.model import BlockPrune as BlockPrune
    from cp_compress.model import CalibrationData as CalibrationData
    from cp_compress.model import Compose as Compose
    from cp_compress.model import FilterPrune as FilterPrune
    from cp_compress.model import FixedPoint as FixedPoint
    from cp_compress.model import LowRank as LowRank
    from cp_compress.model import NeuronPrune as NeuronPrune
    from cp_compress.model import NMPrune as NMPrune
    from cp_compress.model import Prune as Prune
    from cp_compress.model import Quantize as Quantize
    from cp_compress.model import StructurePrune as StructurePrune
    from cp_compress.model import compress as compress
    from cp_compress.model import compression_report as compression_report
    from cp_compress.model import footprint as footprint
    from cp_compress.model import load as load
    from cp_compress.model import lower as lower
    from cp_compress.model import parse_scheme as parse_scheme
    from cp_compress.model import save as save
    from cp_compress.model import to_semi_structured as to_semi_structured
    from cp_compress.pipeline import profile_pipeline as profile_pipeline
    from cp_compress.search import CodecSpace as CodecSpace
    from cp_compress.search import adapt as adapt
    from cp_compress.search import find_smallest as find_smallest
    from cp_compress.search import recalibrate_batchnorm as recalibrate_batchnorm
    from cp_compress.search import write_preserved_store as write_preserved_store

__version__ = "0.1.0"
_PACKAGES = {
    "base.errors": (
        "ArtifactError",
        "CompressionError",
        "CorruptStreamError",
        "FactoryError",
        "InvalidArgumentError",
        "MissingExtraError",
        "NoEffectError",
        "NothingComparedError",
        "ObservationError",
        "TrainingError",
    ),
    "inputs.detection": ("DetectionData",),
    "inputs.prompts": ("GenerationData",),
    "inputs.retrieval": ("RetrievalData",),
    "inputs.tasks": ("TaskDataset",),
    "inputs.unlabeled": ("Unlabeled",),
    "artifacts": ("ServedModel", "load_observation", "save_observation"),
    "data": ("JPEG", "ZFP", "CompressedDataset", "StoredDataset", "parse_codec", "verify_store", "write_store"),
    "fidelity": (
        "Requirement",
        "boundary_distances",
        "compare",
        "compare_attributions",
        "compare_boundaries",
        "compare_concepts",
        "compare_detections",
        "compare_divergence",
        "compare_embeddings",
        "compare_generation",
        "compare_language",
        "compare_outputs",
        "compare_pointing",
        "compare_predictions",
        "compare_reconstruction",
        "compare_retrieval",
        "find_divergence",
        "find_origin",
        "judge",
        "noise_floor",
        "observe",
    ),
    "model": (
        "BlockPrune",
        "CalibrationData",
        "Compose",
        "FilterPrune",
        "FixedPoint",
        "LowRank",
        "NMPrune",
        "NeuronPrune",
        "Prune",
        "Quantize",
        "StructurePrune",
        "compress",
        "compression_report",
        "footprint",
        "load",
        "lower",
        "parse_scheme",
        "save",
        "to_semi_structured",
    ),
    "fidelity.robustness": ("compare_robustness",),
    "pipeline": ("profile_pipeline",),
    "search": ("CodecSpace", "adapt", "find_smallest", "recalibrate_batchnorm", "write_preserved_store"),
}
_MODULES = {name: f"{__name__}.{package}" for package, names in _PACKAGES.items() for name in names}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
