"""What a data set's targets are: one class an example, several labels, or a class at each place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from cp_compress.base.arguments import check_choice, check_integer, reject
from cp_compress.base.errors import ObservationError

Task = Literal["single_label", "multi_label", "dense", "sequence"]
TASKS: tuple[str, ...] = get_args(Task)
IGNORED = -100
"""The class of places that do not count, as in torch's cross-entropy."""


class TaskDataset:
    """A data set that says what its targets are.

    `dataset` is a map-style data set of (input, target) or a pair of tensors. The `task` decides what models give and
    how targets look:

    - "multi_label": logits (n, labels), a label holds where its logit is above 0; targets (n, labels) of 0 and 1;
    - "dense": logits (n, classes, *space), such as segmentation; targets (n, *space) of class numbers;
    - "sequence": logits (n, length, classes), such as tagging; targets (n, length) of class numbers.

    Places whose target is `ignore_index` do not count. `classes` names the classes or labels. Any data set with
    attributes `task` and, where needed, `ignore_index` and `classes` says the same by itself. A classifier of whole
    sequences is "single_label", whatever its inputs.

    Raises InvalidArgumentError for unknown tasks.

    >>> TaskDataset((torch.zeros(2, 3), torch.tensor([[1, 0], [0, 1]])), "multi_label").task
    'multi_label'
    """

    def __init__(
        self, dataset: Any, task: Task, *, ignore_index: int = IGNORED, classes: Sequence[str] | None = None
    ) -> None:
        check_choice("TaskDataset", "task", task, TASKS)
        check_integer("TaskDataset", "ignore_index", ignore_index, "must be a whole number")
        if isinstance(dataset, (tuple, list)) and len(dataset) == 2 and isinstance(dataset[0], Tensor):
            if len(dataset[0]) != len(dataset[1]):
                reject("TaskDataset", "dataset", len(dataset[1]), f"there are {len(dataset[0])} inputs")
            dataset = torch.utils.data.TensorDataset(*dataset)
        self.dataset, self.task, self.ignore_index = dataset, task, ignore_index
        self.classes = tuple(classes) if classes is not None else getattr(dataset, "classes", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


def task_of(source: Any) -> Task:
    """Return the task that a data set names, or "single_label"; raises ObservationError for an unknown one."""
    task: Any = getattr(source, "task", "single_label")
    if task not in TASKS:
        raise ObservationError(f"the data set's task is {task!r}; known are {', '.join(TASKS)}")
    found: Task = task
    return found


def require_one_class(task: Task) -> None:
    """Raise ObservationError for data of many answers an example, of which there is no one class to compare."""
    if task != "single_label":
        raise ObservationError(
            f"the data is of a {task} task: this comparison needs one class an example; predictions and "
            "embeddings are compared for every task"
        )


def as_targets(targets: Any, count: int, task: Task, ignore_index: int) -> Tensor:
    """Return the targets of `count` examples as int64, ignored places as `IGNORED`.

    Raises ObservationError for what the task does not take.
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
    return torch.where(whole == ignore_index, IGNORED, whole)
