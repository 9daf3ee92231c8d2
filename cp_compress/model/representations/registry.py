"""Every way to hold compressed weights, in the order in which a stored model is built up, and what walks them all."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cp_compress.base.holdings.tensors import numbers_of
from cp_compress.model.representations.fewer_channels import FewerChannels
from cp_compress.model.representations.half_computed import HalfComputed
from cp_compress.model.representations.half_stored import HalfStored
from cp_compress.model.representations.integers import Integers
from cp_compress.model.representations.low_rank_layers import Factors
from cp_compress.model.representations.representation import Held, Representation

# factors take the sizes of their layers, and may be held as integers
REPRESENTATIONS: tuple[Representation, ...] = (FewerChannels(), Factors(), Integers(), HalfComputed(), HalfStored())


def held_weights(model: nn.Module) -> Iterator[tuple[str, nn.Module, Held]]:
    """Yield every weight that is held in another form than a parameter: its name, its layer, and how it is held."""
    for path, layer in model.named_modules():
        for representation in REPRESENTATIONS:
            for name, held in representation.held(layer).items():
                yield f"{path}.{name}".lstrip("."), layer, held


def tensors_of(layer: nn.Module, held: Held) -> list[Tensor]:
    """Return the tensors of a layer that hold one of its weights; the bytes of a weight are theirs."""
    # what is not stored but computed, as a factor that is held as integers itself, is new at each look
    stores = (layer._parameters, layer._buffers, vars(layer))
    values = (store.get(part) for part in held.parts for store in stores)
    return [value for value in values if isinstance(value, Tensor)]


def stored_numbers(layer: nn.Module, name: str) -> tuple[Tensor, str]:
    """Return the numbers that a file holds for a tensor of a layer, and what they are called.

    >>> stored_numbers(nn.Linear(2, 1), "bias")[1]
    'float32'
    """
    for representation in REPRESENTATIONS:
        held = representation.held(layer).get(name)
        if held is not None and held.numbers is not None:
            return held.numbers(), held.format
        if held is not None:
            parts = [stored_numbers(layer, part) for part in held.parts]
            return torch.cat([numbers.flatten() for numbers, _ in parts]), parts[0][1]
    value = getattr(layer, name)
    return numbers_of(value if isinstance(value, Tensor) else value())


def nested_whole(model: nn.Module) -> str | None:
    """Return the path of a part of a model that is held in a form of whole models, or None."""
    for path, module in model.named_modules():
        if path and any(form.whole and form.describe(module) for form in REPRESENTATIONS):
            return str(path)
    return None
