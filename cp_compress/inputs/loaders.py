"""The examples of a torch `DataLoader`, if its order is fixed."""

from __future__ import annotations

from typing import Any

from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler

from cp_compress.base.errors import ObservationError


def require_positions(dataset: Any, what: str) -> None:
    """Raise ObservationError for a stream, which has no examples by position; `what` says where it was given."""
    if isinstance(dataset, IterableDataset) and type(dataset).__getitem__ is Dataset.__getitem__:
        raise ObservationError(
            f"{what} {type(dataset).__name__}, an IterableDataset: a stream has no examples by position, and examples "
            "are compared one by one and read again; give list(dataset), or a map-style data set of the same examples"
        )


def count_in_order(loader: DataLoader[Any]) -> int:
    """Return how many examples of its data a loader yields; raises ObservationError unless they are the first ones."""
    require_positions(loader.dataset, "dataset is a DataLoader over")
    batches: Any = loader.batch_sampler
    order = loader.sampler if batches is None else batches
    if type(batches) is BatchSampler:  # what `batch_size` makes; a user's own kind may do anything
        order = batches.sampler
    if not isinstance(order, SequentialSampler):
        raise ObservationError(
            f"dataset is a DataLoader with a {type(order).__name__}: examples are compared one by one, "
            "so their order must be fixed; use shuffle=False"
        )
    count = len(order)
    return count if batches is None or not batches.drop_last else count - count % batches.batch_size


class HandedOn:
    """The examples of another data set, one by one and in its order; of a loader those that it yields."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._examples: Any = dataset.dataset if isinstance(dataset, DataLoader) else dataset

    @property
    def wrapped_dataset(self) -> Any:
        """The data set whose examples these are."""
        return self.dataset

    def __len__(self) -> int:
        return count_in_order(self.dataset) if isinstance(self.dataset, DataLoader) else len(self._examples)

    def __getitem__(self, index: int) -> Any:
        return self._examples[index]
