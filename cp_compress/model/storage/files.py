"""Compressed models as files: one safetensors file that holds what is not zero, checked when it is read.

The file holds a few arrays (`cp_compress.model.storage.packing`), the arrangement as compressed JSON, and a SHA-256 of
both. A model is read into a copy of the architecture that it was made from.
"""

from __future__ import annotations

import json
import os
import zlib
from typing import Any

import numpy as np
import safetensors.numpy
from torch import Tensor, nn

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.error_reasons import reason_of
from cp_compress.base.errors import CompressionError, CorruptStreamError
from cp_compress.base.files import write_atomically
from cp_compress.base.holdings.found import Holdings
from cp_compress.base.holdings.tensors import as_plain, geometry, is_plain
from cp_compress.base.holdings.walking import holdings_of
from cp_compress.base.showing.mistaken import reject_kind
from cp_compress.inputs.seen import seen_digests, write_seen
from cp_compress.model.copying import copy_whole
from cp_compress.model.quantization.lowering import is_lowered
from cp_compress.model.representations.registry import nested_whole
from cp_compress.model.storage.arrangement import describe_arrangement, finish_model, read_arrangement, shape_model
from cp_compress.model.storage.contents import (
    CHECKSUM,
    SEEN,
    TABLE,
    VERSION,
    digest_arrays,
    read_arrays,
    read_content,
    read_seen,
    read_table,
    told_of,
)
from cp_compress.model.storage.extra_states import add_extra_states, read_extra_states
from cp_compress.model.storage.kinds import describe_kinds, require_kinds
from cp_compress.model.storage.outside import add_outside, read_outside, refuse_unheld, settle_buffers
from cp_compress.model.storage.packing import Packer, Unpacker, Words
from cp_compress.model.storage.parts import add_parts, fill_parts


@explains_keywords
def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model to one file, in one step; every value survives to the bit.

    Stored are parameters and buffers (tied ones once, each in the smallest of three forms, with its strides where it is
    transposed or channels-last), tensors and arrays in attributes, extra states that can be set, the parts of tensor
    subclasses, how layers were changed, train/eval states, the record of the schemes and digests of the examples that
    the model was chosen on or made with (8 bytes each, which no footprint counts). Of what belongs to code (closures,
    attributes of classes), of the settings of layers and of other content, the digest is stored, and `load` refuses a
    model that has something else there.

    Raises CompressionError for a model with lazy, sparse or quantised tensors, packed parameters, TorchScript, or
    content that cannot be seen, which it names; for a lowered one, and for one that has a 16-bit model inside it (save
    that one, or wrap the original before compressing it); OSError when the file cannot be written.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model = nn.Linear(2, 2)
    ...     save(model, f"{folder}/model.cp")
    ...     torch.equal(load(f"{folder}/model.cp", nn.Linear(2, 2)).weight, model.weight)
    True
    """
    if not isinstance(model, nn.Module):
        rule = "must be a torch.nn.Module; the model comes first, and the path second"
        reject_kind("save", "model", model, rule, "model")
    _refuse_nested(model)
    if is_lowered(model):
        raise CompressionError("the model was lowered for this CPU: save the model that `lower` was given")
    found = holdings_of(model)
    refuse_unheld(model, found)
    write_atomically(path, safetensors.numpy.save(with_seen(_arrays_of(model, found), model)))


def stored_bytes(model: nn.Module, found: Holdings) -> int:
    """Return the size of the file that `save` writes, with what it refuses to write added as it is held.

    What the model has seen is no part of it.

    Raises CompressionError as `save` does, but for packed parameters and TorchScript.
    """
    _refuse_nested(model)
    if is_lowered(model):
        raise CompressionError("the model was lowered for this CPU: measure the model that `lower` was given")
    return len(safetensors.numpy.save(_arrays_of(model, found, whole=True))) + sum(part.size for part in found.content)


def with_seen(arrays: dict[str, Words], model: nn.Module) -> dict[str, Words]:
    """Return the arrays of a file with the digests of the examples that a model carries, if any."""
    seen = {purpose: "".join(sorted(digests)) for purpose, digests in sorted(seen_digests(model).items())}
    if not seen:
        return arrays
    marked = arrays | {SEEN: np.frombuffer(zlib.compress(json.dumps(seen).encode(), 9), np.uint8)}
    return marked | {CHECKSUM: np.frombuffer(bytes.fromhex(digest_arrays(marked)), np.uint8)}


def _arrays_of(model: nn.Module, found: Holdings, *, whole: bool = False) -> dict[str, Words]:
    packer = Packer()
    tensors = []
    for names, tensor in group_tensors(model):
        try:
            tensors.append([names, add_parts(packer, tensor, whole)])
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            raise CompressionError(f"{names[0]} cannot be stored: {error}") from error
    table = {"version": VERSION, "tensors": tensors, "arrangement": describe_arrangement(model)}
    table["kinds"] = describe_kinds(model)
    extra = add_extra_states(packer, model)
    if extra:
        table["extra"] = extra
    outside = add_outside(packer, model, found, whole)
    if outside:
        table["outside"] = outside
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False)
    arrays = packer.arrays() | {TABLE: np.frombuffer(zlib.compress(text.encode(), 9), np.uint8)}
    arrays[CHECKSUM] = np.frombuffer(bytes.fromhex(digest_arrays(arrays)), np.uint8)
    return arrays


@explains_keywords
def load(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """Return the stored model as a new module; `model` gives the architecture, and its device, and is not changed.

    Raises InvalidArgumentError, which says what the file holds, without a model; CorruptStreamError, with the path, for
    a damaged file, CompressionError, naming the tensor, for a file of another architecture, OSError for a file that
    cannot be read.
    """
    if not isinstance(path, (str, os.PathLike)):
        reject("load", "path", type(path).__name__, "the path comes first, and the original model second")
    if model is None:
        rule = "a file holds no code: give the model that it was compressed from as the second argument"
        reject("load", "model", None, f"{rule}; {os.fspath(path)} holds {told_of(path)}")
    if not isinstance(model, nn.Module):
        reject_kind("load", "model", model, "must be the torch.nn.Module that the file was made from", "model")
    content = read_content(path)
    try:
        return _read(content, model)
    except CorruptStreamError as error:
        raise CorruptStreamError(f"{os.fspath(path)} is damaged: {error}") from error
    except CompressionError as error:
        raise CompressionError(f"{os.fspath(path)} does not fit the model given: {error}") from error


def group_tensors(model: nn.Module) -> list[tuple[list[str], Tensor]]:
    """Return every parameter and buffer once, with all its names."""
    groups: dict[Any, tuple[list[str], Tensor]] = {}
    for name, tensor in _all_tensors(model):
        groups.setdefault(_same_place(tensor), ([], tensor))[0].append(name)
    return list(groups.values())


def _same_place(tensor: Tensor) -> Any:
    """Return what tensors have in common that are one: the object, or the same view of one storage."""
    return geometry(as_plain(tensor)) if type(tensor) in (Tensor, nn.Parameter) and is_plain(tensor) else id(tensor)


def _read(content: bytes, model: nn.Module) -> nn.Module:
    arrays = read_arrays(content)
    table = read_table(arrays.pop(TABLE))
    seen = read_seen(arrays.pop(SEEN, None))
    try:
        entries = [([str(name) for name in names], entry) for names, entry in table["tensors"]]
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptStreamError(f"its table is not readable ({reason_of(error)})") from error
    arrangement = read_arrangement(table.get("arrangement"))
    candidate = copy_whole(model)
    shape_model(candidate, arrangement)
    settle_buffers(candidate, {name: entry for names, entry in entries for name in names})
    places = dict(_all_tensors(candidate))
    _require_same_names(entries, places)
    unpacker = Unpacker(arrays)
    shared: dict[int, set[str]] = {}
    for name, tensor in places.items():
        shared.setdefault(id(tensor), set()).add(name)
    tied = {name: _same_place(tensor) for name, tensor in _all_tensors(model)}
    for names, entry in entries:
        targets = [places[name] for name in names]
        one_in_model = len({tied.get(name, id(places[name])) for name in names}) == 1
        if any(target is not targets[0] for target in targets[1:]) and not one_in_model:
            raise CompressionError(f"{', '.join(names)} are one tensor in the file, and several in the model")
        others = shared.get(id(targets[0]), set()) - set(names)
        if others:
            raise CompressionError(f"{names[0]} and {min(others)} are one tensor in the model, and two in the file")
        fill_parts(names[0], entry, targets, unpacker)
    if "extra" in table:
        read_extra_states(table["extra"], candidate, unpacker)
    if isinstance(table.get("outside"), dict):
        read_outside(table["outside"], candidate, model, unpacker)
    unpacker.finish()
    finish_model(candidate, arrangement)
    if "kinds" in table:  # older files do not have it
        require_kinds(candidate, table["kinds"])
    write_seen(candidate, seen)
    return candidate


def _all_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


def _require_same_names(entries: list[tuple[list[str], Any]], places: dict[str, Tensor]) -> None:
    stored = [name for names, _ in entries for name in names]
    if len(set(stored)) != len(stored) or not all(names for names, _ in entries):
        raise CorruptStreamError("its table names a tensor twice, or not at all")
    for name in stored:
        if name not in places:
            raise CompressionError(f"{name} is in the file, not in the model")
    for name in places:
        if name not in set(stored):
            raise CompressionError(f"{name} is in the model, not in the file")


def _refuse_nested(model: nn.Module) -> None:
    path = nested_whole(model)
    if path is not None:
        raise CompressionError(
            f"{path} is a 16-bit model inside another module, and how it computes would be lost: "
            "save that module itself, or wrap the original model before compressing it"
        )
