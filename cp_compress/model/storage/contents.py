"""What a file of a model holds, read without the model: its arrays, its table, and a description of both."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy

from cp_compress.base.digests import start_digest
from cp_compress.base.error_reasons import reason_of, shortened
from cp_compress.base.errors import CorruptStreamError
from cp_compress.base.files import no_such_file, read_regular
from cp_compress.base.showing.brief import Brief
from cp_compress.model.storage.packing import Words, check_entry

VERSION = 3
TABLE, SEEN, CHECKSUM = "table", "seen", "sha256"
_LARGEST_TABLE, _LARGEST_FILE = 1 << 28, 1 << 40


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file: its names (several where they are tied), dtype, shape and how many values are not zero."""

    names: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    form: str
    nonzero: int


@dataclass(frozen=True, repr=False)
class ModelFile(Brief):
    """What a file that `save` wrote says of itself.

    Attributes:
        path: The file.
        nbytes: Its size.
        version: The version of its format.
        steps: The expressions of the schemes that made the model, oldest first.
        made_from: Whether the file says from which weights the model was made.
        seen: How many examples the model has seen, by the purpose, such as "search" or "calibration".
        tensors: The parameters and buffers, and then tensors in attributes.
    """

    path: str
    nbytes: int
    version: int
    steps: tuple[str, ...]
    made_from: bool
    seen: dict[str, int]
    tensors: tuple[StoredTensor, ...]


def describe_file(path: str | os.PathLike[str]) -> ModelFile:
    """Return what a file that `save` wrote holds, checked by its checksum; no model is needed and no code is run.

    Raises CorruptStreamError, with the path, for a damaged file, and OSError for one that cannot be read.
    """
    content = read_content(path)
    try:
        arrays = read_arrays(content)
        table = read_table(arrays.pop(TABLE))
        arrangement = table.get("arrangement", {})
        return ModelFile(
            os.fspath(path),
            len(content),
            VERSION,
            tuple(str(step["scheme"]) for step in arrangement["steps"]),
            bool(arrangement.get("made_from")),
            {purpose: len(digests) for purpose, digests in read_seen(arrays.pop(SEEN, None)).items()},
            tuple(_tensors(table)),
        )
    except CorruptStreamError as error:
        raise CorruptStreamError(f"{os.fspath(path)} is damaged: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptStreamError(f"{os.fspath(path)} is damaged: its table is not readable") from error


def _tensors(table: dict[str, Any]) -> Iterator[StoredTensor]:
    for names, entry in table["tensors"]:
        yield from _tensor(tuple(map(str, names)), entry)
    for path, entry in table.get("outside", {}).get("tensors", ()):
        yield from _tensor((str(path),), entry)


def _tensor(names: tuple[str, ...], entry: Any) -> Iterator[StoredTensor]:
    if isinstance(entry, dict):  # a tensor that is made of others
        for part, inner in entry["parts"]:
            yield from _tensor(tuple(f"{name}.{part}" for name in names), inner)
        return
    dtype, shape, form, count = check_entry(entry)
    yield StoredTensor(names, str(dtype).removeprefix("torch."), shape, form, count)


def told_of(path: str | os.PathLike[str]) -> str:
    """Return in a few words what a file holds; raises as `describe_file`."""
    found = describe_file(path)
    made = f"made by {' | '.join(found.steps)}" if found.steps else "made by no scheme"
    first = ", ".join(tensor.names[0] for tensor in found.tensors[:3])
    return shortened(f"{len(found.tensors)} tensors ({first}, …), {made}", 300)


def read_content(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a file; raises CorruptStreamError for one that cannot be of a model, such as a device."""
    try:
        return read_regular(path, _LARGEST_FILE)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{os.fspath(path)}: {no_such_file(path)}") from error
    except ValueError as error:
        raise CorruptStreamError(f"{os.fspath(path)} cannot be read: {error}") from error


def digest_arrays(arrays: dict[str, Words]) -> str:
    """Return the hex digest of all arrays but the checksum."""
    digest = start_digest()
    for name in sorted(arrays):
        if name != CHECKSUM:
            digest.update(f"{name} {arrays[name].dtype.str} {len(arrays[name])}\n".encode())
            digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def read_seen(packed: Words | None) -> dict[str, list[str]]:
    """Return the digests of the examples that a model has seen, by purpose."""
    if packed is None:
        return {}
    try:
        texts = json.loads(zlib.decompressobj().decompress(packed.tobytes(), _LARGEST_TABLE))
        seen = {str(purpose): re.findall("[0-9a-f]{16}", text) for purpose, text in texts.items()}
        whole = all(16 * len(seen[purpose]) == len(text) for purpose, text in texts.items())
    except (zlib.error, ValueError, RecursionError, TypeError, AttributeError) as error:
        raise CorruptStreamError(f"the examples that it has seen are not readable ({reason_of(error)})") from error
    if not whole:
        raise CorruptStreamError("the examples that it has seen are not readable (no digests)")
    return seen


def read_arrays(content: bytes) -> dict[str, Words]:
    """Return the arrays of a file, whose checksum holds; raises CorruptStreamError for anything else."""
    try:
        arrays: dict[str, Words] = safetensors.numpy.load(content)
    except Exception as error:
        raise CorruptStreamError(f"it is no whole safetensors file ({reason_of(error)})") from error
    if TABLE not in arrays or CHECKSUM not in arrays:
        raise CorruptStreamError("it is a safetensors file that no `save` of this package wrote")
    if any(array.ndim != 1 or array.dtype.kind != "u" for array in arrays.values()):
        raise CorruptStreamError("its arrays are not of the kind that is stored")
    if arrays.pop(CHECKSUM).tobytes().hex() != digest_arrays(arrays):
        raise CorruptStreamError("its content does not match its checksum")
    return arrays


def read_table(packed: Words) -> dict[str, Any]:
    """Return the table of a file; raises CorruptStreamError for another version, and for what is none."""
    decoder = zlib.decompressobj()
    try:
        text = decoder.decompress(packed.tobytes(), _LARGEST_TABLE)
        table = json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise CorruptStreamError(f"its table is not readable ({reason_of(error)})") from error
    if not isinstance(table, dict) or table.get("version") != VERSION:
        version = table.get("version") if isinstance(table, dict) else None
        raise CorruptStreamError(f"its format version is {version!r}; this package reads {VERSION}")
    return table
