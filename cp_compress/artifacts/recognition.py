"""The kind of a file, recognised by its content because its name is not reliable."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from cp_compress.artifacts.archives import ZIP_MAGIC, open_archive
from cp_compress.artifacts.arrays import MAGIC as NPY_MAGIC
from cp_compress.artifacts.guards import opened
from cp_compress.artifacts.weights.safetensors_files import read_header, read_whole_header
from cp_compress.base.errors import ArtifactError

# what a person may well hand to a gate, and what to do instead
_REFUSED = (
    (0, b"\x7fELF", "is a program or library for Linux: run it through ProgramModel"),
    (0, b"MZ", "is a program or library for Windows: run it through ProgramModel"),
    (0, b"#!", "is a script: run it through ProgramModel"),
    (0, b"\x1f\x8b", "is packed by gzip: unpack it first"),
    (0, b"\x89HDF", "is an HDF5 file, as Keras writes it: export the model to ONNX, or run it through ProgramModel"),
    (0, b"GGUF", "is a GGUF file: run it through ProgramModel"),
    (4, b"TFL3", "is a TensorFlow Lite file: run it through ProgramModel"),
    (4, b"ORTM", "is an ORT file: give the ONNX file that it was made from"),
    (257, b"ustar", "is a tar archive: unpack it first"),
)
_HEAD = 512
OBSERVATION = "cp_observation"
"""The key of the metadata of a safetensors file that holds a frozen observation."""
_PICKLE = b"\x80"


def recognise(path: str | os.PathLike[str], max_bytes: int) -> str:
    """Return what a path holds: transformers, exported, torch, npz, safetensors, cp, observation, or onnx.

    A folder is "transformers" when it has a config.json; a file is told by its first bytes and the names in it, and
    "onnx", which has no mark, is what is left. Raises ArtifactError for anything else.
    """
    if Path(path).is_dir():
        if not Path(path, "config.json").is_file():
            raise ArtifactError(path, "is a folder without a config.json: not a model of Hugging Face's transformers")
        return "transformers"
    with opened(path, max_bytes) as file:
        head = file.read(_HEAD)
        for offset, mark, told in _REFUSED:
            if head[offset:].startswith(mark):
                raise ArtifactError(path, told)
        if head.startswith(ZIP_MAGIC):
            return _kind_of_archive(file, path, max_bytes)
        if head.startswith(NPY_MAGIC):
            raise ArtifactError(path, "is a single .npy array: give data as a .npz file of inputs and labels")
        if head.startswith(_PICKLE) and not _has_header(file, path):
            return "torch"
        if head[8:9] == b"{":
            return _kind_of_tensors(read_whole_header(file, path))
    if head[:1] not in (b"\x08", b"\x12", b"\x1a", b"\x3a", b"\x42"):  # the first field of a protobuf ModelProto
        raise ArtifactError(path, f"begins with {head[:8]!r}, which is not a supported kind")
    return "onnx"


def _kind_of_tensors(header: Mapping[str, Any]) -> str:
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict) and OBSERVATION in metadata:
        return "observation"
    return "cp" if {"table", "sha256"} <= set(header) else "safetensors"


def _has_header(file: BinaryIO, path: str | os.PathLike[str]) -> bool:
    """Tell whether a file that begins as a pickle does is safetensors, whose first byte is that of a length.

    What is taken for safetensors is read by its library, which unpickles nothing.
    """
    try:
        return all(isinstance(entry, dict) for entry in read_header(file, path).values())
    except ArtifactError:
        return False


def _kind_of_archive(file: BinaryIO, path: str | os.PathLike[str], max_bytes: int) -> str:
    names = open_archive(file, path, max_bytes).namelist()
    inner = {name.partition("/")[2] for name in names}
    if "serialized_exported_program.json" in names:
        raise ArtifactError(path, "is an exported program of torch before 2.8: export it again with a newer one")
    if "archive_format" in inner or any(name.startswith("models/") for name in inner):
        return "exported"
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise ArtifactError(path, "is a TorchScript archive, which holds code of its own: export it by torch.export")
    if "data.pkl" in inner:
        return "torch"
    if all(name.endswith(".npy") for name in names):
        return "npz"
    raise ArtifactError(path, "is a zip archive of an unsupported kind")
