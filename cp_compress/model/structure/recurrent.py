"""The hidden units of recurrent layers: one gives a row in every gate and a column wherever it is read.

A level is one layer of one direction; units are counted level by level, in the order of torch's parameters.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cp_compress.base.errors import CompressionError
from cp_compress.model.layers import level_suffixes


def is_recurrent(layer: nn.Module) -> bool:
    """Tell whether a layer has hidden units."""
    return isinstance(layer, (nn.RNNBase, nn.RNNCellBase))


def level_rows(layer: nn.Module, suffix: str) -> Tensor:
    """Return what a level's hidden units weigh, their rows in all gates joined: (units, values)."""
    views = (_by_unit(layer, f"weight_{kind}{suffix}") for kind in ("ih", "hh"))
    return torch.cat([view.flatten(1) for view in views], 1)


def level_places(layer: nn.Module, dropped: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield views (units, …) of the parameters of all levels, each with the booleans for its units."""
    suffixes = level_suffixes(layer)
    for suffix, chosen in zip(suffixes, dropped.view(len(suffixes), -1), strict=True):
        for name in (f"{part}_{kind}{suffix}" for part in ("weight", "bias") for kind in ("ih", "hh")):
            if getattr(layer, name, None) is not None:
                yield _by_unit(layer, name), chosen


def remove_hidden_units(layer: nn.RNNBase, gone: set[int]) -> None:
    """Remove hidden units in place, the same number from each level."""
    if layer.proj_size:
        raise CompressionError("the hidden units of a projected LSTM are not removed")
    suffixes, size = level_suffixes(layer), layer.hidden_size
    kept = [[index for index in range(size) if start * size + index not in gone] for start in range(len(suffixes))]
    directions = 2 if layer.bidirectional else 1
    for level, suffix in enumerate(suffixes):
        own = torch.tensor(kept[level], device=getattr(layer, f"weight_hh{suffix}").device)
        for kind in ("ih", "hh"):
            for part in ("weight", "bias"):
                parameter = getattr(layer, f"{part}_{kind}{suffix}", None)
                if parameter is not None:
                    gates = parameter.data.view(-1, size, *parameter.shape[1:])
                    parameter.data = gates.index_select(1, own).flatten(0, 1)
        recurrent = getattr(layer, f"weight_hh{suffix}")
        recurrent.data = recurrent.data.index_select(1, own)
        below = level // directions * directions - directions
        if below >= 0:
            read = [turn * size + index for turn in range(directions) for index in kept[below + turn]]
            inputs = getattr(layer, f"weight_ih{suffix}")
            inputs.data = inputs.data.index_select(1, torch.tensor(read, device=inputs.device))
    layer.hidden_size = len(kept[0])
    layer.flatten_parameters()


def remove_recurrent_inputs(layer: nn.RNNBase, gone: set[int]) -> None:
    """Remove channels that the first level reads, in place."""
    kept = [index for index in range(layer.input_size) if index not in gone]
    for direction in ("", "_reverse") if layer.bidirectional else ("",):
        weight = getattr(layer, f"weight_ih_l0{direction}")
        weight.data = weight.data.index_select(1, torch.tensor(kept, device=weight.device))
    layer.input_size = len(kept)
    layer.flatten_parameters()


def _by_unit(layer: nn.Module, name: str) -> Tensor:
    parameter: Tensor = getattr(layer, name).detach()
    size: int = layer.hidden_size  # type: ignore[assignment]
    return parameter.view(-1, size, *parameter.shape[1:]).transpose(0, 1)
