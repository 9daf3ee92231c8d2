"""One front door: a model from whatever file it comes in, told by content."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from cp_compress.artifacts.filling import Factory, make_model
from cp_compress.artifacts.guards import MAX_BYTES, check_max_bytes, opened, told
from cp_compress.artifacts.onnx_models import load_onnx
from cp_compress.artifacts.recognition import recognise
from cp_compress.artifacts.tensor_files import load_safetensors
from cp_compress.base.arguments import reject
from cp_compress.base.errors import ArtifactError
from cp_compress.fidelity.running import Model

_OWNER = "read_artifact"
_OPTIONS: dict[str, tuple[str, ...]] = {
    "onnx": ("input", "output", "providers"),
    "safetensors": ("factory", "dtype"),
    "cp": ("factory",),
}


def read_artifact(
    path: str | os.PathLike[str], *, factory: Factory | None = None, max_bytes: int = MAX_BYTES, **options: Any
) -> Model:
    """Return the model that a file or folder holds, whatever its name says.

    Raises InvalidArgumentError for options that the kind of file found does not take.
    """
    check_max_bytes(_OWNER, max_bytes)
    kind = recognise(path, max_bytes)
    given = {name: value for name, value in {"factory": factory, **options}.items() if value is not None}
    for name, value in given.items():
        if name not in _OPTIONS.get(kind, ()):
            reject(_OWNER, name, value, f"{os.fspath(path)} holds {kind}, which takes no such option")
    return _READERS[kind](path, max_bytes=max_bytes, **given)


def _load_cp(path: str | os.PathLike[str], *, max_bytes: int, factory: Factory | None = None) -> Model:
    from cp_compress.model import load

    with opened(path, max_bytes):
        model = make_model(_OWNER, factory)
        with told(path, "reading it"):
            return load(path, model).eval()


def _refuse_data(path: str | os.PathLike[str], **options: Any) -> Model:
    raise ArtifactError(path, "holds arrays, which are data and no model: read them by read_examples")


_READERS: dict[str, Callable[..., Model]] = {
    "onnx": load_onnx,
    "safetensors": load_safetensors,
    "cp": _load_cp,
    "npz": _refuse_data,
}
