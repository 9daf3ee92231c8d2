"""Inputs without labels, such as texts, token ids or images, in the forms that models take them, read in batches."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from cp_compress.base.batching import slices
from cp_compress.base.digests import Digested, digest_text, start_digest, update_with_tensor
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ObservationError
from cp_compress.base.identity import identify
from cp_compress.inputs.row_digests import digest_values
from cp_compress.inputs.tokens import pad

_FORMS = (
    "a tensor (n, …), what a tokenizer returns (a mapping of tensors (n, …)), a list or map-style data set of texts, "
    "tensors or rows that a tokenizer returned, or a mapping from names to such items"
)
_UNREADABLE = (OSError, LookupError, TypeError, ValueError, RuntimeError)
_LONGEST_NAME, _READ_AGAIN = 80, 4
_IDS, _MASK = "input_ids", "attention_mask"
_NAMED = (_IDS, "input_features", "input_values", "pixel_values")
"""The names that tell a batch for a model from a mapping of names to items."""


class Items(Digested):
    """Inputs that a model takes in batches, readable by position.

    A batch of a tensor is a tensor, of a mapping of tensors a mapping, of texts a list. Rows that are tensors of one
    shape are stacked; token ids of several lengths are padded after the last one, as a mapping of `input_ids` and
    `attention_mask`. Other rows are a list.

    Args:
        source: A tensor or array (n, …); a mapping of tensors (n, …) such as `input_ids` or `pixel_values`, as what
            prepares inputs for `transformers` returns; a sequence or map-style data set of texts, tensors or mappings;
            or a mapping from names to them.
        what: What errors call it, such as "the queries".

    Raises:
        ObservationError: If it has another form, or holds nothing.

    >>> items = Items({"first": "a text", "second": "another"}, "the queries")
    >>> items.names, items.batch([1])
    (('first', 'second'), ['another'])
    """

    def __init__(self, source: Any, what: str) -> None:
        self.source, self.what = source, what
        self.names: tuple[Any, ...] | None = None
        self._tensors: dict[str, Tensor] | None = None
        self._rows: Any = None
        if isinstance(source, (Tensor, np.ndarray)):
            self._tensors = {"": torch.as_tensor(source)}
        elif (
            isinstance(source, Mapping)
            and any(name in source for name in _NAMED)
            and all(map(_is_array, source.values()))
        ):
            self._tensors = {str(name): torch.as_tensor(value) for name, value in source.items()}
        elif isinstance(source, Mapping) and _IDS in source:  # of a tokenizer that was not asked for tensors
            columns = dict(source)
            self._rows = [{name: columns[name][row] for name in columns} for row in range(len(columns[_IDS]))]
        elif isinstance(source, Mapping):
            self.names, self._rows = tuple(source), list(source.values())
        elif isinstance(source, (str, bytes, DataLoader, IterableDataset)) or not _is_map_style(source):
            raise ObservationError(f"{what} are a {type(source).__name__}; they must be {_FORMS}")
        else:
            self._rows = source
        if self._tensors is not None and (
            any(not one.ndim for one in self._tensors.values()) or len({*map(len, self._tensors.values())}) > 1
        ):
            shapes = ", ".join(str(tuple(one.shape)) for one in self._tensors.values())
            raise ObservationError(f"{what} are tensors of shape {shapes}; each needs one row an item, of one number")
        if not len(self):
            raise ObservationError(f"{what} are none: there is nothing to compare")

    def __len__(self) -> int:
        return len(self._rows) if self._tensors is None else len(next(iter(self._tensors.values())))

    def batch(self, positions: Sequence[int]) -> Any:
        """Return the items at positions as one batch, in the form that models take."""
        places = list(map(int, positions))
        if self._tensors is not None:
            chosen = {name: one[places] for name, one in self._tensors.items()}
            return chosen.get("", chosen)
        return _as_batch([self._row(place) for place in places])

    def digest(self) -> str:
        """Return the hex digest of all items; a copy in another object has the same."""
        digest = start_digest()
        for content in self.contents:
            digest.update(content)
        return digest.hexdigest()

    @functools.cached_property
    def contents(self) -> list[bytes]:
        """The digest of each item, equal for equal ones; raises ObservationError if they differ at a second reading."""
        found = [_content(self._item(position)) for position in range(len(self))]
        for position, content in enumerate(found[:_READ_AGAIN]):
            if _content(self._item(position)) != content:
                told = f"{self.what} are others when #{position} is read again: leave random augmentation out"
                raise ObservationError(told)
        return found

    def example_digests(self) -> list[frozenset[str]]:
        """Return the digests of each item by which data that a model was made with are known; of tensors only."""
        found = []
        for position in range(len(self)):
            item = self._item(position)
            item = item.get(_IDS) if isinstance(item, Mapping) else item
            found.append(frozenset(digest_values(torch.as_tensor(item)[None])) if _is_array(item) else frozenset())
        return found

    def name(self, position: int) -> str:
        """Return how a person knows an item: its text, its name, or its number."""
        if self.names is not None:
            return shortened(str(self.names[position]), _LONGEST_NAME)
        item = None if self._rows is None else self._row(position)
        return shortened(repr(item), _LONGEST_NAME) if isinstance(item, str) else f"#{position}"

    def repeated(self) -> Tensor:
        """Return the number (n,) of each item's content, one for those that are equal."""
        known: dict[bytes, int] = {}
        return torch.tensor([known.setdefault(content, len(known)) for content in self.contents])

    def _item(self, position: int) -> Any:
        if self._tensors is None:
            return self._row(position)
        item = {name: one[position] for name, one in self._tensors.items()}
        return item.get("", item)

    def _row(self, position: int) -> Any:
        try:
            return self._rows[position]
        except _UNREADABLE as error:
            told = f"{self.what} cannot be read at #{position}: {type(error).__name__}: {error}"
            raise ObservationError(told) from error


def batches(count: int, size: int) -> list[range]:
    """Return the positions of consecutive batches of at most `size` that cover `range(count)`."""
    return [range(part.start, part.stop) for part in slices(count, size)]


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a batch with copies of its tensors on a device: a model may write to what it is given."""
    if isinstance(batch, Tensor):
        return batch.to(device, copy=True)
    if isinstance(batch, Mapping):
        return {name: to_device(value, device) for name, value in batch.items()}
    return [to_device(value, device) for value in batch] if isinstance(batch, list) else batch


def _is_array(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def _is_map_style(source: Any) -> bool:
    return hasattr(source, "__len__") and hasattr(source, "__getitem__")


def _as_batch(rows: list[Any]) -> Any:
    if all(map(_is_array, rows)):
        tensors = [torch.as_tensor(row) for row in rows]
        if len({one.shape for one in tensors}) == 1:
            return torch.stack(tensors)
        if all(one.ndim == 1 and not one.is_floating_point() for one in tensors):
            return dict(zip((_IDS, _MASK), pad([one.long() for one in tensors]), strict=True))
        return tensors
    if all(isinstance(row, Mapping) and any(name in row for name in _NAMED) for row in rows):
        return _padded(rows)
    return rows


def _padded(rows: list[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return rows that a tokenizer returned as one batch; what differs in length is filled up with 0."""
    columns = {name: [torch.as_tensor(row[name]) for row in rows] for name in rows[0]}
    if _IDS in columns:
        columns.setdefault(_MASK, [torch.ones(len(one), dtype=torch.int64) for one in columns[_IDS]])
    return {name: torch.nn.utils.rnn.pad_sequence(values, batch_first=True) for name, values in columns.items()}


def _content(item: Any) -> bytes:
    digest = start_digest()
    if isinstance(item, Mapping):
        for name in sorted(map(str, item)):
            digest.update(name.encode())
            update_with_tensor(digest, torch.as_tensor(item[name]))
    elif _is_array(item):
        update_with_tensor(digest, torch.as_tensor(item))
    else:
        digest.update((digest_text(item) if isinstance(item, str) else identify(item)).encode())
    return digest.digest()
