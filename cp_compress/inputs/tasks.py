"""The targets of a data set: one class per example, several labels, or a class at each position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from cp_compress.base.arguments import check_choice, check_integer, explains_keywords, reject
from cp_compress.base.errors import ObservationError
from cp_compress.inputs.clusters import Clusters, read_clusters
from cp_compress.inputs.forms import as_data_set
from cp_compress.inputs.loaders import HandedOn
from cp_compress.inputs.metadata import Metadata
from cp_compress.inputs.wrapping import said_by

Task = Literal["single_label", "multi_label", "dense", "sequence"]
TASKS: tuple[str, ...] = get_args(Task)
IGNORED = -100
"""The class of positions that are ignored, as in torch's cross-entropy."""
UNKNOWN = -101
"""The class of examples and positions that count and have no label."""


@explains_keywords
class TaskDataset(HandedOn):
    """A data set that states what its targets are.

    The `task` decides what models return and how targets look:

    - "multi_label": logits (n, labels), a label holds if its logit is above 0; targets (n, labels) of 0 and 1;
    - "dense": logits (n, classes, *space), such as segmentation; targets (n, *space) of class numbers; logits on a
      coarser grid, as of a quarter of the places along each axis, are brought to the targets' by linear interpolation;
    - "sequence": logits (n, length, classes), such as tagging; targets (n, length) of class numbers.

    A classifier of whole sequences is "single_label", whatever its inputs. Any data set with attributes `task` and,
    where needed, `ignore_index` and `classes` states the same without this class, also within a `DataLoader`, a
    `Subset` or a `CorruptedDataset`. If a `collate_fn` pads each batch to a length of its own, shorter batches are
    padded further with positions that are ignored.

    Args:
        dataset: A map-style data set of (input, target), a pair of tensors, or an unshuffled `DataLoader`, whose
            `collate_fn` then makes the batches. Inputs may be trees of tensors, and there need be no targets.
        task: "single_label", "multi_label", "dense" or "sequence".
        ignore_index: Positions with this target are ignored.
        classes: The names of the classes or labels; by default those of `dataset`.
        metadata: Columns with one entry an example, beside input and target (`read_metadata`).
        clusters: Which examples are not independent of each other, such as those of a patient, a video or a document:
            the name of a column of `metadata`, or one whole number or text an example, equal within a cluster. Claims
            with a confidence are then about clusters, wherever the data set is used.

    Raises:
        InvalidArgumentError: If the task is unknown, a pair of tensors has different lengths, or metadata or clusters
            have not one entry for each example.

    >>> TaskDataset((torch.zeros(2, 3), torch.tensor([[1, 0], [0, 1]])), "multi_label").task
    'multi_label'
    """

    def __init__(
        self,
        dataset: Any,
        task: Task,
        *,
        ignore_index: int = IGNORED,
        classes: Sequence[str] | None = None,
        metadata: Metadata | None = None,
        clusters: Clusters | None = None,
    ) -> None:
        check_choice("TaskDataset", "task", task, TASKS)
        check_integer("TaskDataset", "ignore_index", ignore_index, "must be a whole number")
        pair = isinstance(dataset, (tuple, list)) and len(dataset) == 2
        if pair and all(isinstance(part, (Tensor, np.ndarray)) for part in dataset):
            if len(dataset[0]) != len(dataset[1]):
                reject("TaskDataset", "dataset", len(dataset[1]), f"there are {len(dataset[0])} inputs")
            dataset = TensorDataset(*map(torch.as_tensor, dataset))
        dataset = as_data_set(dataset)
        super().__init__(dataset)
        self.task, self.ignore_index = task, ignore_index
        self.classes = tuple(classes) if classes is not None else said_by(dataset, "classes")
        if metadata is not None and (not isinstance(metadata, Metadata) or len(metadata) != len(self)):
            rule = f"must be Metadata with one row for each of {len(self)} examples, as read_metadata returns"
            reject("TaskDataset", "metadata", type(metadata).__name__, rule)
        self.metadata, self.clusters = metadata, clusters
        if clusters is not None:
            read_clusters("TaskDataset", clusters, self, len(self))


def task_of(source: Any) -> Task:
    """Return the task that a data set names, or "single_label"; raises ObservationError for an unknown one."""
    task: Any = said_by(source, "task") or "single_label"
    if task not in TASKS:
        raise ObservationError(f"the data set's task is {task!r}; known are {', '.join(TASKS)}")
    found: Task = task
    return found


def require_one_class(task: Task) -> None:
    """Raise ObservationError for data of many answers an example, of which there is no one class to compare."""
    if task != "single_label":
        raise ObservationError(
            f"the data is of a {task} task: this comparison needs one class per example; predictions and "
            "embeddings can be compared for every task"
        )


def as_targets(targets: Any, count: int, task: Task, ignore_index: int) -> Tensor:
    """Return the targets of `count` examples as int64, ignored places as `IGNORED`.

    Raises ObservationError for what the task does not take, such as `IGNORED` where another number is ignored.
    """
    try:
        tensor = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ObservationError(f"targets of a {task} task must be a tensor of whole numbers: {error}") from error
    if len(tensor) != count or tensor.ndim < 2 or (task != "dense" and tensor.ndim != 2):
        form = "(n, *space)" if task == "dense" else "(n, labels)" if task == "multi_label" else "(n, length)"
        raise ObservationError(f"targets have shape {tuple(tensor.shape)}; a {task} task takes {form}, n = {count}")
    whole = tensor.to(torch.int64)
    if tensor.is_complex() or not bool((whole == tensor).all()):
        raise ObservationError(f"targets of a {task} task must be whole numbers; they are {tensor.dtype}")
    if ignore_index != IGNORED and bool((whole == IGNORED).any()):
        rule = f"ignored positions must have the ignore_index of the data set, {ignore_index}"
        raise ObservationError(f"targets of a {task} task contain {IGNORED}, which is not a class; {rule}")
    return torch.where(whole == ignore_index, IGNORED, whole)


def ignored_by(source: Any) -> int:
    """Return the target of places that do not count, which a data set names, or `IGNORED`."""
    ignored = said_by(source, "ignore_index")
    return IGNORED if ignored is None else int(ignored)


def join_batches(batches: Sequence[Tensor], task: Task, *, own: int, fill: float) -> Tensor:
    """Return batches (n, ...) as one tensor; those of fewer places than others are filled up with `fill` at the end.

    Places are the dimensions after the first `own` ones, of dense and sequence tasks: a `collate_fn` may pad each batch
    to a size of its own. Raises ObservationError where other dimensions differ.

    >>> join_batches([torch.ones(1, 2), torch.ones(1, 3)], "sequence", own=1, fill=0).tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    """
    shapes = list(dict.fromkeys(tuple(batch.shape[1:]) for batch in batches))
    if task == "sequence" and own == 2 and len({shape[0] for shape in shapes}) == 1:
        # the logits of a place stay neighbours in memory, as models give them
        joined = join_batches([batch.movedim(1, -1) for batch in batches], task, own=1, fill=fill)
        return joined.movedim(-1, 1)
    if len(shapes) == 1:
        return torch.cat(list(batches))
    fixed = {(len(shape), shape[: own - 1]) for shape in shapes}
    if task not in ("dense", "sequence") or len(fixed) > 1:
        raise ObservationError(f"batches of the data have rows of different shapes, {shapes[0]} and {shapes[1]}")
    places = [max(sizes) for sizes in zip(*(shape[own - 1 :] for shape in shapes), strict=True)]
    count = sum(map(len, batches))
    joined = batches[0].new_full((count, *shapes[0][: own - 1], *places), fill)
    start = 0
    for batch in batches:
        joined[start : start + len(batch)][tuple(map(slice, batch.shape))] = batch
        start += len(batch)
    return joined
