"""What a file of a model or of data holds, told without making the model and without running anything of the file."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cp_compress.artifacts.archives import open_archive
from cp_compress.artifacts.arrays import read_array_header
from cp_compress.artifacts.guards import MAX_BYTES, opened, size_of, told
from cp_compress.artifacts.recognition import recognise
from cp_compress.artifacts.weights.safetensors_files import read_whole_header
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ArtifactError
from cp_compress.base.files import no_such_file
from cp_compress.base.json_values import plain
from cp_compress.base.showing.brief import Brief
from cp_compress.fidelity.frozen.matching import told_inputs

_LONGEST = 200
_SAFETENSORS = {"F": "float", "I": "int", "U": "uint"}


@dataclass(frozen=True)
class TensorEntry:
    """One tensor or array of a file; `nbytes` is its size in the file, None where it shares its place with others."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int | None = None
    nonzero: int | None = None


@dataclass(frozen=True, repr=False)
class FileContents(Brief):
    """What a file holds.

    Attributes:
        path: The file or folder.
        kind: What it is: "cp", "safetensors", "onnx", "torch", "exported", "npz", "observation" or "transformers".
        nbytes: Its size, of a folder that of its files.
        facts: What it says of itself, by name: the steps that made it, its metadata, inputs and outputs.
        tensors: Its tensors, in their order.
    """

    path: str
    kind: str
    nbytes: int
    facts: Mapping[str, Any]
    tensors: tuple[TensorEntry, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain Python types."""
        tensors = [
            {
                "name": one.name,
                "dtype": one.dtype,
                "shape": list(one.shape),
                "bytes": one.nbytes,
                "nonzero": one.nonzero,
            }
            for one in self.tensors
        ]
        facts = {"path": self.path, "kind": self.kind, "bytes": self.nbytes, "facts": plain(dict(self.facts))}
        return {**facts, "tensors": tensors}


def describe_contents(path: str | os.PathLike[str]) -> FileContents:
    """Return what a file, or a folder of transformers, holds.

    Nothing in it is executed: pickles that are more than tensors are refused, and ONNX graphs are parsed, not run.
    Raises ArtifactError for a file that is not there, damaged, or of an unknown kind; CorruptStreamError for a damaged
    `.cp` file, and MissingExtraError where the library for its kind is not installed.
    """
    if not Path(path).exists():
        raise ArtifactError(path, no_such_file(path))
    kind = recognise(path, MAX_BYTES)
    if kind == "transformers":
        return _folder(Path(path))
    with opened(path, MAX_BYTES) as file:
        size = size_of(file)
    describe = {
        "cp": _cp,
        "safetensors": _safetensors,
        "observation": _observation,
        "onnx": _onnx,
        "torch": _torch,
        "npz": _npz,
    }.get(kind, _archive)
    facts, tensors = describe(path)
    return FileContents(os.fspath(path), kind, size, facts, tuple(tensors))


def _cp(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[TensorEntry]]:
    from cp_compress.model.storage.contents import describe_file

    found = describe_file(path)
    facts: dict[str, Any] = {"format version": found.version, "made by": " | ".join(found.steps) or "no scheme"}
    facts["says which weights it was made from"] = "yes" if found.made_from else "no"
    facts |= {f"examples seen for {purpose}": count for purpose, count in found.seen.items()}
    facts["checksum"] = "holds"
    entries = [TensorEntry(" = ".join(one.names), one.dtype, one.shape, nonzero=one.nonzero) for one in found.tensors]
    return facts, entries


def _safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[TensorEntry]]:
    with opened(path, MAX_BYTES) as file:
        header = read_whole_header(file, path)
    metadata = header.pop("__metadata__", None)
    entries = []
    for name, entry in header.items():
        try:
            start, end = entry["data_offsets"]
            shape = tuple(int(length) for length in entry["shape"])
            entries.append(TensorEntry(name, _torch_name(str(entry["dtype"])), shape, int(end) - int(start)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(path, f"has an entry {shortened(name, 80)} that describes no tensor") from error
    return {f"metadata: {key}": _short(value) for key, value in (metadata or {}).items()}, entries


def _observation(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[TensorEntry]]:
    from cp_compress.artifacts.observations.loading import read_observation

    content = read_observation(path).content
    model, data, environment = content.model, content.data, content.facts["environment"]
    facts = {
        "digest": content.digest,
        "of the model": model["name"],
        "model digest": model["digest"] or "none",
        "on the data": data["name"],
        "examples" if "inputs" in data else "documents": data["count"],
        **({"inputs": told_inputs(data["inputs"])} if "inputs" in data else {"tokens": data["tokens"]}),
        "holds": content.holds(),
        "made with": _short(environment.get("packages", {})),
    }
    return facts, _safetensors(path)[1]


def _torch_name(dtype: str) -> str:
    kind = _SAFETENSORS.get(dtype[:1])
    return f"{kind}{dtype[1:]}" if kind and dtype[1:].isdecimal() else {"BF16": "bfloat16"}.get(dtype, dtype.lower())


def _onnx(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[TensorEntry]]:
    from cp_compress.artifacts.onnx.checks import check_graph, describe_tensors

    with opened(path, MAX_BYTES) as file:
        content = file.read()
    checked = check_graph(content, path, MAX_BYTES)
    facts, rows = describe_tensors(content, path)
    if checked.external:
        facts["tensors in other files"] = ", ".join(checked.external)
        facts["bytes with them"] = checked.size
    return facts, [TensorEntry(*row) for row in rows]


def _torch(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[TensorEntry]]:
    from cp_compress.artifacts.weights.torch_files import read_plain

    content = read_plain(path)
    entries: list[TensorEntry] = []
    others: list[str] = []
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting:
        name, value = waiting.pop(0)
        if isinstance(value, dict):
            waiting += [(f"{name}.{key}" if name else str(key), part) for key, part in dict.items(value)]
        elif hasattr(value, "dtype") and hasattr(value, "shape"):
            dtype, shape = str(value.dtype).removeprefix("torch."), tuple(value.shape)
            entries.append(
                TensorEntry(name or "the tensor", dtype, shape, int(math.prod(shape) * value.element_size()))
            )
        else:
            others.append(name or type(value).__name__)
    facts = {"holds": "tensors and plain values; nothing of it was run"}
    return facts | ({"other entries": _short(", ".join(others))} if others else {}), entries


def _npz(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[TensorEntry]]:
    entries = []
    with opened(path, MAX_BYTES) as file:
        archive = open_archive(file, path, MAX_BYTES)
        for member in archive.infolist():
            with archive.open(member) as part:
                shape, dtype = read_array_header(part, path, member.filename)
            entries.append(TensorEntry(member.filename.removesuffix(".npy"), str(dtype), shape, member.compress_size))
    return {}, entries


def _archive(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[TensorEntry]]:
    with opened(path, MAX_BYTES) as file:
        members = open_archive(file, path, MAX_BYTES).infolist()
    largest = sorted(members, key=lambda member: -member.file_size)[:5]
    told_sizes = ", ".join(f"{member.filename} ({member.file_size:,} bytes)" for member in largest)
    return {"a program of": "torch.export", "members": len(members), "largest": _short(told_sizes)}, []


def _folder(path: Path) -> FileContents:
    with told(path, "reading its config.json"):
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    kept = ("architectures", "model_type", "num_labels", "torch_dtype", "dtype", "vocab_size", "num_hidden_layers")
    facts = {name: _short(config[name]) for name in kept if isinstance(config, dict) and name in config}
    entries = [one for file in sorted(path.glob("*.safetensors")) for one in _safetensors(file)[1]]
    files = [file for file in sorted(path.iterdir()) if file.is_file()]
    facts["files"] = _short(", ".join(file.name for file in files))
    return FileContents(str(path), "transformers", sum(file.stat().st_size for file in files), facts, tuple(entries))


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return shortened(text, _LONGEST)


def count_dtypes(tensors: Iterable[TensorEntry]) -> dict[str, tuple[int, int]]:
    """Return how many tensors of each dtype there are, and how many values they hold, the most values first."""
    tensors = list(tensors)
    counts, values = Counter(one.dtype for one in tensors), Counter[str]()
    for one in tensors:
        values[one.dtype] += math.prod(one.shape)
    return {dtype: (counts[dtype], count) for dtype, count in values.most_common()}
