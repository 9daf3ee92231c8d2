"""The inputs of a model: one tensor, or a tree of tensors (mappings, tuples, dataclasses) with a row an example."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from cp_compress.base.digests import digest_tensors, digest_text, start_digest, update_with_bytes
from cp_compress.base.errors import ObservationError

MASKS = ("attention_mask", "mask")
"""The names of inputs (n, length) that say by 1, or True, which places of an example count."""
_LEAVE_OUT = "Leave such columns out, or turn them into tensors in the data set or in the collate_fn of a DataLoader"
_Rebuild = Callable[[Iterator[Tensor]], Any]

# torch 2.6 cannot index these: their rows are taken as those of the signed type with the same bits
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


class TensorTree:
    """Several tensors (n, ...) that are one input of n examples, nested in mappings, tuples, lists or dataclasses.

    It is indexed by rows. `names` say where each of its `tensors` stands, and `value` is what they are nested in: the
    mapping, tuple or object that a model is called with.

    Raises ObservationError for a tree without tensors, with anything else than tensors, or of several lengths.

    >>> tree = TensorTree({"ids": torch.tensor([[1, 2], [3, 4]]), "mask": torch.tensor([[1, 1], [1, 0]])})
    >>> tree.names, len(tree), tree[1:].value["mask"].tolist()
    (('ids', 'mask'), 2, [[1, 0]])
    """

    def __init__(self, value: Any) -> None:
        found: list[tuple[str, Tensor]] = []
        self._rebuild = _flatten(value, "", found)
        self.names = tuple(name for name, _ in found)
        self.tensors = tuple(tensor for _, tensor in found)
        if not found:
            raise ObservationError(f"the inputs are an empty {type(value).__name__}: they hold no tensor")
        lengths = [tensor.shape[0] if tensor.ndim else None for tensor in self.tensors]
        if None in lengths or len(set(lengths)) > 1:
            raise ObservationError(
                f"the inputs are {self.describe(rows=False)}: the first dimension of each must be the examples"
            )

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> TensorTree:
        return self.map(lambda tensor: rows_of(tensor, rows))

    @property
    def value(self) -> Any:
        """The nested tensors."""
        return self._rebuild(iter(self.tensors))

    @property
    def mask(self) -> Tensor | None:
        """Which places (n, length), bool, of the examples count, where an input is such a mask."""
        for name, tensor in zip(self.names, self.tensors, strict=True):
            if name in MASKS and is_mask(tensor, len(self)):
                return tensor.bool()
        return None

    def map(self, change: Callable[[Tensor], Tensor]) -> TensorTree:
        """Return the tree with each tensor changed."""
        return self.replaced([change(tensor) for tensor in self.tensors])

    def replaced(self, tensors: Sequence[Tensor]) -> TensorTree:
        """Return the tree with other tensors in the places of its own."""
        made = object.__new__(TensorTree)
        made._rebuild, made.names, made.tensors = self._rebuild, self.names, tuple(tensors)
        return made

    def to(self, *place: Any, **options: Any) -> TensorTree:
        """Return the tree with each tensor moved, as `Tensor.to` does."""
        return self.map(lambda tensor: tensor.to(*place, **options))

    def cpu(self) -> TensorTree:
        """Return the tree on the CPU."""
        return self.map(Tensor.cpu)

    def describe(self, *, rows: bool = True) -> str:
        """Return the names, dtypes and shapes of the tensors; with `rows` the shapes of an example."""
        parts = [
            f"{name or 'input'}: {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape[1 if rows else 0 :])}"
            for name, tensor in zip(self.names, self.tensors, strict=True)
        ]
        return f"{len(parts)} tensor{'s' if len(parts) > 1 else ''} ({', '.join(parts)})"


Inputs = Tensor | TensorTree
"""What a model is given for n examples."""


def as_inputs(value: Any) -> Inputs:
    """Return what a batch gives as inputs: one tensor as it is, anything else as a tree; raises as `TensorTree`."""
    if isinstance(value, np.ndarray):
        return torch.as_tensor(value)
    return value if isinstance(value, (Tensor, TensorTree)) else TensorTree(value)


def mask_of(inputs: Inputs) -> Tensor | None:
    """Return which places (n, length), bool, count, where one of several inputs is a mask; else None."""
    return inputs.mask if isinstance(inputs, TensorTree) else None


def leaves_of(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return the tensors of inputs."""
    return (inputs,) if isinstance(inputs, Tensor) else inputs.tensors


def join_inputs(parts: Sequence[Inputs]) -> Inputs:
    """Return inputs of consecutive examples as one."""
    if isinstance(parts[0], Tensor):
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    tensors = zip(*(leaves_of(part) for part in parts), strict=True)
    return parts[0].replaced([torch.cat(each) for each in tensors])


def digest_of(inputs: Inputs, labels: Tensor | None) -> str:
    """Return the digest of inputs and labels: names, dtypes, shapes and values."""
    names = ["tensor"] if isinstance(inputs, Tensor) else inputs.names
    alone = [] if labels is None else [labels]
    return digest_text(*names, str(labels is None), digest_tensors([*leaves_of(inputs), *alone]))


def arguments_of(inputs: Inputs) -> Any:
    """Return what a model is called with: a tensor, a tuple of arguments, or a dict of keywords."""
    value = inputs if isinstance(inputs, Tensor) else inputs.value
    return dict(value) if isinstance(value, Mapping) else value


def split_rows(inputs: Inputs, size: int) -> list[Inputs]:
    """Return inputs in parts of `size` examples, the last of what is left."""
    return [inputs[start : start + size] for start in range(0, len(inputs), size)]


def rows_of(tensor: Tensor, rows: slice | Tensor | Sequence[int]) -> Tensor:
    """Return the rows of a tensor (n, ...)."""
    signed = _SIGNED.get(tensor.dtype)
    return tensor[rows] if signed is None else tensor.view(signed)[rows].view(tensor.dtype)


def values_in(inputs: Inputs) -> int:
    """Return how many values the largest tensor of one example has."""
    return max(tensor[0].numel() for tensor in leaves_of(inputs))


def is_mask(tensor: Tensor, count: int) -> bool:
    """Tell whether a tensor says of `count` examples which of their places count: (n, length), of 0 and 1."""
    if tensor.ndim != 2 or len(tensor) != count or tensor.is_complex():
        return False
    return tensor.dtype == torch.bool or bool(((tensor == 0) | (tensor == 1)).all())


def row_digests(tree: TensorTree, *, values: bool = False) -> list[bytes]:
    """Return the digest of each example of a tree: of names, dtypes, shapes and bytes; places of padding have no part.

    With `values` numbers are compared as such, whatever their dtype, and −0 is 0.
    """
    mask = tree.mask
    keep = None if mask is None or bool(mask.all()) else mask.cpu()
    tensors = [tensor.detach().cpu() for tensor in tree.tensors]
    if values:
        tensors = [tensor if tensor.is_complex() else tensor.to(torch.float64) + 0.0 for tensor in tensors]
    padded = [keep is not None and tensor.shape[:2] == keep.shape for tensor in tensors]
    found = []
    for row in range(len(tree)):
        digest = start_digest()
        for name, tensor, shorter in zip(tree.names, tensors, padded, strict=True):
            part = tensor[row][keep[row]] if shorter and keep is not None else tensor[row]
            digest.update(f"{name} {part.dtype} {tuple(part.shape)}".encode())
            update_with_bytes(digest, part)
        found.append(digest.digest())
    return found


def _flatten(value: Any, name: str, found: list[tuple[str, Tensor]]) -> _Rebuild:
    """Add the tensors of a nested value to `found`, by name, and return what nests others in the same way."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        value = torch.as_tensor(value)
    if isinstance(value, Tensor):
        found.append((name, value))
        return next
    if value is None:  # an argument that is left out
        return lambda tensors: None
    if isinstance(value, Mapping):
        keys = list(value)
        parts = [_flatten(value[key], _below(name, key), found) for key in keys]
        return lambda tensors: _like(value, {key: part(tensors) for key, part in zip(keys, parts, strict=True)})
    if isinstance(value, (str, bytes)) or (isinstance(value, list) and any(isinstance(one, str) for one in value)):
        raise ObservationError(
            f"{f'{name!r} of the inputs' if name else 'the input'} is text; a model's inputs are tensors. {_LEAVE_OUT}"
        )
    if isinstance(value, (tuple, list)):
        fields: Sequence[Any] = getattr(value, "_fields", range(len(value)))
        parts = [_flatten(entry, _below(name, field), found) for field, entry in zip(fields, value, strict=True)]
        if hasattr(value, "_fields"):
            return lambda tensors: type(value)(*(part(tensors) for part in parts))
        return lambda tensors: type(value)(part(tensors) for part in parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        parts = [_flatten(getattr(value, field), _below(name, field), found) for field in names]
        return lambda tensors: dataclasses.replace(
            value, **{field: part(tensors) for field, part in zip(names, parts, strict=True)}
        )
    leaves, form = pytree.tree_flatten(value)
    if len(leaves) == 1 and leaves[0] is value:
        where = f"{name!r} of the inputs" if name else "the input"
        raise ObservationError(f"{where} is of type {type(value).__name__}; a model's inputs are tensors. {_LEAVE_OUT}")
    parts = [_flatten(leaf, _below(name, place), found) for place, leaf in enumerate(leaves)]
    return lambda tensors: pytree.tree_unflatten([part(tensors) for part in parts], form)


def _like(mapping: Mapping[Any, Any], content: dict[Any, Any]) -> Any:
    """Return a mapping of the kind of another one, where its class can be made of a dict."""
    if type(mapping) is dict:
        return content
    try:
        return type(mapping)(content)  # type: ignore[call-arg]
    except TypeError:
        return content


def _below(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)
