"""Masks of the places of an example that a requirement is about, given in several forms and checked once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cp_compress.base.arguments import reject
from cp_compress.base.batching import slices
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.inputs.wrapping import layers_of

Mask = Tensor | np.ndarray[Any, Any] | str | Callable[[Tensor, Any], Any]
_FORMS = (
    "a mask is a tensor (*space) or (n, *space) of booleans, the name of an attribute of the data set that holds one, "
    "or a function of (inputs, labels) that gives one"
)


def read_masks(owner: str, name: str, mask: Mask, observation: Observation, chosen: Tensor, size: int) -> Tensor:
    """Return the masks (k, *space), bool, of the examples at `chosen` (k,), of which `size` are read at a time.

    `space` is (h, w) for inputs (n, channels, h, w), and all but the first dimension for inputs without channels.
    Raises InvalidArgumentError for other forms, shapes and values, and for an example whose mask is empty or holds
    every place: a requirement on it could never be met, or never fail.
    """
    space = place_shape(tuple(observation.data.inputs(chosen[:1]).shape[1:]))
    masks = _read(owner, name, mask, observation, chosen, space, size)
    rows = masks.flatten(1)
    pointless = (rows.all(dim=1) | ~rows.any(dim=1)).nonzero().flatten()
    if len(pointless):
        row = int(pointless[0])
        found = "every place" if bool(rows[row].all()) else "no place"
        rule = (
            f"the mask of example #{int(chosen[row])} holds {found}: a requirement on it could not fail, or not be met"
        )
        reject(owner, name, _shown(mask), rule)
    return masks


def place_shape(input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the places of an input (channels, *space), or (*space) with fewer than two of them.

    >>> place_shape((3, 32, 32)), place_shape((64,)), place_shape((8, 8))
    ((32, 32), (64,), (8, 8))
    """
    return input_shape[1:] if len(input_shape) > 2 else input_shape


def _read(
    owner: str, name: str, mask: Mask, observation: Observation, chosen: Tensor, space: tuple[int, ...], size: int
) -> Tensor:
    if isinstance(mask, str):
        held = _held_masks(observation, mask, space)
        if held is None:
            reject(owner, name, mask, "the data set has no such attribute that holds masks")
        return _read(owner, name, held, observation, chosen, space, size)
    if isinstance(mask, (Tensor, np.ndarray)):
        values = torch.as_tensor(mask)
        if tuple(values.shape) == space:
            return _as_booleans(owner, name, values).cpu().expand(len(chosen), *space)
        if tuple(values.shape) == (len(observation), *space):
            return _as_booleans(owner, name, values[chosen.to(values.device)]).cpu()
        allowed = f"{space} or {(len(observation), *space)}"
        reject(owner, name, _shown(mask), f"masks of this data set have the shape {allowed}")
    if not callable(mask):
        reject(owner, name, mask, _FORMS)
    parts = []
    for part in slices(len(chosen), size):
        inputs, (_, labels) = observation.data.inputs(chosen[part]), observation.data.read(chosen[part])
        values = torch.as_tensor(mask(inputs, labels))
        expected = (len(chosen[part]), *space)
        if tuple(values.shape) != expected:
            shapes = f"shape {tuple(values.shape)} for {expected[0]} examples; expected {expected}"
            reject(owner, name, _shown(mask), f"the function gave masks of {shapes}")
        parts.append(_as_booleans(owner, name, values).cpu())
    return torch.cat(parts)


def _held_masks(observation: Observation, attribute: str, space: tuple[int, ...]) -> Any:
    """Return the masks that the data set, or what it wraps, holds for the observed examples, None where none does."""
    for layer, places in layers_of(observation.data, range(len(observation))):
        held = getattr(layer, attribute, None)
        if held is None:
            continue
        of_each = isinstance(held, (Tensor, np.ndarray)) and tuple(held.shape) != space
        # the length of a loader is its number of batches; masks of another length are refused as they are
        fits = of_each and not isinstance(layer, DataLoader) and len(held) == len(layer)
        return held[places] if fits else held
    return None


def _as_booleans(owner: str, name: str, values: Tensor) -> Tensor:
    if values.dtype == torch.bool:
        return values
    if not bool(((values == 0) | (values == 1)).all()):
        reject(owner, name, _shown(values), "masks hold booleans, or the numbers 0 and 1")
    return values == 1


def _shown(mask: Mask) -> object:
    return f"{type(mask).__name__} {tuple(mask.shape)}" if isinstance(mask, (Tensor, np.ndarray)) else mask
