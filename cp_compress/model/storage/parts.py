"""One tensor in a file: its values, or the parts of a tensor subclass that is made of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cp_compress.base.errors import CompressionError, CorruptStreamError
from cp_compress.base.holdings.tensors import NotVisibleError, as_plain, is_made_of_others, is_plain, parts_of
from cp_compress.model.storage.packing import Packer, Unpacker, check_entry


def add_parts(packer: Packer, tensor: Tensor, whole: bool) -> Any:
    """Store a tensor and return its entry: that of the packer, or a dict of a text and the entries of its parts.

    With `whole`, to learn the size, tensors are taken apart too that cannot be put together again, as quantised ones.
    Raises TypeError for those otherwise.
    """
    try:
        if is_plain(tensor):
            return packer.add(as_plain(tensor))
        if not whole and not is_made_of_others(tensor):
            kind = "a quantised tensor" if tensor.is_quantized else f"a tensor of layout {tensor.layout}"
            raise TypeError("a tensor on the device meta has no values" if tensor.is_meta else kind)
        facts, parts = parts_of(tensor)
    except NotVisibleError as reason:
        raise TypeError(str(reason)) from reason
    tensors = [(name, part) for name, part in parts if isinstance(part, Tensor)]
    return {"facts": facts, "parts": [[name, add_parts(packer, part, whole)] for name, part in tensors]}


def fill_parts(name: str, entry: Any, targets: Sequence[Tensor], unpacker: Unpacker) -> None:
    """Give tensors of a model, which share one, the values of an entry; raises CompressionError where they differ."""
    target = targets[0]
    if isinstance(entry, dict):
        _fill_subclass(name, entry, target, unpacker)
        return
    dtype, shape, _, _ = check_entry(entry)
    if shape != tuple(target.shape):
        raise CompressionError(f"{name} has shape {shape} in the file and {tuple(target.shape)} in the model")
    if dtype != target.dtype and not (dtype.is_floating_point and target.is_floating_point()):
        raise CompressionError(f"{name} is {dtype} in the file and {target.dtype} in the model")
    if is_made_of_others(target):
        raise CompressionError(f"{name} is a plain tensor in the file and a {type(target).__name__} in the model")
    value = unpacker.read(entry).to(target.device)
    for one in targets:
        one.data = value


def _fill_subclass(name: str, entry: dict[str, Any], target: Tensor, unpacker: Unpacker) -> None:
    try:
        facts, parts = str(entry["facts"]), [(str(part), inner) for part, inner in entry["parts"]]
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptStreamError(f"{str(entry)[:200]} is not a table entry of a tensor") from error
    if not is_made_of_others(target):
        rule = "give the model with its layers changed in the same way, by the library that made the file's"
        raise CompressionError(f"{name} is a {facts.split()[0]} in the file and a plain tensor in the model: {rule}")
    told, own = parts_of(target)
    if told != facts or [part for part, value in own if isinstance(value, Tensor)] != [part for part, _ in parts]:
        raise CompressionError(f"{name} is {facts} in the file and {told} in the model")
    for part, inner in parts:
        fill_parts(f"{name}.{part}", inner, [dict(own)[part]], unpacker)
