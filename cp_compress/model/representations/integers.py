"""Integer weights as a way to hold a model: which layers have them, as JSON and back."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.errors import CompressionError
from cp_compress.model.layers import Owner, find_layer, is_table, is_weight
from cp_compress.model.representations.formats import IntegerFormat
from cp_compress.model.representations.integer_layers import (
    IntegerWeights,
    blank_store,
    fill,
    fill_input_range,
    formats_of,
    integer_obstacle,
    integers_of,
    stored_names,
    to_integer_layer,
)
from cp_compress.model.representations.representation import Held, Representation
from cp_compress.model.settings import MODES


@dataclass(frozen=True)
class IntegerLayer:
    """One layer: its path, the formats of its weights by name, its mode, and the shapes of the weights."""

    path: str
    formats: tuple[tuple[str, IntegerFormat], ...]
    mode: str
    shapes: tuple[tuple[int, ...], ...]

    @staticmethod
    def from_json(content: Any) -> IntegerLayer:
        """Read what `Integers.describe` wrote; raises TypeError or ValueError for anything else."""
        path, formats, mode, shapes = content
        if mode not in MODES or not formats or len(shapes) != len(formats):
            raise ValueError(f"{content} is no layer with integer weights")
        named = tuple((str(name), IntegerFormat.from_json(form)) for name, form in formats)
        return IntegerLayer(str(path), named, str(mode), tuple(tuple(map(int, shape)) for shape in shapes))


class Integers(Representation):
    """The layers with integer weights: their paths, formats, modes and the shapes of the weights."""

    key = "integers"

    def describe(self, model: nn.Module) -> list[Any]:
        """Return every layer with integer weights."""
        return [
            [
                path,
                [[name, form.to_json()] for name, form in layer.integer_formats.items()],
                layer.integer_mode,
                [list(layer.integer_shapes[name]) for name in layer.integer_formats],
            ]
            for path, layer in model.named_modules()
            if isinstance(layer, IntegerWeights)
        ]

    def read(self, content: Any) -> tuple[IntegerLayer, ...]:
        """Return the layers."""
        return tuple(map(IntegerLayer.from_json, content))

    def shape(self, model: nn.Module, found: tuple[IntegerLayer, ...]) -> None:
        """Replace weights by integers."""
        _shape_integers(model, found)

    def held(self, layer: nn.Module) -> Mapping[str, Held]:
        """Return the weights that are integers and scales."""
        return {
            name: Held(stored_names(name, form), functools.partial(integers_of, layer, name), form.name)
            for name, form in formats_of(layer).items()
        }


def _shape_integers(model: nn.Module, layers: Iterable[IntegerLayer]) -> None:
    """Give a model, in place, its layers with integer weights, without content; tied weights stay tied.

    Raises CompressionError for a layer that the model does not have or that cannot hold such weights.
    """
    blanks: dict[tuple[int, IntegerFormat], tuple[Tensor, Tensor]] = {}
    kept = []  # so that no id is given twice
    for layer in layers:
        module = find_layer(model, layer.path)
        contents = []
        for (name, form), shape in zip(layer.formats, layer.shapes, strict=True):
            weight = module._parameters.get(name)
            place = Owner(layer.path, module, name)
            if weight is None or not (is_weight(place) or is_table(place)) or integer_obstacle(module, layer.mode):
                raise CompressionError(f"{layer.path}.{name} is no weight that can be held as integers")
            if tuple(weight.shape) != shape:  # several integers lie in one byte, so that their buffer has another
                found = f"{shape} in the file and {tuple(weight.shape)} in the model"
                raise CompressionError(f"{layer.path}.{name} has shape {found}")
            kept.append(weight)
            contents.append((name, *blanks.setdefault((id(weight), form), blank_store(weight, module, form))))
        to_integer_layer(module, dict(layer.formats), layer.mode)
        for name, stored, scale in contents:
            fill(module, name, stored, scale)
        if layer.mode == "static":
            device = contents[0][1].device
            zero = torch.zeros((), dtype=torch.uint8, device=device)
            fill_input_range(module, torch.ones((), device=device), zero)
