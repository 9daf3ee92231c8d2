"""The forms in which a data set, or a batch of one, may hold inputs and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from cp_compress.base.errors import ObservationError
from cp_compress.inputs.trees import Inputs, TensorTree, as_inputs

FORMS = "a map-style Dataset of (input, label), a pair of tensors (inputs, labels) or an unshuffled DataLoader"
ALONE = "without labels: inputs alone, one tensor or mapping an example, or Unlabeled(dataset)"
LABELS = ("labels", "label")
"""The names under which a mapping holds the label of an example."""


class TableDataset:
    """Inputs of any form and labels, of n examples each, or inputs alone, as a map-style data set."""

    def __init__(self, inputs: Inputs, labels: Tensor | None) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        rows = self.inputs
        found = rows[index] if isinstance(rows, Tensor) else rows.map(lambda tensor: tensor[index]).value
        return found if self.labels is None else (found, self.labels[index])


def as_data_set(dataset: Any, *, alone: bool = False) -> Any:
    """Return a mapping of tensors, or a pair of a tree and labels, as a data set; anything else as it is."""
    if not isinstance(dataset, (Mapping, tuple)):
        return dataset
    table = as_table(dataset, alone=alone)
    return dataset if table is None else TableDataset(*table)


def as_table(source: Any, *, alone: bool) -> tuple[Inputs, Tensor | None] | None:
    """Return (inputs, labels) of data that holds them as tensors, None for any other data."""
    if isinstance(source, TableDataset):
        return source.inputs, source.labels
    if isinstance(source, TensorDataset):
        if len(source.tensors) > 2 and not alone:
            return None
        source = source.tensors[0] if len(source.tensors) == 1 else source.tensors
    if isinstance(source, (Tensor, np.ndarray)):
        alone_inputs = torch.as_tensor(source)
        if alone_inputs.ndim == 0:
            raise ObservationError(f"dataset is a tensor without dimensions; it must be {FORMS}; {ALONE}")
        return alone_inputs, None
    if isinstance(source, Mapping):
        return _table_of_mapping(source, alone=alone)
    if not isinstance(source, (tuple, list)):
        return None
    arrays = [isinstance(part, (Tensor, np.ndarray)) for part in source]
    if alone:
        return (TensorTree(source), None) if isinstance(source, tuple) and all(arrays) else None
    if len(source) != 2:
        return None
    nested = arrays[1] and isinstance(source[0], (Mapping, tuple)) and _holds_arrays(source[0])
    if any(arrays) and not all(arrays) and not nested:
        kinds = " and a ".join(type(part).__name__ for part in source)
        raise ObservationError(f"dataset is a pair of a {kinds}: inputs and labels must both be tensors")
    if not all(arrays) and not nested:
        return None
    inputs, labels = as_inputs(source[0]), torch.as_tensor(source[1])
    if isinstance(inputs, TensorTree):
        if labels.ndim == 0 or len(inputs) != len(labels):
            raise ObservationError(f"dataset has {len(inputs)} inputs and labels of shape {tuple(labels.shape)}")
        return inputs, labels
    if inputs.ndim == 0 or labels.ndim == 0 or len(inputs) != len(labels):
        shapes = f"inputs {tuple(inputs.shape)} and labels {tuple(labels.shape)}"
        raise ObservationError(f"dataset has {shapes}: the first dimensions must be equal")
    return inputs, labels


def _holds_arrays(value: Any) -> bool:
    parts = list(value.values()) if isinstance(value, Mapping) else list(value)
    return bool(parts) and all(isinstance(part, (Tensor, np.ndarray)) for part in parts)


def _table_of_mapping(source: Mapping[Any, Any], *, alone: bool) -> tuple[Inputs, Tensor | None]:
    columns = {name: value for name, value in source.items() if value is not None}
    others = [
        name for name, value in columns.items() if isinstance(value, (str, bytes)) or not hasattr(value, "__len__")
    ]
    sets = [name for name, value in columns.items() if hasattr(value, "column_names")]
    if others or sets or not columns:
        what = f"{others[0]!r} is a {type(columns[others[0]]).__name__}" if others else "it holds none"
        what = f"{sets[0]!r} is a data set of its own: give one of {', '.join(map(repr, sets))}" if sets else what
        raise ObservationError(f"dataset is a mapping, which must hold tensors (n, ...) by name, and {what}")
    return split(with_tensors(source), alone=alone)


def split(batch: Any, *, alone: bool) -> tuple[Inputs, Any]:
    """Return the inputs and the labels of a batch, None for inputs alone."""
    if alone:
        single = isinstance(batch, (tuple, list)) and len(batch) == 1
        return as_inputs(batch[0] if single else batch), None
    if isinstance(batch, Mapping):
        named = [name for name in LABELS if name in batch]
        if len(named) > 1:
            raise ObservationError(f"an example has {' and '.join(named)}: one of them must be its label")
        inputs = TensorTree(_without(batch, named))
        return inputs, batch[named[0]] if named else None
    if isinstance(batch, (tuple, list)) and (len(batch) == 2 or not hasattr(batch, "_fields")):
        if len(batch) == 1:
            return as_inputs(batch[0]), None
        if len(batch) != 2:
            raise ObservationError(
                f"an example of the dataset is not an (input tensor, label) pair, but has {len(batch)} parts; give "
                f"((first, second), label) for several inputs, or {FORMS}; {ALONE}"
            )
        if isinstance(batch[0], (str, bytes)) or (isinstance(batch[0], list) and _is_text(batch[0])):
            raise ObservationError(
                f"an example of the dataset is not an (input tensor, label) pair, its input is text; it must be {FORMS}"
            )
        return as_inputs(batch[0]), batch[1]
    if isinstance(batch, (str, bytes)) or batch is None:
        raise ObservationError(
            f"an example of the dataset is not an (input tensor, label) pair; it must be {FORMS}; {ALONE}"
        )
    return as_inputs(batch), None


def has_label(row: Any) -> bool:
    """Tell whether an example, as a data set gives it, has a label."""
    if isinstance(row, Mapping):
        return any(name in row for name in LABELS)
    return isinstance(row, (tuple, list)) and len(row) == 2


def _is_text(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, (str, bytes)) for value in values)


def _without(mapping: Mapping[Any, Any], names: Sequence[str]) -> Any:
    if not names:
        return mapping
    return {name: value for name, value in mapping.items() if name not in names}


def with_tensors(row: Any) -> Any:
    """Return an example whose named lists of numbers, as of a row of a table, are tensors."""
    if not isinstance(row, Mapping):
        return row
    return {name: _as_numbers(value) for name, value in row.items()}


def _as_numbers(value: Any) -> Any:
    """Return a number, or a list of numbers, as a tensor of torch's usual dtypes; anything else as it is."""
    if not isinstance(value, (float, list, tuple)) or (isinstance(value, (list, tuple)) and not value):
        return value
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):  # texts, tensors, or rows of several lengths
        return value
