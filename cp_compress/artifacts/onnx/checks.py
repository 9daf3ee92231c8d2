"""The tensors that an ONNX file stores in other files, which must be regular files beside it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from cp_compress.artifacts.guards import opened, size_of, told
from cp_compress.base.digests import digest_file, digest_text, start_digest
from cp_compress.base.error_reasons import reason_of, shortened
from cp_compress.base.errors import ArtifactError, MissingExtraError

if TYPE_CHECKING:
    import onnx

_DEEPEST = 64
_FILE_OPERATORS = ("EPContext",)  # names a file that holds a graph compiled for an accelerator


@dataclass(frozen=True)
class CheckedGraph:
    """An ONNX file that was looked through: digest and size in bytes with external tensors, and their files' names.

    `weight_dtypes` are the number of tensors of two dimensions or more, and that of their values, by dtype.
    """

    digest: str
    external: tuple[str, ...]
    weight_dtypes: Mapping[str, tuple[int, int]]
    size: int


def check_graph(content: bytes, path: str | os.PathLike[str], max_bytes: int) -> CheckedGraph:
    """Look through the bytes of an ONNX file at `path`.

    Raises ArtifactError for what is no ONNX graph, for external tensors whose files are not regular ones in the
    file's own folder, or that make it larger than `max_bytes`, and for operators that open files of their own.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("reading ONNX files", "onnx") from error
    with told(path, "reading it as ONNX"):
        model = onnx.ModelProto.FromString(content)
    if not model.graph.node or not model.ir_version:
        raise ArtifactError(path, "is not an ONNX file: it has no graph")
    named = {number: name for name, number in onnx.TensorProto.DataType.items()}
    names: dict[str, None] = {}
    weights: dict[str, tuple[int, int]] = {}
    for tensor in _tensors(model, path):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            names[_location(tensor, path)] = None
        if len(tensor.dims) > 1:
            dtype = _dtype_name(named.get(tensor.data_type, "unknown"))
            count, values = weights.get(dtype, (0, 0))
            weights[dtype] = count + 1, values + math.prod(tensor.dims)
    digest = start_digest()
    digest.update(content)
    parts, total = [digest.hexdigest()], len(content)
    for name in names:
        beside = _inside(path, name)
        with opened(beside, max_bytes) as file:
            total += size_of(file)
            if total > max_bytes:
                raise ArtifactError(path, f"has more than {max_bytes:,} bytes with its external tensors (max_bytes=)")
            parts += [name, digest_file(file)]
    return CheckedGraph(digest_text(*parts), tuple(names), weights, total)


def describe_tensors(
    content: bytes, path: str | os.PathLike[str]
) -> tuple[dict[str, Any], list[tuple[str, str, tuple[int, ...], int]]]:
    """Return what a graph that `check_graph` looked through says of itself, and its initializers.

    Each initializer is its name, dtype, shape and size in bytes.
    """
    import onnx

    with told(path, "reading it as ONNX"):
        model = onnx.ModelProto.FromString(content)
    named = {number: name for name, number in onnx.TensorProto.DataType.items()}
    made = f"{model.producer_name} {model.producer_version}".strip()
    operators = Counter(node.op_type for node in model.graph.node)
    facts = {
        "IR version": model.ir_version,
        "operator sets": ", ".join(f"{one.domain or 'ai.onnx'} {one.version}" for one in model.opset_import),
        "made by": shortened(made, 120) if made else "not said",
        "inputs": shortened(", ".join(_signature(one, named) for one in model.graph.input), 300),
        "outputs": shortened(", ".join(_signature(one, named) for one in model.graph.output), 300),
        "operators": shortened(", ".join(f"{count} {name}" for name, count in operators.most_common()), 300),
    }
    facts |= {f"metadata: {shortened(one.key, 60)}": shortened(one.value, 200) for one in model.metadata_props}
    rows = []
    for tensor in model.graph.initializer:
        dtype, count = _dtype_name(named.get(tensor.data_type, "unknown")), math.prod(tensor.dims)
        rows.append((shortened(tensor.name, 200), dtype, tuple(tensor.dims), _bytes_of(tensor, count)))
    return facts, rows


def _signature(value: Any, named: Mapping[int, str]) -> str:
    kind = value.type.tensor_type
    shape = ", ".join(one.dim_param or str(one.dim_value) for one in kind.shape.dim)
    return f"{value.name} {_dtype_name(named.get(kind.elem_type, 'unknown'))} ({shape})"


def _bytes_of(tensor: onnx.TensorProto, count: int) -> int:
    """Return the bytes of a tensor's values: of what it holds, or of what its dtype takes where they lie elsewhere."""
    if tensor.raw_data:
        return len(tensor.raw_data)
    from onnx import helper

    return count * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _dtype_name(name: str) -> str:
    """Return torch's name of a dtype of ONNX."""
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(name, name.lower())


def _location(tensor: onnx.TensorProto, path: str | os.PathLike[str]) -> str:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(entries) != len(tensor.external_data) or not entries.get("location"):
        raise ArtifactError(path, f"does not state where its tensor {shortened(tensor.name, 80)} is stored")
    return str(entries["location"])


def _inside(path: str | os.PathLike[str], name: str) -> Path:
    """Return the path of an external file; raises ArtifactError unless it lies in the folder of the file at `path`."""
    folder = Path(path).resolve().parent
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    outside = bool(posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts or "\0" in name)
    try:
        outside = outside or not (folder / name).resolve().is_relative_to(folder)
    except (OSError, RuntimeError) as error:  # the second for links in a circle
        raise ArtifactError(path, f"has tensors in {shortened(name, 120)}: {reason_of(error)}") from error
    if outside:
        raise ArtifactError(path, f"has tensors in {shortened(name, 120)}, which is outside of its folder")
    return folder / name


def _tensors(model: onnx.ModelProto, path: str | os.PathLike[str]) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a model: initializers, sparse ones, and those of attributes, in graphs within graphs."""
    waiting: list[tuple[Any, int]] = [(model.graph, 0)]
    waiting += [(function, 0) for function in model.functions]
    waiting += [(part, 0) for info in model.training_info for part in (info.initialization, info.algorithm)]
    while waiting:
        graph, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ArtifactError(path, f"has graphs nested more than {_DEEPEST} deep")
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            if node.op_type in _FILE_OPERATORS:
                raise ArtifactError(path, f"has an operator {node.op_type}, which opens files")
        for attribute in (one for node in graph.node for one in node.attribute):
            yield from (*attribute.tensors, *([attribute.t] if attribute.HasField("t") else []))
            several = [*attribute.sparse_tensors, attribute.sparse_tensor]
            yield from (tensor for sparse in several for tensor in (sparse.values, sparse.indices))
            waiting += [(inner, depth + 1) for inner in (*attribute.graphs, attribute.g) if inner.node]
