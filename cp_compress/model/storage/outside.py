"""What a model holds outside of its parameters and buffers, in a file: stored, compared when it is read, or refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cp_compress.base.digests import digest_tensors, digest_text
from cp_compress.base.errors import CompressionError, CorruptStreamError
from cp_compress.base.holdings.walking import ATTRIBUTE, CAPTURED, PACKED, Held, Holdings, holdings_of
from cp_compress.model.storage.packing import Packer, Unpacker, check_entry

_DIGITS = 16


def refuse_unheld(model: nn.Module, found: Holdings) -> None:
    """Raise CompressionError, naming it, for what a model holds and no file can."""
    if found.unseen:
        raise CompressionError(f"a file cannot hold {found.unseen[0]}")
    packed = [held for held in found.hidden() if held.place == PACKED]
    if packed:
        raise CompressionError(
            f"a file cannot hold {packed[0].path}: packed parameters can be read, and not be put together again. Save "
            "the model before it is packed, or its state_dict by torch.save"
        )
    scripts = [path for path, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    if scripts:
        raise CompressionError(f"a file cannot hold {scripts[0] or 'the model'}: it is TorchScript; use torch.jit.save")


def add_outside(packer: Packer, found: Holdings, whole: bool) -> dict[str, Any]:
    """Store tensors in attributes, with `whole` all others too, and return the table of them and of digests."""
    stored = [held for held in found.hidden() if whole or held.place == ATTRIBUTE]
    table: dict[str, Any] = {"tensors": [[held.path, packer.add(held.tensor)] for held in stored]}
    table["same"] = _digests(found)
    table["training"] = _training(found)
    return table if any(table.values()) else {}


def read_outside(table: dict[str, Any], candidate: nn.Module, model: nn.Module, unpacker: Unpacker) -> None:
    """Give a copy of `model` the stored tensors in place, and compare what is not stored.

    Raises CompressionError for a model that holds other things in other places.
    """
    try:
        entries = [(str(path), entry) for path, entry in table["tensors"]]
        same = [(str(path), str(digest)) for path, digest in table["same"]]
        training = str(table["training"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptStreamError("its table of what lies outside of parameters is not readable") from error
    found = holdings_of(candidate)
    places = {held.path: held for held in found.hidden() if held.place == ATTRIBUTE}
    if places.keys() != dict(entries).keys():
        (name, *_) = sorted(places.keys() ^ dict(entries).keys())
        here, there = ("file", "model") if name in dict(entries) else ("model", "file")
        raise CompressionError(f"{name} is in the {here}, not in the {there}")
    originals = {held.tensor.untyped_storage().data_ptr() for held in holdings_of(model).tensors if held.tensor.numel()}
    for path, entry in entries:
        _fill(places[path], entry, originals, unpacker)
    own = dict(_digests(found))
    for path, digest in same:
        if own.pop(path, None) != digest:
            raise CompressionError(f"{path} is another in the model than in the one that was saved")
    if own:
        raise CompressionError(f"{min(own)} is in the model, not in the file")
    if len(training) != len(found.modules):
        raise CompressionError(f"the file has {len(training)} modules in attributes, the model {len(found.modules)}")
    for (_, module), flag in zip(found.modules, training, strict=True):
        module.training = flag == "1"


def _fill(held: Held, entry: Any, originals: set[int], unpacker: Unpacker) -> None:
    dtype, shape, _, _ = check_entry(entry)
    if (dtype, shape) != (held.tensor.dtype, tuple(held.tensor.shape)):
        own = f"{held.tensor.dtype} of shape {tuple(held.tensor.shape)}"
        raise CompressionError(f"{held.path} is {dtype} of shape {shape} in the file and {own} in the model")
    if held.tensor.untyped_storage().data_ptr() in originals:
        raise CompressionError(f"{held.path} is shared by all copies of the model, and would be changed in all")
    value = unpacker.read(entry)
    if value.numel() and value.stride() != held.tensor.stride():
        raise CompressionError(
            f"{held.path} has strides {value.stride()} in the file and {held.tensor.stride()} in the model"
        )
    try:
        with torch.no_grad():
            held.tensor.copy_(value)
    except RuntimeError as error:
        raise CompressionError(f"{held.path} cannot be given other values: {error}") from error


def _digests(found: Holdings) -> list[list[str]]:
    """Return short digests of what is compared and not stored: content, what code has captured, and facts."""
    captured = [(held.path, digest_tensors([held.tensor])) for held in found.hidden() if held.place == CAPTURED]
    content = [(part.path, part.digest) for part in found.content]
    facts = [(fact.partition(" ")[0], digest_text(fact)) for fact in found.facts]
    return [[path, digest[:_DIGITS]] for path, digest in [*captured, *content, *facts]]


def _training(found: Holdings) -> str:
    return "".join("1" if module.training else "0" for _, module in found.modules)
