"""An equivalent of a model of another runtime: itself with its weights rounded, as a measure of noise."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from cp_compress.artifacts.exported_programs.models import load_exported
from cp_compress.artifacts.guards import MAX_BYTES
from cp_compress.artifacts.recognition import recognise
from cp_compress.base.digests import digest_text
from cp_compress.base.errors import ArtifactError

if TYPE_CHECKING:
    from cp_compress.fidelity.observing.runner import Model


def read_rounded(path: str | os.PathLike[str], device: str = "cpu") -> Model:
    """Return the model of an ONNX file or an exported program with weights rounded to bfloat16, computing as before.

    These are the tensors of two dimensions or more, as the scheme "quantize(bfloat16)" rounds those of a module.
    Raises ArtifactError for files of another kind, and where no weight changes, as in a graph of whole numbers.
    """
    kind = recognise(path, MAX_BYTES)
    if kind == "onnx":
        from cp_compress.artifacts.onnx.models import load_graph

        return load_graph(path, change=lambda content: _rounded_graph(content, path))
    if kind != "exported":
        raise ArtifactError(path, "is neither an ONNX file nor an exported program, whose weights can be rounded")
    model = load_exported(path, device=device)
    changed = False
    with torch.no_grad():
        for weight in model.parameters():
            rounded = _rounded(weight)
            changed = changed or not torch.equal(rounded, weight)
            weight.copy_(rounded)
    _require_change(changed, path)
    model.content_digest = digest_text(model.content_digest, "bfloat16")
    return model


def _rounded_graph(content: bytes, path: str | os.PathLike[str]) -> bytes:
    import onnx
    from onnx import numpy_helper

    model: Any = onnx.ModelProto.FromString(content)
    changed = False
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1 and tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
            if tensor.external_data:
                told = "keeps weights in other files, which are not rounded: save it as one file, or name an equivalent"
                raise ArtifactError(path, told)
            before = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            after = _rounded(before)
            changed = changed or not torch.equal(before, after)
            tensor.CopyFrom(numpy_helper.from_array(after.numpy(), tensor.name))
    _require_change(changed, path)
    found: bytes = model.SerializeToString()
    return found


def _rounded(weight: torch.Tensor) -> torch.Tensor:
    wide = weight.ndim > 1 and weight.dtype in (torch.float32, torch.float64)
    return weight.to(torch.bfloat16).to(weight.dtype) if wide else weight


def _require_change(changed: bool, path: str | os.PathLike[str]) -> None:
    if not changed:
        raise ArtifactError(path, "holds no weights of float32 or float64 that rounding would change")
