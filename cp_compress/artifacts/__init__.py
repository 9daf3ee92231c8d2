"""Models and data from files that others have made, and programs as models.

Everything is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cp_compress.base.lazy import lazy_exports

if TYPE_CHECKING:
    from cp_compress.artifacts.onnx_models import OnnxModel as OnnxModel
    from cp_compress.artifacts.onnx_models import load_onnx as load_onnx
    from cp_compress.artifacts.programs import ProgramModel as ProgramModel
    from cp_compress.artifacts.reading import read_artifact as read_artifact
    from cp_compress.artifacts.tensor_files import load_safetensors as load_safetensors

_MODULES = {
    "OnnxModel": "onnx_models",
    "ProgramModel": "programs",
    "load_onnx": "onnx_models",
    "load_safetensors": "tensor_files",
    "read_artifact": "reading",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, {name: f"{__name__}.{module}" for name, module in _MODULES.items()})
