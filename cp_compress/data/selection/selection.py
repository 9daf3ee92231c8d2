"""Fewer examples (C_D): what a selection of examples is, and what all methods of selection share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from cp_compress.base.arguments import check_choice, check_integer, explains_keywords, reject
from cp_compress.base.showing.brief import Brief
from cp_compress.inputs.reading import LabeledData

Choose = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Chooses a number of the examples at some positions: their places among them, and weights that sum to the number."""


@explains_keywords
@dataclass(frozen=True, eq=False, repr=False)
class Selection(Brief):
    """Chosen examples of a data set, with the number of examples that each stands for.

    Attributes:
        indices: The chosen examples (k,), int64, in the order in which they were chosen, without repetition.
        weights: How many examples each stands for (k,), float64; they sum to `total`.
        total: The number of examples of the data set.
        method: The name of the method that chose them.
    """

    indices: Tensor
    weights: Tensor
    total: int
    method: str

    def __len__(self) -> int:
        return len(self.indices)

    def subset(self, dataset: Any) -> Any:
        """Return the selected examples of a data set as a map-style data set, in the order of `indices`.

        Raises InvalidArgumentError if the data set does not have `total` examples.
        """
        data = dataset if isinstance(dataset, LabeledData) else LabeledData(dataset)
        if len(data) != self.total:
            reject("Selection", "dataset", len(data), f"the selection was made from {self.total} examples")
        if data.tensors is not None:
            inputs, labels = data.tensors
            return TensorDataset(inputs[self.indices.to(inputs.device)], labels[self.indices.to(labels.device)])
        return _Selected(data, self.indices.tolist())

    def __str__(self) -> str:
        return f"{self.method}: {len(self)} of {self.total} examples"


class _Selected(Dataset[Any]):
    """Examples of labelled data at some positions, read as the data itself reads them."""

    def __init__(self, data: LabeledData, positions: list[int]) -> None:
        self._data, self._positions = data, positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Return the examples at `indices`, read together."""
        inputs, labels = self._data.select([self._positions[index] for index in indices])
        return list(zip(inputs, labels, strict=True))


@explains_keywords
def random_selection(examples: int | Tensor, count: int, *, seed: int = 0) -> Selection:
    """Choose examples at random.

    `examples` is their number, or their labels (n,): then each class keeps its share.

    >>> len(random_selection(100, 10)), random_selection(100, 10).weights.sum().item()
    (10, 100.0)
    """
    labels = examples if isinstance(examples, Tensor) and examples.ndim else None
    total = check_count("random_selection", "examples", examples) if labels is None else len(labels)  # type: ignore[arg-type]
    generator = seeded("random_selection", seed)

    def choose(positions: Tensor, quota: int) -> tuple[Tensor, Tensor]:
        return even_weights(torch.randperm(len(positions), generator=generator)[:quota], len(positions))

    return select_within_classes("random_selection", total, count, labels, choose)


@explains_keywords
def select_by_score(
    scores: Tensor, count: int, *, keep: str = "highest", labels: Tensor | None = None, method: str = "select_by_score"
) -> Selection:
    """Choose examples by one score each.

    Which end of the order is worth keeping depends on how many are kept: hard examples of a large subset, easy ones of
    a small one (Sorscher et al. 2022, "Beyond neural scaling laws"). Equal scores are chosen in the order of the data.

    Args:
        scores: One number per example, (n,); infinity is allowed, NaN is not.
        count: The number of examples to choose, 1…n, and at least one per class if there are labels.
        keep: "highest", "lowest", or "middle" for those in the middle of the order.
        labels: The class (n,) of each example, to choose within each class in proportion to its size; None for one
            choice among all.
        method: The name that the selection records and that errors use.

    Returns:
        The selection, with equal weights within each class.

    Raises:
        InvalidArgumentError: If an argument is not as described.

    >>> select_by_score(torch.tensor([3.0, 1.0, 2.0]), 2).indices.tolist()
    [0, 2]
    """
    check_choice(method, "keep", keep, ("highest", "lowest", "middle"))
    values = _as_scores(method, scores)

    def choose(positions: Tensor, quota: int) -> tuple[Tensor, Tensor]:
        order = torch.sort(values[positions], descending=keep == "highest", stable=True).indices
        start = (len(order) - quota) // 2 if keep == "middle" else 0
        return even_weights(order[start : start + quota], len(positions))

    return select_within_classes(method, len(values), count, labels, choose)


def select_within_classes(owner: str, total: int, count: int, labels: Tensor | None, choose: Choose) -> Selection:
    """Return what is chosen of all examples, or of each class its share where there are labels.

    Raises InvalidArgumentError for a count out of 1…total, or below the number of classes, and malformed labels.
    """
    count = check_count(owner, "count", count, total)
    if labels is None:
        places, weights = choose(torch.arange(total), count)
        return Selection(places, weights, total, owner)
    groups = [(labels == label).nonzero().flatten() for label in torch.unique(check_labels(owner, labels, total))]
    if count < len(groups):
        reject(owner, "count", count, f"there are {len(groups)} classes; choose at least one example per class")
    parts = [
        (group, *choose(group, quota)) for group, quota in zip(groups, quotas([*map(len, groups)], count), strict=True)
    ]
    indices = torch.cat([group[places] for group, places, _ in parts])
    return Selection(indices, torch.cat([weights for _, _, weights in parts]), total, owner)


def quotas(sizes: list[int], count: int) -> list[int]:
    """Share a count among groups in proportion to their sizes, at least one and at most all of each.

    Largest remainders first; of equal ones the earlier group.

    >>> quotas([50, 30, 20], 10), quotas([98, 1, 1], 3)
    ([5, 3, 2], [1, 1, 1])
    """
    exact = [count * size / sum(sizes) for size in sizes]
    found = [min(size, max(1, int(share))) for size, share in zip(sizes, exact, strict=True)]
    while sum(found) < count:
        open_ = [group for group, size in enumerate(sizes) if found[group] < size]
        found[max(open_, key=lambda group: (exact[group] - found[group], -group))] += 1
    while sum(found) > count:
        open_ = [group for group in range(len(sizes)) if found[group] > 1]
        found[min(open_, key=lambda group: (exact[group] - found[group], group))] -= 1
    return found


def even_weights(places: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Return places with weights that are all the same."""
    return places, torch.full((len(places),), total / len(places), dtype=torch.float64)


def _as_scores(owner: str, scores: Tensor) -> Tensor:
    """Return scores (n,) on the CPU, to the last digit; infinity is a score, NaN is not."""
    if not isinstance(scores, Tensor) or scores.ndim != 1 or scores.numel() == 0 or scores.is_complex():
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        reject(owner, "scores", found, "must be a tensor (n,), one number per example")
    values = scores.detach().cpu()
    if not values.is_floating_point():
        return values.long()
    if bool(values.isnan().any()):
        reject(owner, "scores", "NaN", "every value must be a number")
    return values


def as_matrix(owner: str, name: str, values: Tensor) -> Tensor:
    """Return rows (n, d) as float32 on the CPU, or float64 where they are; rejects other shapes, NaN and Inf."""
    if not isinstance(values, Tensor) or values.ndim != 2 or values.numel() == 0:
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        reject(owner, name, found, "must be a tensor with one row per example")
    rows = values.detach().cpu()
    rows = rows if rows.dtype == torch.float64 else rows.float()
    if not bool(rows.isfinite().all()):
        reject(owner, name, "NaN or Inf", "every value must be a number")
    return rows


def check_labels(owner: str, labels: Tensor, total: int) -> Tensor:
    """Return labels (n,) on the CPU, or reject them."""
    if not isinstance(labels, Tensor) or labels.shape != (total,) or labels.is_floating_point():
        found = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        reject(owner, "labels", found, f"must be a tensor of class numbers ({total},)")
    return labels.cpu()


def seeded(owner: str, seed: object) -> torch.Generator:
    """Return a generator that starts at a seed, or reject the seed."""
    rule = "must be a whole number in 0…2³⁰"
    return torch.Generator().manual_seed(check_integer(owner, "seed", seed, rule, at_least=0, at_most=2**30))


def check_count(owner: str, name: str, count: int, most: int | None = None) -> int:
    """Return a number of examples, or reject it."""
    limit = "1 or more" if most is None else f"1…{most}"
    return check_integer(owner, name, count, f"must be a whole number in {limit}", at_least=1, at_most=most)
