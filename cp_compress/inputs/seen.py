"""Digests of examples, which show whether data was already used by a search."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from cp_compress.base.digests import start_digest
from cp_compress.inputs.reading import LabeledData

_HEX_DIGITS = 16
_ATTRIBUTE = "_cp_searched_digests"


def example_digests(dataset: Any, batch_size: int = 1024) -> list[str]:
    """Return a short digest of each example's input, in order; labels are not part of it.

    Inputs of equal shape and values have equal digests whatever their dtype; scaled or shifted ones do not. Raises
    ObservationError if the data cannot be read.

    >>> import torch
    >>> first, second = example_digests((torch.tensor([[0.5], [1.0]]), torch.tensor([0, 1])))
    >>> first != second, len(first)
    (True, 16)
    """
    data = dataset if isinstance(dataset, LabeledData) else LabeledData(dataset)
    digests = []
    for inputs, _ in data.batches(batch_size):
        values = inputs.detach().cpu().to(torch.float64) + 0.0  # + 0.0 makes −0 and 0 one value
        shape = f"{tuple(values.shape[1:])}".encode()
        for row in values.reshape(len(values), -1).numpy():
            digest = start_digest()
            digest.update(shape)
            digest.update(row.data)
            digests.append(digest.hexdigest()[:_HEX_DIGITS])
    return digests


def shared_examples(dataset: Any, digests: Collection[str]) -> list[int]:
    """Return the indices of the examples in a data set whose digests are among those given.

    `digests` are the `search_digests` of a search: an empty result shows that it has not seen any example of this data.

    >>> import torch
    >>> data = torch.tensor([[0.5], [1.0]]), torch.tensor([0, 1])
    >>> shared_examples(data, example_digests(data)[1:])
    [1]
    """
    known = frozenset(digests)
    return [index for index, digest in enumerate(example_digests(dataset)) if digest in known]


def mark_as_searched(model: object, digests: Collection[str]) -> None:
    """Let a model carry the digests of the examples that it was chosen on."""
    object.__setattr__(model, _ATTRIBUTE, frozenset(digests))


def searched_digests(model: object) -> frozenset[str]:
    """Return the digests of the examples that a model was chosen on; none for one that no search has found."""
    digests: frozenset[str] = getattr(model, _ATTRIBUTE, frozenset())
    return digests
