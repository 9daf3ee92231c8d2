"""Digests of examples, which show whether data had a part in making or choosing a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.holdings.reach import modules_within
from cp_compress.inputs.originals import values_behind
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.row_digests import digest_values

_ATTRIBUTE, _SEARCH = "_cp_seen_examples", "search"


@explains_keywords
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
    for inputs, _ in data.parts(batch_size):
        digests += digest_values(inputs)
    return digests


def known_digests(dataset: Any, batch_size: int = 1024) -> list[frozenset[str]]:
    """Return for each example the digests of what is read, and of the originals that it was stored from."""
    data = dataset if isinstance(dataset, LabeledData) else LabeledData(dataset)
    behind = values_behind(data.source, len(data))
    return [frozenset((own, *theirs)) for own, theirs in zip(example_digests(data, batch_size), behind, strict=True)]


@explains_keywords
def shared_examples(dataset: Any, digests: Collection[str]) -> list[int]:
    """Return the indices of the examples of which a digest, or one of their originals, is among those given.

    `digests` are the `search_digests` of a search: an empty result shows that it has not seen any example of this data.

    >>> import torch
    >>> data = torch.tensor([[0.5], [1.0]]), torch.tensor([0, 1])
    >>> shared_examples(data, example_digests(data)[1:])
    [1]
    """
    known = frozenset(digests)
    return [index for index, own in enumerate(known_digests(dataset)) if not known.isdisjoint(own)]


def mark_as_searched(model: object, digests: Collection[str]) -> None:
    """Let a model carry the digests of the examples that it was chosen on."""
    object.__setattr__(model, _ATTRIBUTE, {**seen_digests(model), _SEARCH: frozenset(digests)})


def searched_digests(model: object) -> frozenset[str]:
    """Return the digests of the examples that a model, or a part of it, was chosen on; none without a search."""
    return seen_digests(model).get(_SEARCH, frozenset())


def mark_as_used(model: object, purpose: str, dataset: Any) -> None:
    """Let a model carry the digests of examples that it was made with, beside those that it carries.

    `purpose` is what they served for, such as "calibration" or "training"; `dataset` is labelled data, or inputs.
    """
    carried = seen_digests(model)
    digests = carried.get(purpose, frozenset()).union(*known_digests(dataset, batch_size=64))
    object.__setattr__(model, _ATTRIBUTE, {**carried, purpose: digests})


def seen_digests(model: object) -> dict[str, frozenset[str]]:
    """Return the digests of the examples that a model, or any part of it, has seen, by what for: "search", ….

    Copies of a module carry what it carries, and so does what a module is a part of, a function that calls it included.
    """
    found: dict[str, frozenset[str]] = {}
    for part in (model, *(module for module in modules_within(model) if module is not model)):
        carried = getattr(part, "__dict__", {}).get(_ATTRIBUTE, {})
        for purpose, digests in carried.items():
            found[purpose] = found.get(purpose, frozenset()) | digests
    return found


def write_seen(model: object, seen: Mapping[str, Collection[str]]) -> None:
    """Let a model carry what another one has seen, beside what it carries."""
    carried = seen_digests(model)
    joined = {purpose: carried.get(purpose, frozenset()) | frozenset(digests) for purpose, digests in seen.items()}
    if joined:
        object.__setattr__(model, _ATTRIBUTE, {**carried, **joined})
