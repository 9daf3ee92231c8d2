"""What the outputs of a model and the labels beside them must be: finite, and of one shape and range."""

from __future__ import annotations

import torch
from torch import Tensor

from cp_compress.base.batching import slices
from cp_compress.base.errors import ObservationError
from cp_compress.inputs.tasks import IGNORED, Task

_BLOCK_VALUES = 2**22


def check_finite(logits: Tensor, indices: Tensor | None = None, kind: str = "examples", what: str = "logits") -> None:
    """Raise ObservationError when logits (n, ...) hold NaN or Inf; it names the rows by `indices` (n,) and `kind`."""
    rows = max(1, _BLOCK_VALUES // max(1, logits[:1].numel()))
    finite = [torch.isfinite(logits[part]).flatten(1).all(dim=1) for part in slices(len(logits), rows)]
    bad = (~torch.cat(finite)).nonzero().flatten()
    if len(bad):
        named = bad if indices is None else indices[bad]
        first = ", ".join(f"#{index}" for index in named[:5].tolist())
        raise ObservationError(
            f"the model returns NaN or infinite {what} on {len(bad)} of {len(logits)} {kind} ({first}…): "
            "such outputs cannot be compared"
        )


def check_labels(labels: Tensor, logits: Tensor, task: Task) -> None:
    """Raise ObservationError for labels, or targets, that no class of the logits stands for."""
    classes = logits.shape[1]
    if task != "single_label":
        _check_targets(labels, logits, task)
        return
    bad = ((labels < 0) | (labels >= classes)).nonzero().flatten()
    if len(bad):
        index = int(bad[0])
        raise ObservationError(
            f"{len(bad)} of {len(labels)} labels lie outside the model's {classes} classes: "
            f"example #{index} has label {int(labels[index])}, allowed are 0 to {classes - 1}"
        )


def check_fit(targets: Tensor, logits: Tensor, task: Task) -> None:
    """Raise ObservationError unless a batch has one target for each answer."""
    if task == "single_label":
        return
    expected = logits.shape if task == "multi_label" else (len(logits), *logits.shape[2:])
    if targets.shape != expected:
        raise ObservationError(
            f"the targets have shape {tuple(targets.shape)}, but the model's predictions {tuple(expected)}"
        )


def _check_targets(targets: Tensor, logits: Tensor, task: Task) -> None:
    if task != "multi_label" and logits.shape[1] < 2:
        raise ObservationError(
            f"the model has {logits.shape[1]} class at each position; a {task} task needs two classes or more, "
            "because all predictions of one class are equal"
        )
    limit = 2 if task == "multi_label" else logits.shape[1]
    bad = ((targets != IGNORED) & ((targets < 0) | (targets >= limit))).flatten(1).any(dim=1).nonzero().flatten()
    if len(bad):
        raise ObservationError(
            f"{len(bad)} of {len(targets)} targets hold numbers outside 0 to {limit - 1}, first at example "
            f"#{int(bad[0])}; ignored positions must have the ignore_index of the data set"
        )
