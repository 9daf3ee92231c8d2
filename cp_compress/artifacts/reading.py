"""One entry point: a model from a file of any kind, recognised by its content."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cp_compress.artifacts.guards import MAX_BYTES, check_max_bytes, opened, told
from cp_compress.artifacts.recognition import recognise
from cp_compress.artifacts.weights.filling import Factory, make_model
from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.errors import ArtifactError

if TYPE_CHECKING:
    from cp_compress.fidelity.observing.runner import Model

_OWNER = "read_artifact"
# imported when a file of their kind is read: each needs a library of its own
_READERS = {
    "transformers": ("transformers.models", "load_transformer"),
    "exported": ("exported_programs.models", "load_exported"),
    "torch": ("weights.torch_files", "load_torch"),
    "safetensors": ("weights.safetensors_files", "load_safetensors"),
    "onnx": ("onnx.models", "load_onnx"),
    "observation": ("observations.loading", "read_observation"),
}
_TAKEN: dict[str, tuple[str, ...]] = {
    "transformers": ("task", "pooling", "adapter", "merge_adapter"),
    "exported": ("layers", "device", "allow_pickle"),
    "torch": ("factory", "key", "dtype", "allow_pickle"),
    "safetensors": ("factory", "dtype"),
    "cp": ("factory",),
    "onnx": ("input", "output", "providers"),
    "observation": (),
    "npz": (),
}


@explains_keywords
def read_artifact(
    path: str | os.PathLike[str],
    *,
    factory: Factory | None = None,
    dtype: str | None = None,
    key: str | None = None,
    input: str | Sequence[str] | None = None,
    output: str | None = None,
    providers: Sequence[str] | None = None,
    layers: bool = False,
    device: str | None = None,
    task: str | None = None,
    pooling: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    merge_adapter: bool = False,
    allow_pickle: bool = False,
    max_bytes: int = MAX_BYTES,
) -> Model:
    """Return the model that a file or folder holds, a callable that maps a batch (n, ...) to logits or what it is for.

    The kind is recognised by content, not by name: a program of `torch.export` (`load_exported`), a `torch.save` file
    (`load_torch`), safetensors (`load_safetensors`), a `.cp` file of `cp_compress.model.save`, ONNX (`load_onnx`), an
    observation (`load_observation`), which stands for a model, or a folder of transformers (`load_transformer`). An
    argument that does not apply to the kind is refused.

    Args:
        path: The file or folder.
        max_bytes: The largest size of the file, also when unpacked.

    Args: Tensors for a model of the user's own
        factory: A function without arguments, or "package.module:factory", that makes the architecture; for torch,
            safetensors and `.cp` files.
        dtype: What to do if a floating-point tensor has another dtype in the file: "equal", "model" or "file"; for
            torch and safetensors files.
        key: The entry of a checkpoint that holds the state dict; for torch files.
        allow_pickle: Whether the file may run code when it is read; for torch files and exported programs.

    Args: Graphs and programs
        input: The expected name of the input, or the names of all, as `load_onnx` takes them; for ONNX.
        output: The name of the only output that is read; for ONNX.
        providers: Execution providers of onnxruntime; for ONNX.
        layers: Whether to restore named modules; for exported programs.
        device: Where to run; for exported programs.

    Args: Folders of transformers
        task: What the network is for, as `load_transformer` takes it.
        pooling: How an encoder's outputs become embeddings.
        adapter: The folder of a LoRA.
        merge_adapter: Whether it is merged into the weights.

    Returns:
        The model.

    Raises:
        ArtifactError: If the file is damaged, too large, of an unknown kind, or could be read only by running code that
            `allow_pickle` does not permit. The file is named.
        InvalidArgumentError: If an argument is not as described, or does not apply to the kind.
    """
    limit = check_max_bytes(_OWNER, max_bytes)
    if type(allow_pickle) is not bool:
        reject(_OWNER, "allow_pickle", allow_pickle, "must be True or False")
    kind = recognise(path, limit)
    asked: dict[str, Any] = {"factory": factory, "dtype": dtype, "key": key, "input": input, "output": output}
    asked |= {"providers": providers, "device": device, "layers": layers or None}
    asked |= {"task": task, "pooling": pooling, "adapter": adapter, "merge_adapter": merge_adapter or None}
    given = {name: value for name, value in asked.items() if value is not None}
    for name, value in given.items():
        if name not in _TAKEN[kind]:
            reject(_OWNER, name, value, f"{os.fspath(path)} holds {kind}, which does not take this argument")
    if "allow_pickle" in _TAKEN[kind]:  # permission to read pickles does no harm where there are none
        given["allow_pickle"] = allow_pickle
    model: Model = _reader(kind)(path, max_bytes=limit, **given)
    return model


def _reader(kind: str) -> Callable[..., Any]:
    if kind in _OWN:
        return _OWN[kind]
    module, name = _READERS[kind]
    reader: Callable[..., Any] = getattr(importlib.import_module(f"cp_compress.artifacts.{module}"), name)
    return reader


def _load_cp(path: str | os.PathLike[str], *, max_bytes: int, factory: Factory | None = None) -> Model:
    from cp_compress.model import load

    with opened(path, max_bytes):
        model = make_model(_OWNER, factory, path)
    with told(path, "reading it"):
        return load(path, model).eval()


def _refuse_data(path: str | os.PathLike[str], *, max_bytes: int) -> Model:
    raise ArtifactError(path, "holds arrays, which are data and not a model: use read_examples")


_OWN: dict[str, Callable[..., Any]] = {"cp": _load_cp, "npz": _refuse_data}
