"""The extra states of modules (`get_extra_state`) in a file, where they are made of tensors and plain values."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from cp_compress.base.errors import CompressionError, CorruptStreamError
from cp_compress.base.holdings.found import Held
from cp_compress.base.holdings.tensors import is_plain
from cp_compress.model.storage.packing import Packer, Unpacker, check_entry

_MOST_VALUES = 1 << 30
_PLAIN = (bool, int, float, str, type(None))


def add_extra_states(packer: Packer, model: nn.Module) -> dict[str, Any]:
    """Store the extra states that `set_extra_state` takes back, and return a table of them by the modules' paths.

    One that holds anything but tensors, numbers, texts, bytes, and lists, tuples and dicts of them is not stored.
    """
    return {path: _stored(packer, state) for path, state in _states(model).items()}


def is_stored(model: nn.Module, held: Held) -> bool:
    """Tell whether what was found in a model is part of an extra state that is stored."""
    owner, inside, _ = held.path.partition("get_extra_state()")
    return bool(inside) and owner.rstrip(".") in _states(model)


def read_extra_states(table: Any, candidate: nn.Module, unpacker: Unpacker) -> None:
    """Give modules the extra states of a file; raises CompressionError, naming it, where one takes none."""
    if not isinstance(table, dict):
        raise CorruptStreamError("its table of extra states is not readable")
    for path, entry in table.items():
        state = _read(entry, unpacker, 0)
        try:
            module = candidate.get_submodule(path)
        except AttributeError as error:
            raise CompressionError(f"{path} has an extra state in the file, and is not in the model") from error
        if not _takes_states(module):
            raise CompressionError(f"{path or 'the model'} has an extra state in the file, and takes none in the model")
        try:
            module.set_extra_state(state)
        except Exception as error:  # it is the user's own method
            raise CompressionError(f"set_extra_state of {path or 'the model'} fails: {error}") from error


def _states(model: nn.Module) -> dict[str, Any]:
    states = {path: module.get_extra_state() for path, module in model.named_modules() if _takes_states(module)}
    return {path: state for path, state in states.items() if _is_plain(state, 0)}


def _takes_states(module: nn.Module) -> bool:
    own = type(module)
    gives = own.get_extra_state is not nn.Module.get_extra_state
    return gives and own.set_extra_state is not nn.Module.set_extra_state


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, Tensor):
        return type(value) in (Tensor, nn.Parameter) and is_plain(value)
    if type(value) in (list, tuple, dict):
        keys = all(type(key) in (str, int) for key in value) if type(value) is dict else True
        parts = value.values() if type(value) is dict else value
        return keys and depth < 16 and all(_is_plain(part, depth + 1) for part in parts)
    return type(value) in (*_PLAIN, bytes)


def _stored(packer: Packer, value: Any) -> Any:
    if isinstance(value, Tensor):
        return {"tensor": packer.add(value)}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, dict):
        return {"dict": [[key, _stored(packer, part)] for key, part in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_stored(packer, part) for part in value]}
    if isinstance(value, float):  # JSON has no infinity
        return {"float": value.hex()}
    return {"plain": value}


def _read(entry: Any, unpacker: Unpacker, depth: int) -> Any:
    try:
        ((kind, content),) = entry.items()
        if kind == "tensor":
            if math.prod(check_entry(content)[1]) > _MOST_VALUES:
                raise ValueError(kind)
            return unpacker.read(content)
        if kind == "dict" and depth < 16:
            return {key: _read(part, unpacker, depth + 1) for key, part in content}
        if kind in ("list", "tuple") and depth < 16:
            parts = [_read(part, unpacker, depth + 1) for part in content]
            return parts if kind == "list" else tuple(parts)
        if kind == "bytes":
            return bytes.fromhex(content)
        if kind == "float":
            return float.fromhex(content)
        if kind == "plain" and isinstance(content, _PLAIN):
            return content
    except (AttributeError, TypeError, ValueError) as error:
        raise CorruptStreamError(f"{str(entry)[:200]} is not a table entry of an extra state") from error
    raise CorruptStreamError(f"{str(entry)[:200]} is not a table entry of an extra state")
