"""The work that all schemes with integer weights share: which layers, what obstacles, and the exchange of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor, nn

from cp_compress.base.errors import CompressionError
from cp_compress.model.layers import Weight, find_weights, is_table
from cp_compress.model.record import Change, Skip
from cp_compress.model.representations.formats import IntegerFormat, row_groups, store
from cp_compress.model.representations.integer_layers import (
    fill,
    fill_input_range,
    formats_of,
    integer_obstacle,
    to_integer_layer,
)
from cp_compress.model.settings import Patterns
from cp_compress.model.targets import choose, matches

# integers as the weight, scales, and the words of the report
Rounded = tuple[Tensor, Tensor, str]


def choose_weights(
    owner: str, model: nn.Module, include: Patterns, exclude: Patterns
) -> tuple[list[Weight], list[Skip]]:
    """Return the float weights that a scheme is to quantise, and the other tensors with the reason.

    Layers with integer weights must be left out by the patterns; raises CompressionError, naming the first, if not.
    """
    held = [(path, module) for path, module in model.named_modules() if formats_of(module)]
    for path, module in held:
        if (not include or matches(path, module, include)) and not matches(path, module, exclude):
            forms = ", ".join(dict.fromkeys(form.name for form in formats_of(module).values()))
            raise CompressionError(
                f"{owner}: a weight is quantised once, and {path or 'the model itself'} holds {forms} weights already: "
                "leave such layers out by include or exclude"
            )
    found, skips = find_weights(model, embeddings=bool(include))
    # a pattern which names nothing but layers that are integers already has done its work
    done = {pattern for pattern in exclude if any(matches(*place, (pattern,)) for place in held)}
    done -= {pattern for pattern in done if any(_names(pattern, weight) for weight in found)}
    chosen, others = choose(owner, found, include, tuple(pattern for pattern in exclude if pattern not in done))
    for path, module in held:
        skips += [Skip(f"{path}.{name}".lstrip("."), "integers already") for name in formats_of(module)]
    return chosen, skips + others


def to_integers(
    owner: str,
    weights: list[Weight],
    skips: list[Skip],
    form: IntegerFormat,
    mode: str,
    rounding: Callable[[Weight, int | None], Rounded],
    ranges: Mapping[nn.Module, tuple[Tensor, Tensor]] | None = None,
    refused: Mapping[nn.Module, str] = MappingProxyType({}),
) -> tuple[list[Change], list[Skip]]:
    """Replace weights by integers in place; `ranges` are the scale and zero point of inputs, in mode "static".

    `refused` are layers whose inputs cannot be rounded, and why. Raises CompressionError when no weight can be
    replaced.
    """
    planned: dict[nn.Module, list[tuple[str, Tensor, Tensor]]] = {}
    changes, skips = [], list(skips)
    for weight in weights:
        reason = obstacle(weight, mode)
        reason = reason or next((refused[place.module] for place in weight.owners if place.module in refused), None)
        if not reason and ranges is not None and any(place.module not in ranges for place in weight.owners):
            reason = "the layer saw no input in the calibration data"
        if reason:
            skips.append(Skip(weight.name, reason))
            continue
        values, scale, words = rounding(weight, row_groups(weight.owners[0].module))
        stored = store(values, form)
        for place in weight.owners:
            planned.setdefault(place.module, []).append((place.attribute, stored, scale))
        changes.append(Change(weight.name, words))
    if not changes:
        listed = "; ".join(f"{skip.tensor}: {skip.reason}" for skip in skips[:5])
        raise CompressionError(f"{owner}: the model has no weight to quantise ({listed or 'it has no tensors'})")
    for module, parts in planned.items():
        to_integer_layer(module, {name: form for name, _, _ in parts}, mode)
        for name, stored, scale in parts:
            fill(module, name, stored, scale)
        if ranges is not None:
            fill_input_range(module, *ranges[module])
    return changes, skips


def obstacle(weight: Weight, mode: str) -> str | None:
    """Return why a weight cannot be held as integers in all places of its use, or None."""
    modules = [place.module for place in weight.owners]
    tables = [place.path for place in weight.owners if is_table(place)]
    if mode != "weight" and tables and len(modules) > 1:
        return f"it is tied to the table {tables[0]}, whose look-up has no inputs to round; use mode='weight'"
    reasons = [reason for reason in (integer_obstacle(module, mode) for module in modules) if reason]
    if not reasons and len(set(map(row_groups, modules))) > 1:
        return "it is shared by layers with different dimensions of output channels"
    return reasons[0] if reasons else None


def _names(pattern: str, weight: Weight) -> bool:
    return any(matches(place.path, place.module, (pattern,)) for place in weight.owners)
