"""The form of a file of a frozen observation: a safetensors file whose metadata is one JSON document."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import torch
from torch import Tensor

from cp_compress.artifacts.guards import size_of
from cp_compress.artifacts.recognition import OBSERVATION
from cp_compress.artifacts.weights.safetensors_files import read_whole_header
from cp_compress.base.digests import start_digest
from cp_compress.base.documents import read_document
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ArtifactError
from cp_compress.fidelity.frozen.content import (
    CLUSTERS,
    DIGEST_BYTES,
    EXAMPLES,
    IDS,
    LENGTHS,
    LOGITS,
    NLL,
    ORIGINALS,
    TARGETS,
    TOP,
)
from cp_compress.inputs.tasks import TASKS

VERSION = 1
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
}
"""The dtypes of tensors in such a file, by their names in safetensors."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNED = 8
_BLOCK = 1 << 22

_TEXT = {"type": "string"}
_TEXT_OR_NONE = {"type": ["string", "null"]}
_COUNT = {"type": "integer", "minimum": 1}
_NUMBER_OR_NONE = {"type": ["number", "null"]}


def _closed(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _list(items: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **rest}


_SOURCES = _list(_list(_TEXT, minItems=3, maxItems=3))
_DEPENDENCE = {
    "oneOf": [
        {"type": "null"},
        _closed(
            on_neighbours={"type": "boolean"},
            difference={"type": "number", "minimum": 0},
            share={"type": "number", "minimum": 0},
            changed={"type": "integer", "minimum": 0},
            asked=_COUNT,
        ),
    ]
}
_BATCHES = _closed(first=_COUNT, last=_COUNT, limit=_COUNT, deployed={"type": "boolean"}, dependence=_DEPENDENCE)
_SHARED = {
    "version": {"const": VERSION},
    "model": _closed(
        name=_TEXT,
        digest=_TEXT_OR_NONE,
        held=_TEXT_OR_NONE,
        steps=_list({"type": "object"}),
        sources=_SOURCES,
        parts=_SOURCES,
        seen={"type": "object", "additionalProperties": _list(_TEXT)},
    ),
    "batches": _BATCHES,
    "environment": {"type": "object"},
    "tensors": {"type": "object", "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
}
TOKENS = "tokens"
"""The kind of observations of language models; those of models that answer each example are "examples"."""
_TOKENS = _closed(
    **_SHARED,
    kind={"const": TOKENS},
    data=_closed(name=_TEXT, digest=_TEXT, count=_COUNT, tokens=_COUNT),
    outputs=_closed(classes={"type": "integer", "minimum": 3}, kept={"type": "integer", "minimum": 2}),
)
_EXAMPLES = _closed(
    **_SHARED,
    kind={"const": "examples"},
    data=_closed(
        name=_TEXT,
        digest=_TEXT,
        count=_COUNT,
        task={"enum": [*TASKS]},
        labeled={"type": "boolean"},
        inputs=_list(
            _closed(
                name=_TEXT,
                dtype=_TEXT,
                shape=_list({"type": "integer", "minimum": 0}),
                range={"type": ["array", "null"], "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
            ),
            minItems=1,
        ),
        largest=_NUMBER_OR_NONE,
        classes={"type": ["array", "null"], "items": _TEXT},
        numbered_by_folder={"type": ["boolean", "null"]},
        codec=_TEXT_OR_NONE,
    ),
    outputs=_closed(
        classes={"type": ["integer", "null"], "minimum": 1},
        kept={"type": ["integer", "null"], "minimum": 1},
        kind={"enum": ["logits", "probabilities", "either"]},
        part={"type": ["string", "integer", "null"]},
        by_function={"type": "boolean"},
        alike={"type": "boolean"},
        digest=_TEXT_OR_NONE,
    ),
    layers=_list(_closed(layer=_TEXT, pool={"enum": ["mean", "flatten"]})),
    default_layer=_TEXT_OR_NONE,
    noise=_closed(
        references=_list(_TEXT),
        floors={
            "type": "object",
            "additionalProperties": {"type": "object", "additionalProperties": _list({"type": "number"}, minItems=1)},
        },
    ),
)


@dataclass(frozen=True)
class Entry:
    """Where a tensor stands in a file, and the digest that its bytes must have."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    nbytes: int
    digest: str


def write_file(file: BinaryIO, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Write a document and tensors, block by block, and return the digest of the file.

    `document` is complete but for "tensors", the digests of the tensors' bytes.
    """
    entries: dict[str, Any] = {}
    digests: dict[str, str] = {}
    offset = 0
    for name, tensor in tensors.items():
        running = start_digest()
        for block in _blocks(tensor):
            running.update(block)
        digests[name] = running.hexdigest()
        nbytes = tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + nbytes],
        }
        offset += nbytes
    told = json.dumps({**document, "tensors": digests}, ensure_ascii=False, sort_keys=True, allow_nan=False)
    header = json.dumps({"__metadata__": {OBSERVATION: told}, **entries}, ensure_ascii=False).encode("utf-8")
    header += b" " * (-len(header) % _ALIGNED)
    running = start_digest()
    for part in itertools.chain((len(header).to_bytes(8, "little"), header), _all_blocks(tensors)):
        file.write(part)
        running.update(part)
    return running.hexdigest()


def _all_blocks(tensors: Mapping[str, Tensor]) -> Iterator[bytes]:
    for tensor in tensors.values():
        yield from _blocks(tensor)


def _blocks(tensor: Tensor) -> Iterator[bytes]:
    """Yield the bytes of a tensor in row-major order, some rows at a time."""
    if not tensor.numel():
        return
    rows = max(1, _BLOCK * len(tensor) // (tensor.numel() * tensor.element_size()))
    for part in torch.split(tensor.detach(), rows):
        yield part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def read_layout(file: BinaryIO, path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Entry]]:
    """Return the document of an open file, and where its tensors stand; raises ArtifactError for anything else.

    Tensors must lie one after the other, without a gap and up to the end, and be those that the document names.
    """
    header = read_whole_header(file, path)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get(OBSERVATION), str):
        raise ArtifactError(path, "is a safetensors file, and no observation that cp-compress observe wrote")
    try:
        document = read_document(metadata[OBSERVATION])
    except ValueError as error:
        raise ArtifactError(path, f"has a document that is not valid JSON: {error}") from error
    if isinstance(document, dict) and document.get("version") != VERSION:
        told = f"is of version {shortened(repr(document.get('version')), 40)}, and this package reads {VERSION}"
        raise ArtifactError(path, f"{told}: observe the model again")
    tokens = isinstance(document, dict) and document.get("kind") == TOKENS
    problem = next(_validator(tokens).iter_errors(document), None)
    if problem is not None:
        where = ".".join(map(str, problem.absolute_path)) or "the document"
        raise ArtifactError(path, f"is damaged: {shortened(f'{where}: {problem.message}', 200)}")
    entries = _entries(header, document["tensors"], path)
    _require_shapes(document, entries, path)
    start = file.tell()
    end = _require_no_gaps(entries, path)
    if start + end != size_of(file):
        told = f"has {size_of(file) - start:,} bytes of tensors where its header says {end:,}: it is cut off or damaged"
        raise ArtifactError(path, told)
    return document, {name: replace(one, start=start + one.start) for name, one in entries.items()}


@functools.cache
def _validator(tokens: bool) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(_TOKENS if tokens else _EXAMPLES)


def _entries(header: Mapping[str, Any], digests: Mapping[str, str], path: str | os.PathLike[str]) -> dict[str, Entry]:
    if header.keys() != digests.keys():
        raise ArtifactError(path, "is damaged: the tensors in it are not those that its document names")
    found = {}
    for name, entry in header.items():
        try:
            dtype = DTYPES[entry["dtype"]]
            shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
            whole = all(type(one) is int and 0 <= one < 2**62 for one in (*shape, start, end))
            size = math.prod(shape) * dtype.itemsize
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(path, f"is damaged: {shortened(name, 80)} describes no tensor") from error
        if not whole or end - start != size:
            raise ArtifactError(path, f"is damaged: {shortened(name, 80)} has not the bytes of its shape")
        found[name] = Entry(dtype, shape, start, size, digests[name])
    return found


def _require_no_gaps(entries: Mapping[str, Entry], path: str | os.PathLike[str]) -> int:
    """Return where the last tensor ends."""
    end = 0
    for name, one in sorted(entries.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if one.start != end:
            raise ArtifactError(path, f"is damaged: {shortened(name, 80)} does not begin where the one before it ends")
        end += one.nbytes
    return end


def _require_shapes(document: Mapping[str, Any], entries: Mapping[str, Entry], path: str | os.PathLike[str]) -> None:
    """Raise ArtifactError unless there are all tensors that the document implies, of the shapes that it implies."""
    count, classes = document["data"]["count"], document["outputs"]["classes"]
    if document["kind"] == TOKENS:
        _require_tokens(document, entries, path)
        return
    # of dense and sequence data there are places behind the examples, which the document does not number
    places = () if document["data"]["task"] == "single_label" else (...,)
    wanted: dict[str, tuple[Any, ...]] = {
        EXAMPLES: (torch.uint8, count, DIGEST_BYTES),
        TARGETS: (torch.int64, count, *places),
    }
    kept = document["outputs"]["kept"]
    if kept is not None:
        forms = (None, count, kept), (torch.int32, count, kept), (torch.float64, count)
        wanted |= dict(zip(TOP, forms, strict=True))
    elif classes is not None:
        wanted[LOGITS] = (None, count, classes, *places)
    optional: dict[str, tuple[Any, ...]] = {ORIGINALS: (torch.uint8, count, None), CLUSTERS: (torch.int64, count)}
    for layer in (f"layer.{place}" for place in range(len(document["layers"]))):
        wanted[layer] = (torch.float32, count, None)
        width = entries[layer].shape[-1] if layer in entries and entries[layer].shape else None
        optional[f"{layer}.weights"] = (torch.float32, classes, width)
    wanted |= {name: form for name, form in optional.items() if name in entries}
    unknown = next((name for name in entries if name not in wanted), None)
    if unknown is not None:
        raise ArtifactError(path, f"is damaged: it holds {shortened(unknown, 80)}, which is nothing of an observation")
    _require_all(wanted, entries, path)


def _require_tokens(document: Mapping[str, Any], entries: Mapping[str, Entry], path: str | os.PathLike[str]) -> None:
    data, kept = document["data"], document["outputs"]["kept"]
    count, places = data["count"], data["tokens"]
    forms = (None, places, kept), (torch.int32, places, kept), (torch.float64, places)
    wanted: dict[str, tuple[Any, ...]] = dict(zip(TOP, forms, strict=True))
    wanted |= {NLL: (torch.float64, places), LENGTHS: (torch.int64, count), IDS: (torch.int32, places + count)}
    _require_all(wanted, entries, path)


def _require_all(
    wanted: Mapping[str, tuple[Any, ...]], entries: Mapping[str, Entry], path: str | os.PathLike[str]
) -> None:
    """Raise ArtifactError for a tensor that is missing or of another form: None is any, ... any dimensions more."""
    for name, (dtype, *shape) in wanted.items():
        one = entries.get(name)
        if one is None:
            raise ArtifactError(path, f"is damaged: {name} is missing")
        known = shape[:-1] if shape[-1] is ... else shape
        fits = len(one.shape) >= len(known) if known is not shape else len(one.shape) == len(known)
        alike = all(size in (None, found) for size, found in zip(known, one.shape, strict=False))
        if not (fits and alike) or dtype not in (None, one.dtype):
            sizes = ", ".join("any" if size is None else "…" if size is ... else str(size) for size in shape)
            told = f"{name} is {one.dtype} {one.shape}, and its document says ({sizes})"
            raise ArtifactError(path, f"is damaged: {told}")
        if name in (LOGITS, TOP[0]) and not one.dtype.is_floating_point:
            raise ArtifactError(path, f"is damaged: {name} are {one.dtype}")
