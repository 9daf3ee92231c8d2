"""How are models and data read from files that others have made?

Everything is imported when it is first used. No file is trusted: reading one never runs code that it contains, unless
`allow_pickle=True` permits it, and a damaged, hostile or too large file is an ArtifactError that names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cp_compress.base.lazy import lazy_exports

if TYPE_CHECKING:
    from cp_compress.artifacts.examples import ArrayExamples as ArrayExamples
    from cp_compress.artifacts.examples import ImageFolder as ImageFolder
    from cp_compress.artifacts.examples import read_examples as read_examples
    from cp_compress.artifacts.exported_programs.models import ExportedModel as ExportedModel
    from cp_compress.artifacts.exported_programs.models import load_exported as load_exported
    from cp_compress.artifacts.observations.language import observe_language_to_file as observe_language_to_file
    from cp_compress.artifacts.observations.loading import load_language_observation as load_language_observation
    from cp_compress.artifacts.observations.loading import load_observation as load_observation
    from cp_compress.artifacts.observations.saving import save_observation as save_observation
    from cp_compress.artifacts.observations.streaming import observe_to_file as observe_to_file
    from cp_compress.artifacts.onnx.models import OnnxModel as OnnxModel
    from cp_compress.artifacts.onnx.models import load_onnx as load_onnx
    from cp_compress.artifacts.programs import ProgramModel as ProgramModel
    from cp_compress.artifacts.reading import read_artifact as read_artifact
    from cp_compress.artifacts.served.models import ServedModel as ServedModel
    from cp_compress.artifacts.serving import served_levels as served_levels
    from cp_compress.artifacts.transformers.detectors import TransformerDetector as TransformerDetector
    from cp_compress.artifacts.transformers.models import TransformerModel as TransformerModel
    from cp_compress.artifacts.transformers.models import load_transformer as load_transformer
    from cp_compress.artifacts.transformers.pooling import TransformerEmbedding as TransformerEmbedding
    from cp_compress.artifacts.weights.safetensors_files import load_safetensors as load_safetensors
    from cp_compress.artifacts.weights.torch_files import load_torch as load_torch
    from cp_compress.base.errors import ArtifactError as ArtifactError

_MODULES = {
    "ArrayExamples": "examples",
    "ExportedModel": "exported_programs.models",
    "ImageFolder": "examples",
    "OnnxModel": "onnx.models",
    "ProgramModel": "programs",
    "ServedModel": "served.models",
    "TransformerDetector": "transformers.detectors",
    "TransformerEmbedding": "transformers.pooling",
    "TransformerModel": "transformers.models",
    "load_exported": "exported_programs.models",
    "load_language_observation": "observations.loading",
    "load_observation": "observations.loading",
    "load_onnx": "onnx.models",
    "load_safetensors": "weights.safetensors_files",
    "load_torch": "weights.torch_files",
    "load_transformer": "transformers.models",
    "observe_language_to_file": "observations.language",
    "observe_to_file": "observations.streaming",
    "read_artifact": "reading",
    "read_examples": "examples",
    "save_observation": "observations.saving",
    "served_levels": "serving",
}
_PATHS = {name: f"{__name__}.{module}" for name, module in _MODULES.items()}
_PATHS["ArtifactError"] = "cp_compress.base.errors"
__all__ = sorted(_PATHS)
__getattr__, __dir__ = lazy_exports(__name__, _PATHS)
