"""What a model holds outside of its parameters and buffers, in a file: stored, compared when it is read, or refused."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.digests import digest_tensors, digest_text
from cp_compress.base.errors import CompressionError, CorruptStreamError
from cp_compress.base.holdings.found import ATTRIBUTE, CAPTURED, PACKED, Held, Holdings
from cp_compress.base.holdings.tensors import as_plain, geometry, is_plain
from cp_compress.base.holdings.walking import holdings_of
from cp_compress.model.call_caches import UNKNOWN, written_by_calls
from cp_compress.model.storage.extra_states import is_stored
from cp_compress.model.storage.packing import Packer, Unpacker, check_entry

_DIGITS = 16
_STATES = (
    ": give a model whose layers were changed by the same library; where its first call changes what layers hold, as "
    "some libraries' do, one that was called as the saved one was"
)
_MOST_NEW_VALUES = 1 << 24
_INTERNALS = frozenset(vars(nn.Module()))
_PLACE = re.compile(r"(?:([\w.]+)\.)?([^\W\d]\w*)(?:\[(?:(\d+)|'([^'\\]*)')\])?")


def refuse_unheld(model: nn.Module, found: Holdings) -> None:
    """Raise CompressionError, naming it, for what a model holds and no file can."""
    if found.unseen:
        raise CompressionError(f"a file cannot hold {found.unseen[0]}")
    packed = [held for held in found.hidden() if held.place == PACKED and not is_stored(model, held)]
    if packed and "get_extra_state()" in packed[0].path:
        raise CompressionError(
            f"a file cannot hold {packed[0].path}: an extra state is given back where its class has set_extra_state "
            "too, and it consists of tensors, numbers, texts, and lists and dicts of them"
        )
    if packed:
        raise CompressionError(
            f"a file cannot hold {packed[0].path}: packed parameters can be read, and not be put together again. Save "
            "the model before it is packed, or its state_dict by torch.save"
        )
    scripts = [path for path, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    if scripts:
        raise CompressionError(f"a file cannot hold {scripts[0] or 'the model'}: it is TorchScript; use torch.jit.save")


def add_outside(packer: Packer, model: nn.Module, found: Holdings, whole: bool) -> dict[str, Any]:
    """Store tensors in attributes, with `whole` all others too, and return the table of them and of digests."""
    stored = [held for held in found.hidden() if held.place == ATTRIBUTE or (whole and not is_stored(model, held))]
    table: dict[str, Any] = {"tensors": [[held.path, packer.add(held.tensor)] for held in stored]}
    table["same"] = _digests(found)
    table["training"] = _training(found)
    return table if any(table.values()) else {}


def read_outside(table: dict[str, Any], candidate: nn.Module, model: nn.Module, unpacker: Unpacker) -> None:
    """Give a copy of `model` the stored tensors in place, and compare what is not stored.

    What calls keep in attributes and dicts is put there, or taken away, as the saved model had it. Raises
    CompressionError for a model that holds other things in other places.
    """
    try:
        entries = [(str(path), entry) for path, entry in table["tensors"]]
        same = [(str(path), str(digest)) for path, digest in table["same"]]
        training = str(table["training"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptStreamError("its table of what lies outside of parameters is not readable") from error
    found = holdings_of(candidate)
    places = {held.path: held for held in found.hidden() if held.place == ATTRIBUTE}
    given = holdings_of(model)
    shared = {geometry(held.tensor): held.path for held in given.tensors}
    again: list[tuple[Held, str]] = []
    for path in places.keys() - dict(entries).keys():
        value = _value_at(model, path)
        first = None if value is None else shared.get(geometry(value))
        if first is not None and first != path:  # what the model holds once, its copy may hold twice
            again.append((places[path], first))
        elif not _put(candidate, path, None):
            raise CompressionError(f"{path} is in the model, not in the file{_STATES}")
    originals = {held.tensor.untyped_storage().data_ptr() for held in given.tensors if held.tensor.numel()}
    for path, entry in entries:
        if path in places and _fits(places[path], entry):
            _fill(places[path], entry, originals, unpacker)
        elif not (_is_small(entry) and _put(candidate, path, unpacker.read(entry))):
            raise CompressionError(_misfit(path, entry, places.get(path)))
    for held, first in again:
        filled = _value_at(candidate, first)
        if filled is None or filled.shape != held.tensor.shape or filled.dtype != held.tensor.dtype:
            raise CompressionError(f"{held.path} is in the model, not in the file{_STATES}")
        with torch.no_grad():
            held.tensor.copy_(filled)
    own = dict(_digests(found))
    for path, digest in same:
        if own.pop(path, None) != digest:
            raise CompressionError(f"{path} is another in the model than in the one that was saved")
    if own:
        raise CompressionError(f"{min(own)} is in the model, not in the file")
    if len(training) != len(given.modules):
        raise CompressionError(f"the file has {len(training)} modules in attributes, the model {len(given.modules)}")
    if len(found.modules) == len(given.modules):  # a library's copies may hold more than the model does
        for (_, module), flag in zip(found.modules, training, strict=True):
            module.training = flag == "1"


def _value_at(model: nn.Module, path: str) -> Tensor | None:
    """Return the plain tensor at a path of attributes and keys, or None where there is none."""
    value: Any = model
    for name, number, text in re.findall(r"(?:^|\.)(\w+)|\[(\d+)\]|\['([^']*)'\]", path):
        try:
            value = getattr(value, name) if name else value[int(number) if number else text]
        except (AttributeError, LookupError, TypeError):
            return None
    return as_plain(value) if isinstance(value, Tensor) and is_plain(value) else None


def _fits(held: Held, entry: Any) -> bool:
    dtype, shape, _, _ = check_entry(entry)
    return (dtype, shape) == (held.tensor.dtype, tuple(held.tensor.shape))


def settle_buffers(candidate: nn.Module, entries: dict[str, Any]) -> None:
    """Give a copy of a model the buffers that only calls make, or take them away, as the saved model had them."""
    present = dict(candidate.named_buffers(remove_duplicate=False))
    for name in entries.keys() | present.keys():
        path, _, key = name.rpartition(".")
        try:
            module = candidate.get_submodule(path)
        except AttributeError:
            continue
        empty = module._buffers.get(key, UNKNOWN) is None
        written = key in written_by_calls(module) and key not in module._parameters
        if name in entries and name not in present and (empty or written) and isinstance(entries[name], list):
            dtype, shape, _, _ = check_entry(entries[name])
            if _is_small(entries[name]):
                device = next((tensor.device for tensor in candidate.parameters()), None)
                module._buffers[key] = torch.empty(shape, dtype=dtype, device=device)
        elif name in present and name not in entries and written:
            module._buffers[key] = None


def _is_small(entry: Any) -> bool:
    """Tell whether a tensor may take memory though no tensor of the model has its shape."""
    return math.prod(check_entry(entry)[1]) <= _MOST_NEW_VALUES


def _misfit(path: str, entry: Any, held: Held | None) -> str:
    if held is None:
        return f"{path} is in the file, not in the model{_STATES}"
    dtype, shape, _, _ = check_entry(entry)
    own = f"{held.tensor.dtype} of shape {tuple(held.tensor.shape)}"
    return f"{path} is {dtype} of shape {shape} in the file and {own} in the model"


def _put(candidate: nn.Module, path: str, value: Tensor | None) -> bool:
    """Put a tensor, or nothing, where a module keeps what its calls computed: an attribute, or an entry of a dict.

    Such a cache is there after the first call only, and of the size of that. Returns False for any other place, which
    is left as it is.
    """
    found = _PLACE.fullmatch(path)
    if found is None:
        return False
    owner, name, number, text = found.groups()
    try:
        module = candidate.get_submodule(owner or "")
    except AttributeError:
        return False
    kept = vars(module)
    if name in _INTERNALS or (name not in kept and getattr(module, name, None) is not None):
        return False
    if value is not None and (parameter := next(candidate.parameters(), None)) is not None:
        value = value.to(parameter.device)
    key = int(number) if number is not None else text
    if key is None:
        if not isinstance(kept.get(name), (Tensor, type(None))):
            return False
        kept[name] = value
        return True
    entries = kept.get(name)
    if type(entries) is not dict or not isinstance(entries.get(key), (Tensor, type(None))):
        return False
    if value is None:
        entries.pop(key, None)
    else:
        entries[key] = value
    return True


def _fill(held: Held, entry: Any, originals: set[int], unpacker: Unpacker) -> None:
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
