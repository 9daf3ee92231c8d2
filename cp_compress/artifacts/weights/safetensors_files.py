"""safetensors files, which hold tensors and no code, filled into a model of the user's own factory."""

from __future__ import annotations

import os
from typing import Any, BinaryIO

from torch import nn

from cp_compress.artifacts.guards import MAX_BYTES, check_max_bytes, opened, size_of, told
from cp_compress.artifacts.weights.filling import DTYPES, Factory, fill, make_model
from cp_compress.base.arguments import check_choice, explains_keywords
from cp_compress.base.documents import read_document
from cp_compress.base.errors import ArtifactError

_OWNER = "load_safetensors"
_LARGEST_HEADER = 100_000_000  # as the format's own library has it


@explains_keywords
def load_safetensors(
    path: str | os.PathLike[str], factory: Factory | None = None, *, dtype: str = "equal", max_bytes: int = MAX_BYTES
) -> nn.Module:
    """Return the factory's model with the tensors of a safetensors file, in evaluation mode.

    The model's `load_state_dict` takes the tensors, with all its hooks: their names must be those that it takes, and
    their shapes those of its `state_dict`; tied tensors may be stored once.

    Args:
        path: The file.
        factory: A function without arguments, or "package.module:factory", that makes the architecture.
        dtype: What to do if a floating-point tensor has another dtype in the file: "equal" refuses it, "model" converts
            the values to the model's dtype, "file" changes the model to the file's dtype, in which it then computes.
            Other dtypes must be equal.
        max_bytes: The largest size of the file.

    Returns:
        The filled model.

    Raises:
        ArtifactError: If the file is damaged, too large, or does not fit the model. The file is named.
        InvalidArgumentError: If an argument is not as described.

    >>> import tempfile, torch
    >>> from safetensors.torch import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, f"{folder}/model.safetensors")
    ...     load_safetensors(f"{folder}/model.safetensors", lambda: nn.Linear(2, 1)).weight.tolist()
    [[1.0, 1.0]]
    """
    import safetensors.torch

    check_choice(_OWNER, "dtype", dtype, DTYPES)
    with opened(path, check_max_bytes(_OWNER, max_bytes)) as file:
        read_header(file, path)
        model = make_model(_OWNER, factory, path)
        file.seek(0)
        with told(path, "reading it as safetensors"):
            tensors = safetensors.torch.load(file.read())
    return fill(model, tensors, dtype, path)


def read_header(file: BinaryIO, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the header of an open safetensors file: its tensors by name; raises ArtifactError for anything else."""
    return {name: value for name, value in read_whole_header(file, path).items() if name != "__metadata__"}


def read_whole_header(file: BinaryIO, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the header of an open safetensors file with its `__metadata__`; raises as `read_header`."""
    file.seek(0)
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    room = size_of(file) - 8
    if len(prefix) < 8 or length > room:
        raise ArtifactError(path, f"is not a complete safetensors file: its header would have {length:,} bytes")
    if length > _LARGEST_HEADER:
        raise ArtifactError(path, f"has a header of {length:,} bytes; at most {_LARGEST_HEADER:,} are allowed")
    try:
        header = read_document(file.read(length))
    except ValueError as error:
        raise ArtifactError(path, f"has a header that is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise ArtifactError(path, "has a header that does not list tensors")
    return header
