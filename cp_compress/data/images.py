"""Examples of any labelled data set in runs of equal shape: tensors, arrays and PIL images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cp_compress.base.errors import ObservationError
from cp_compress.data.deep_images import is_deep, refuse_deep_images
from cp_compress.inputs.reading import LabeledData, as_labels

Run = tuple[Tensor, Tensor]


def read_runs(data: LabeledData, start: int, stop: int, batch_size: int) -> Iterator[Run]:
    """Yield examples start…stop−1 in order as batches (k, ...), k ≤ batch_size, with labels (k,), int64.

    A batch ends where the shape or dtype changes. PIL images, as torchvision's data sets give without a transform,
    become uint8 (channels, height, width): grey ones 1 channel, all others RGB, without their alpha channel and not
    turned as EXIF may ask. Raises ObservationError, naming the example, for anything else than an (input, label) pair
    and for images of more than 8 bits a channel.
    """
    for begin in range(start, stop, batch_size):
        yield from read_examples(data, range(begin, min(begin + batch_size, stop)))


def read_examples(data: LabeledData, positions: Sequence[int]) -> Iterator[Run]:
    """Yield the examples at positions in their order, as `read_runs` does; raises what it raises."""
    if data.table is not None or data.collates_itself:
        yield data.select(positions)
    else:
        refuse_deep_images(data.source, positions)
        yield from _join(data.rows(positions), positions)


def _join(rows: Sequence[Any], positions: Sequence[int]) -> Iterator[Run]:
    inputs, labels = [], []
    for position, row in zip(positions, rows, strict=True):
        if not isinstance(row, (tuple, list)) or len(row) != 2:
            raise ObservationError(f"example #{position} is a {type(row).__name__}, not an (input, label) pair")
        inputs.append(as_tensor(row[0], position))
        labels.append(row[1])
    numbers = as_labels(labels, len(labels))
    begin = 0
    for _, run in itertools.groupby(inputs, key=lambda example: (example.shape, example.dtype)):
        part = list(run)
        yield torch.stack(part), numbers[begin : begin + len(part)]
        begin += len(part)


def as_tensor(example: Any, position: int) -> Tensor:
    """Return the input of an example as a tensor; a PIL image becomes uint8 (channels, height, width)."""
    if isinstance(example, Tensor):
        return example
    if isinstance(example, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(example))
    mode = getattr(example, "mode", None)
    if not isinstance(mode, str):
        rule = "it must be a tensor, an array or a PIL image"
        raise ObservationError(f"example #{position} has an input of type {type(example).__name__}; {rule}")
    if is_deep(mode):
        rule = "images of more than 8 bits per channel must be given as tensors"
        raise ObservationError(f"example #{position} is an image of mode {mode}: {rule}")
    try:
        image = example if mode in ("L", "RGB") else example.convert("L" if mode == "1" else "RGB")
        pixels = torch.from_numpy(np.array(image))
    except (OSError, SyntaxError, ValueError) as error:  # a lazily read file that is damaged
        raise ObservationError(f"example #{position} cannot be read: {type(error).__name__}: {error}") from error
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()
