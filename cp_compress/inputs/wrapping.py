"""Attributes of a data set (its task, classes, codec, …), found through the wrappers around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Subset


def layers_of(source: Any, positions: Sequence[int] = ()) -> Iterator[tuple[Any, list[int]]]:
    """Yield a data set and what it wraps, outermost first, each with the places of the examples `positions` in it.

    Looked through are torch's `DataLoader` and `Subset`, and what names the data set that it hands on, example by
    example and in order, as `wrapped_dataset`: `TaskDataset`, `CorruptedDataset` and `LabeledData`.

    >>> [places for _, places in layers_of(Subset(Subset("abcdef", [5, 3, 1]), [2, 0]), [1])]
    [[1], [0], [5]]
    """
    places = list(positions)
    while source is not None:
        yield source, places
        if isinstance(source, Subset):
            indices = source.indices
            places = [int(indices[place]) for place in places]
        if isinstance(source, (DataLoader, Subset)):
            source = source.dataset
        else:
            source = getattr(source, "wrapped_dataset", None)


def said_by(source: Any, name: str, *, of_all: bool = False) -> Any:
    """Return the attribute `name` of the outermost layer of a data set that has one which is not None, else None.

    With `of_all` it is about all examples together, such as a mean, so that none is taken from behind a `Subset`.

    >>> class Named(list):
    ...     classes = ("cat", "dog")
    >>> said_by(DataLoader(Subset(Named([(0.0, 0), (1.0, 1)]), [1])), "classes")
    ('cat', 'dog')
    """
    for layer, _ in layers_of(source):
        value = getattr(layer, name, None)
        if value is not None:
            return value
        if of_all and isinstance(layer, Subset):
            return None
    return None
