"""Labelled data in every form that torch users have, read in one way.

Accepted are a map-style `torch.utils.data.Dataset` (or any sequence) of (input, label), a pair of tensors (inputs,
labels), and a `DataLoader` with a fixed order, of which the examples that it yields are used. A data set may have its
own batched read: a method `__getitems__(indices)` as torch's own `DataLoader` uses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate

from cp_compress.base.batching import is_out_of_memory, slices
from cp_compress.base.digests import Digested, digest_text, start_digest, update_with_bytes
from cp_compress.base.errors import CompressionError, CorruptStreamError, ObservationError
from cp_compress.base.showing.mistaken import mistaken
from cp_compress.inputs.loaders import count_in_order, require_positions
from cp_compress.inputs.tasks import IGNORED, TaskDataset, as_targets, ignored_by, join_batches, task_of

_FORMS = "a map-style Dataset of (input, label), a pair of tensors (inputs, labels) or an unshuffled DataLoader"

# torch 2.6 cannot index these: their rows are taken as those of the signed type with the same bits
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
_UNREADABLE = (
    OSError,
    LookupError,
    TypeError,
    ValueError,
    RuntimeError,
    SyntaxError,
)  # the last from Pillow, for a PNG


class LabeledData(Digested):
    """A data set of `len()` labelled examples, readable in order and by index.

    `source` is the object it was made from, `tensors` its (inputs, labels) where it holds them as tensors. Inputs come
    as a tensor (n, ...) in the data set's own dtype, labels as int64 (n,), or as the data set's `task` has them.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        require_positions(source, "dataset is")
        self.task = task_of(source)
        self.tensors = _as_tensors(source)
        self._count: int | None = None
        if self.tensors is not None and self.task == "single_label":
            _require_one_label_each(*self.tensors)
        loader = _loader_of(source)
        self._collate: Any = default_collate if loader is None else loader.collate_fn
        self._examples: Any = None if self.tensors is not None else source
        if isinstance(source, DataLoader):
            self._count = count_in_order(source)
            self._examples = source.dataset
        if self.tensors is None and not (hasattr(self._examples, "__len__") and hasattr(self._examples, "__getitem__")):
            advice = mistaken(source, "data")
            raise ObservationError(
                f"dataset is a {type(source).__name__}; it must be {_FORMS}{advice and f'; {advice}'}"
            )
        if len(self) == 0:
            raise ObservationError("dataset is empty: there is nothing to compare")

    @property
    def wrapped_dataset(self) -> Any:
        """The object that the data set was made from."""
        return self.source

    @property
    def collates_itself(self) -> bool:
        """Whether a `DataLoader` makes the batches by a function of its own."""
        return self._collate is not default_collate

    def __len__(self) -> int:
        if self._count is not None:
            return self._count
        return len(self.tensors[0]) if self.tensors is not None else len(self._examples)

    def select(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs (k, ...) and labels (k,) of the examples at `indices`, in that order."""
        positions = [int(index) for index in indices]
        if self.tensors is not None:
            inputs, labels = (_rows(tensor, positions) for tensor in self.tensors)
        else:
            inputs, labels = self._read(positions)
        if self.task != "single_label":
            return inputs, as_targets(labels, len(positions), self.task, ignored_by(self.source))
        return inputs, as_labels(labels, len(positions))

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, labels) over the whole data set, in order."""
        for part in slices(len(self), batch_size):
            yield self.select(range(part.start, part.stop))

    def read_labels(self) -> Tensor:
        """Return all labels (n,), int64, on the CPU; where `known_labels` has them, no example is read."""
        known = self.known_labels()
        if known is not None:
            return known
        return join_batches([labels for _, labels in self.batches(1024)], self.task, own=1, fill=IGNORED).cpu()

    def known_labels(self) -> Tensor | None:
        """Return all labels (n,), int64, where they are there without reading an example, else None.

        They are the `labels` of this package's own data sets, and the `targets` of a data set of torchvision that does
        not transform them. Of any other class an attribute may be something else than the labels of its items.
        """
        home, kept = type(self.source).__module__, getattr(self.source, "labels", None)
        if home.startswith("cp_compress.") and isinstance(kept, Tensor):
            return kept.cpu()
        if not home.startswith("torchvision.datasets.") or getattr(self.source, "target_transform", None) is not None:
            return None
        try:
            samples = getattr(self.source, "samples", None)  # of folders: what items are read from
            targets = self.source.targets if samples is None else [label for _, label in samples]
            return as_labels(targets, len(self)).cpu()
        except (AttributeError, TypeError, ValueError, ObservationError):
            return None

    def digest(self, batch_size: int = 1024) -> str:
        """Return the hex digest of all inputs and labels; it does not depend on the batch size or the form."""
        digest = DataDigest()
        for inputs, labels in self.batches(batch_size):
            digest.update(inputs, labels)
        return digest.hexdigest()

    def rows(self, positions: Sequence[int]) -> list[Any]:
        """Return examples as the data set gives them, not joined into a batch; for one that is not made of tensors."""
        if callable(getattr(self._examples, "__getitems__", None)):
            return list(self._examples.__getitems__(list(positions)))
        return [self._read_one(position) for position in positions]

    def _read(self, positions: list[int]) -> tuple[Any, Any]:
        rows = self.rows(positions)
        try:
            batch = self._collate(rows)
        except (RuntimeError, TypeError) as error:
            raise ObservationError(f"examples {positions[0]}..{positions[-1]} cannot form a batch: {error}") from error
        if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[0], Tensor):
            advice = mistaken(self.source, "data")
            raise ObservationError(
                f"an example of the dataset is not an (input tensor, label) pair; it must be {_FORMS}"
                f"{advice and f'; {advice}'}"
            )
        return batch[0], batch[1]

    def _read_one(self, position: int) -> Any:
        try:
            return self._examples[position]
        except (CorruptStreamError, ObservationError, CompressionError):
            raise
        except MemoryError as error:
            raise MemoryError(f"example #{position}: {error}") from error
        except _UNREADABLE as error:
            if is_out_of_memory(error):  # whoever reads in batches may halve them
                raise
            raise ObservationError(f"example #{position} cannot be read: {type(error).__name__}: {error}") from error


class DataDigest:
    """A running digest of labelled data that does not depend on how the data is cut into batches."""

    def __init__(self) -> None:
        self._inputs, self._labels = start_digest(), start_digest()
        self._row: tuple[torch.dtype, tuple[int, ...]] | None = None

    def update(self, inputs: Tensor, labels: Tensor) -> None:
        """Add a batch of inputs (n, ...) and labels (n,)."""
        row = (inputs.dtype, tuple(inputs.shape[1:]))
        if row != self._row:
            self._row = row
            self._inputs.update(f"{row}".encode())
        update_with_bytes(self._inputs, inputs)
        update_with_bytes(self._labels, labels)

    def hexdigest(self) -> str:
        """Return the hex digest of what was added so far."""
        return digest_text(self._inputs.hexdigest(), self._labels.hexdigest())


def _as_tensors(source: Any) -> tuple[Tensor, Tensor] | None:
    if isinstance(source, TensorDataset):
        source = source.tensors
    if not isinstance(source, (tuple, list)) or len(source) != 2:
        return None
    arrays = [isinstance(part, (Tensor, np.ndarray)) for part in source]
    if any(arrays) and not all(arrays):
        kinds = " and a ".join(type(part).__name__ for part in source)
        raise ObservationError(f"dataset is a pair of a {kinds}: inputs and labels must both be tensors")
    if not all(arrays):
        return None
    inputs, labels = (torch.as_tensor(part) for part in source)
    if inputs.ndim == 0 or labels.ndim == 0 or len(inputs) != len(labels):
        shapes = f"inputs {tuple(inputs.shape)} and labels {tuple(labels.shape)}"
        raise ObservationError(f"dataset has {shapes}: the first dimensions must be equal")
    return inputs, labels


def _rows(tensor: Tensor, positions: list[int]) -> Tensor:
    """Return the rows of a tensor (n, ...) at positions."""
    signed = _SIGNED.get(tensor.dtype)
    return tensor[positions] if signed is None else tensor.view(signed)[positions].view(tensor.dtype)


def _require_one_label_each(inputs: Tensor, labels: Tensor) -> None:
    if labels.ndim > 1:
        raise ObservationError(
            f"dataset is read as a pair of tensors (inputs, labels), and these {_told(labels, len(inputs))}"
        )


def _told(labels: Tensor, count: int) -> str:
    told = f"labels of {count} examples have shape {tuple(labels.shape)}; expected ({count},)"
    if labels.ndim < 2 or len(labels) != count:
        return told
    return f"{told}, or TaskDataset(dataset, task=…) for a data set with several labels or positions per example"


def _loader_of(source: Any) -> DataLoader[Any] | None:
    """Return the loader that makes the batches, if any: around the data set, or within what hands on its examples."""
    while isinstance(source, (Subset, TaskDataset)):
        source = source.dataset
    return source if isinstance(source, DataLoader) else None


def as_labels(labels: Any, count: int) -> Tensor:
    """Return labels of `count` examples as int64 (count,); raises ObservationError for what are no class numbers."""
    try:
        tensor = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ObservationError(f"labels must be class numbers of an integer dtype: {error}") from error
    if tensor.shape != (count,):
        raise ObservationError(_told(tensor, count))
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ObservationError(f"labels are {tensor.dtype}; they must be class numbers of an integer dtype")
    numbers = tensor.to(torch.int64)
    if tensor.dtype == torch.uint64 and bool((numbers < 0).any()):
        largest = int(tensor.numpy(force=True).max())
        raise ObservationError(f"labels are torch.uint64 up to {largest}; class numbers must be below 2**63")
    return numbers
