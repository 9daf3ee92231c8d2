"""Means of maps over draws, which hold one map more than their sum in memory at any time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cp_compress.fidelity.attributions.methods.method import Maps, maps_and_change


def mean_of(batches: Iterator[Maps]) -> Maps:
    """Return the mean maps of one batch of examples, and the mean changes of the logits where there are any."""
    count, total, changes = 0, torch.zeros(()), None
    for batch in batches:
        maps, change = maps_and_change(batch)
        total = maps if count == 0 else total + maps
        if change is not None:
            changes = change if changes is None else changes + change
        count += 1
    return total / count if changes is None else (total / count, changes / count)


def seeded(seed: int) -> torch.Generator:
    """Return a generator of random numbers on the CPU, started by a method's seed."""
    return torch.Generator().manual_seed(seed)


def noise_patterns(samples: int, deviation: float, input_shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return Gaussian patterns (samples, *input_shape) of a standard deviation, in units of the input."""
    return deviation * torch.randn(samples, *input_shape, generator=generator)
