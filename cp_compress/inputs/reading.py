"""Labelled data, and inputs alone, in every form that torch users have, read in one way.

Accepted are a map-style `torch.utils.data.Dataset` (or any sequence) of (input, label), a pair (inputs, labels) of
tensors, and a `DataLoader` with a fixed order, of which the examples that it yields are used. A data set may have its
own batched read: a method `__getitems__(indices)` as torch's own `DataLoader` uses it.

Inputs may be trees of tensors. An example that is one tensor, or a mapping without "labels" and "label", has no label;
`Unlabeled` says so of any other one. As with `transformers`, the label of a mapping stands beside its inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, default_collate

from cp_compress.base.batching import is_out_of_memory, slices
from cp_compress.base.digests import Digested, digest_text, once, start_digest, update_with_bytes
from cp_compress.base.errors import CompressionError, CorruptStreamError, ObservationError
from cp_compress.base.showing.mistaken import mistaken
from cp_compress.inputs.forms import ALONE, FORMS, TableDataset, as_table, has_label, split, with_tensors
from cp_compress.inputs.loaders import count_in_order, require_positions
from cp_compress.inputs.tasks import IGNORED, TaskDataset, as_targets, ignored_by, join_batches, task_of
from cp_compress.inputs.trees import Inputs, TensorTree, digest_of, leaves_of, row_digests, rows_of
from cp_compress.inputs.unlabeled import REMEDY, Unlabeled
from cp_compress.inputs.wrapping import said_by

_UNREADABLE = (
    OSError,
    LookupError,
    TypeError,
    ValueError,
    RuntimeError,
    SyntaxError,
)  # the last from Pillow, for a PNG


class LabeledData(Digested):
    """A data set of `len()` examples, labelled or inputs alone, readable in order and by index.

    `source` is the object it was made from, `table` its (inputs, labels) where it holds them as tensors. Inputs come
    as a tensor (n, ...) in the data set's own dtype, or as a tree of such tensors, labels as int64 (n,), or as the data
    set's `task` has them.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        require_positions(source, "dataset is")
        self.task = task_of(source)
        self._alone = said_by(source, "labeled") is False
        self.table = as_table(_behind(source), alone=self._alone)
        self._count: int | None = None
        if self.table is not None and self.task == "single_label":
            _require_one_label_each(*self.table)
        loader = _loader_of(source)
        self._collate: Any = default_collate if loader is None else loader.collate_fn
        self._examples: Any = None if self.table is not None else source
        if isinstance(source, DataLoader):
            self._count = count_in_order(source)
            self._examples = source.dataset
        read = hasattr(self._examples, "__len__") and hasattr(self._examples, "__getitem__")
        if self.table is None and (not read or isinstance(self._examples, (str, bytes, nn.Module))):
            advice = mistaken(source, "data") or ALONE
            raise ObservationError(f"dataset is a {type(source).__name__}; it must be {FORMS}; {advice}")
        if len(self) == 0:
            raise ObservationError("dataset is empty: there is nothing to compare")

    @property
    def wrapped_dataset(self) -> Any:
        """The object that the data set was made from."""
        return self.source

    @property
    def tensors(self) -> tuple[Tensor, Tensor] | None:
        """Inputs (n, ...) and labels, where the data set holds both as tensors; None for any other data set."""
        inputs, labels = self.table or (None, None)
        return (inputs, labels) if isinstance(inputs, Tensor) and labels is not None else None

    @property
    def collates_itself(self) -> bool:
        """Whether a `DataLoader` makes the batches by a function of its own."""
        return self._collate is not default_collate

    def __len__(self) -> int:
        if self._count is not None:
            return self._count
        return len(self.table[0]) if self.table is not None else len(self._examples)

    @functools.cached_property
    def labeled(self) -> bool:
        """Whether examples have labels; of what is no tensor, the first example is read for it."""
        if self._alone:
            return False
        if self.table is not None:
            return self.table[1] is not None
        return self._read([0])[1] is not None if self.collates_itself else has_label(self.rows([0])[0])

    def require_labels(self, purpose: str) -> None:
        """Raise ObservationError for a data set of inputs alone; `purpose` is what needs labels."""
        if not self.labeled:
            raise ObservationError(f"{purpose} needs labels, and the data set has none: {REMEDY}")

    def select(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs (k, ...) and labels (k,) of the examples at `indices`, in that order.

        Raises ObservationError for inputs alone and for inputs that are trees of tensors.
        """
        inputs, labels = self.read(indices)
        if labels is None:
            self.require_labels("what is done here")
        assert labels is not None
        return self._one_tensor(inputs), labels

    def inputs(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Return inputs (k, ...) of the examples at `indices`; raises ObservationError for trees of tensors."""
        return self._one_tensor(self.read(indices)[0])

    def read(self, indices: Sequence[int] | Tensor) -> tuple[Inputs, Tensor | None]:
        """Return inputs of any form, and labels (k,) where there are any, of the examples at `indices`, in order."""
        positions = [int(index) for index in indices]
        if self.table is not None:
            table, truth = self.table
            inputs = rows_of(table, positions) if isinstance(table, Tensor) else table[positions]
            labels = None if truth is None else rows_of(truth, positions)
        else:
            inputs, labels = self._read(positions)
        vars(self).setdefault("labeled", labels is not None)  # so that no example is read to find out
        if labels is None:
            return inputs, None
        if self.task != "single_label":
            return inputs, as_targets(labels, len(positions), self.task, ignored_by(self.source))
        return inputs, as_labels(labels, len(positions))

    def require_one_tensor(self, purpose: str) -> None:
        """Raise ObservationError where an example's input is a tree of tensors; `purpose` is what needs one tensor."""
        self._one_tensor(self.read([0])[0], purpose)

    def _one_tensor(self, inputs: Inputs, purpose: str = "this") -> Tensor:
        if isinstance(inputs, TensorTree):
            floating = [name for name, one in zip(inputs.names, inputs.tensors, strict=True) if one.is_floating_point()]
            which = f"{floating[0]!r}" if len(floating) == 1 else "the floating-point tensor that it is about"
            raise ObservationError(
                f"{purpose} needs inputs of one tensor, and each example is {inputs.describe()}. Give {which} alone as "
                "the data, and models that map it to their answers, such as a torch.nn.Module whose forward passes on "
                "the other inputs; predictions, embeddings and outputs are compared for any inputs"
            )
        return inputs

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, labels) over the whole data set, in order; raises as `select`."""
        for part in slices(len(self), batch_size):
            yield self.select(range(part.start, part.stop))

    def parts(self, batch_size: int) -> Iterator[tuple[Inputs, Tensor | None]]:
        """Yield what `read` gives over the whole data set, in order."""
        for part in slices(len(self), batch_size):
            yield self.read(range(part.start, part.stop))

    def read_labels(self) -> Tensor:
        """Return all labels (n,), int64, on the CPU; where `known_labels` has them, no example is read."""
        known = self.known_labels()
        if known is not None:
            return known
        self.require_labels("what is done here")
        found = [labels for _, labels in self.parts(1024) if labels is not None]
        return join_batches(found, self.task, own=1, fill=IGNORED).cpu()

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
        for inputs, labels in self.parts(batch_size):
            digest.update(inputs, labels)
        return digest.hexdigest()

    def identity(self, sampled: int) -> Hashable:
        """Return what tells this data from other data that is held: its content, or itself and that of a sample."""
        if self.table is not None:
            table = self.table
            return once(lambda: digest_of(*table), *leaves_of(table[0]), table[1])
        # an id is safe here: who keeps it holds the object, so that no other can take its id
        spread = torch.linspace(0, len(self) - 1, min(len(self), sampled)).long()
        return id(self.source), len(self), digest_of(*self.read(spread))

    def rows(self, positions: Sequence[int]) -> list[Any]:
        """Return examples as the data set gives them, not joined into a batch; for one that is not made of tensors."""
        if callable(getattr(self._examples, "__getitems__", None)):
            return list(self._examples.__getitems__(list(positions)))
        return [self._read_one(position) for position in positions]

    def _read(self, positions: list[int]) -> tuple[Inputs, Any]:
        rows = self.rows(positions)
        if not self.collates_itself:
            rows = [with_tensors(row) for row in rows]
        try:
            batch = self._collate(rows)
        except (RuntimeError, TypeError) as error:
            raise ObservationError(
                f"examples {positions[0]}..{positions[-1]} cannot form a batch: {error}. Inputs of several lengths are "
                "padded by the collate_fn of a DataLoader"
            ) from error
        inputs, labels = split(batch, alone=self._alone)
        if len(inputs) != len(positions):
            raise ObservationError(
                f"the batch of {len(positions)} examples has {len(inputs)} rows: the first dimension must be theirs"
            )
        return inputs, labels

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

    def update(self, inputs: Inputs, labels: Tensor | None) -> None:
        """Add a batch of inputs (n, ...), of any form, and labels (n,)."""
        if labels is not None:
            update_with_bytes(self._labels, labels)
        if isinstance(inputs, TensorTree):
            for each in row_digests(inputs):
                self._inputs.update(each)
            return
        row = (inputs.dtype, tuple(inputs.shape[1:]))
        if row != self._row:
            self._row = row
            self._inputs.update(f"{row}".encode())
        update_with_bytes(self._inputs, inputs)

    def hexdigest(self) -> str:
        """Return the hex digest of what was added so far."""
        return digest_text(self._inputs.hexdigest(), self._labels.hexdigest())


def _require_one_label_each(inputs: Inputs, labels: Tensor | None) -> None:
    if labels is not None and labels.ndim > 1:
        raise ObservationError(
            f"dataset is read as a pair of tensors (inputs, labels), and these {_told(labels, len(inputs))}"
        )


def _told(labels: Tensor, count: int) -> str:
    told = f"labels of {count} examples have shape {tuple(labels.shape)}; expected ({count},)"
    if labels.ndim < 2 or len(labels) != count:
        return told
    return (
        f"{told}, or TaskDataset(dataset, task=…) for a data set with several labels or positions per example, or "
        "Unlabeled((first, second)) for two inputs without labels"
    )


def _behind(source: Any) -> Any:
    """Return the tensors that a data set holds where wrappers around them only say more of its examples."""
    inner = source
    while isinstance(inner, (TaskDataset, Unlabeled)):
        inner = inner.dataset
    return inner if isinstance(inner, TableDataset) else source


def _loader_of(source: Any) -> DataLoader[Any] | None:
    """Return the loader that makes the batches, if any: around the data set, or within what hands on its examples."""
    while isinstance(source, (Subset, TaskDataset, Unlabeled)):
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
