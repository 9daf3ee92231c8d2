"""Examples of any labelled data set in runs of equal shape: tensors, arrays, and images as PIL reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cp_compress.base.datasets import LabeledData
from cp_compress.base.errors import CorruptStreamError, ObservationError

Run = tuple[Tensor, Tensor]


def read_runs(data: LabeledData, start: int, stop: int, batch_size: int) -> Iterator[Run]:
    """Yield examples start…stop−1 in order as batches (k, ...), k ≤ batch_size, with labels (k,), int64.

    A batch ends where the shape or dtype changes. PIL images, as torchvision's data sets give without a transform,
    become uint8 (channels, height, width): grey ones 1 channel, all others RGB. Raises ObservationError, naming the
    example, for anything else than an (input, label) pair.
    """
    for begin in range(start, stop, batch_size):
        positions = range(begin, min(begin + batch_size, stop))
        if data.tensors is not None or hasattr(data.source, "__getitems__"):
            yield data.select(positions)
        else:
            yield from _join([_read(data.source, position) for position in positions])


def _read(source: Any, position: int) -> tuple[Tensor, int]:
    examples = getattr(source, "dataset", source) if isinstance(source, torch.utils.data.DataLoader) else source
    try:
        example, label = examples[position]
        found = _as_tensor(example), int(label)
    except CorruptStreamError:
        raise
    except Exception as error:  # decoders of image files raise many types
        raise ObservationError(f"example #{position} cannot be read: {type(error).__name__}: {error}") from error
    return found


def _as_tensor(example: Any) -> Tensor:
    if isinstance(example, Tensor):
        return example
    if isinstance(example, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(example))
    mode = getattr(example, "mode", None)
    if mode is None:
        raise TypeError(f"an input is a {type(example).__name__}; it must be a tensor, an array or a PIL image")
    if mode.startswith("I") or mode == "F":
        raise TypeError(f"images of mode {mode} hold more than 8 bits a channel: give tensors")
    if mode not in ("L", "RGB"):
        example = example.convert("L" if mode == "1" else "RGB")
    pixels = torch.from_numpy(np.array(example))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _join(examples: list[tuple[Tensor, int]]) -> Iterator[Run]:
    begin = 0
    for place in range(1, len(examples) + 1):
        first = examples[begin][0]
        ended = place == len(examples) or (examples[place][0].shape, examples[place][0].dtype) != (
            first.shape,
            first.dtype,
        )
        if ended:
            part = examples[begin:place]
            yield torch.stack([row for row, _ in part]), torch.tensor([label for _, label in part])
            begin = place
