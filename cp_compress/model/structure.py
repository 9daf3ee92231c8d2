"""Structured pruning: whole filters of convolutions become zero, or are removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cp_compress.base.arguments import check_choice, check_integer, reject
from cp_compress.base.errors import CompressionError, NoEffectError
from cp_compress.model.integer import require_float_weights
from cp_compress.model.layers import copy_model, find_owners, find_weights
from cp_compress.model.pruning import check_density, kept_count
from cp_compress.model.schemes import Piped
from cp_compress.model.selection import keep_largest
from cp_compress.model.steps import Change, Skip, Step, add_step
from cp_compress.model.tracing import Trace, example_batch, trace

if TYPE_CHECKING:
    from collections.abc import Iterable

_NORMS = ("l1", "l2")


@dataclass(frozen=True)
class FilterPrune(Piped):
    """Keep the share `density` of the filters of every convolution, those of the largest norm.

    round(density·filters) stay, halves up, rounded to a multiple of `round_to` and never fewer than that; of equal
    norms the first by index. The layer that gives the model's output is left alone. With `shrink=True` filters are
    removed through Torch-Pruning (extra "shrink"): those whose outputs are added to one another are chosen together, by
    the sum of their norms, and what cannot be removed without changing the result is left whole and named as skipped.
    With `shrink=False` a filter, its bias and its channel of the batch norm behind it are set to zero. The model is run
    once on random data of `example_shape` (without the batch dimension; usual sizes are tried when it is None).

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    >>> _ = model(torch.zeros(1, 3, 8, 8))
    >>> FilterPrune(0.5, example_shape=(3, 8, 8)).compress(model)[0].out_channels
    4
    """

    density: float
    norm: str = "l1"
    round_to: int = 1
    shrink: bool = True
    example_shape: tuple[int, ...] | None = None

    expression_name: ClassVar[str] = "filter_prune"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density("FilterPrune", self.density, "filters"))
        check_choice("FilterPrune", "norm", self.norm, _NORMS)
        rule = "round_to is the number of filters to align to, a whole number of 1 or more"
        object.__setattr__(self, "round_to", check_integer("FilterPrune", "round_to", self.round_to, rule, at_least=1))
        if not isinstance(self.shrink, bool):
            reject("FilterPrune", "shrink", self.shrink, "must be True (remove filters) or False (zero them)")
        object.__setattr__(self, "example_shape", _as_shape(self.example_shape))

    def compress(self, model: nn.Module) -> nn.Module:
        """Return a copy of the model without the weakest filters.

        Raises CompressionError when no filter can be pruned, when nothing would change, when the model cannot be run
        on an example, and for NaN or Inf weights; MissingExtraError when Torch-Pruning is needed and absent.
        """
        candidate = copy_model("FilterPrune", model)
        require_float_weights(str(self), candidate)
        batch = example_batch(str(self), candidate, self.example_shape)
        seen = trace(candidate, batch)
        chosen, skips = eligible(candidate, seen)
        if not chosen:
            listed = "; ".join(f"{skip.tensor}: {skip.reason}" for skip in skips[:5])
            raise CompressionError(f"{self}: the model has no filters to prune ({listed or 'it has no convolutions'})")
        if self.shrink:
            from cp_compress.model.shrinking import shrink

            candidate, changes, more = shrink(candidate, chosen, batch, self.survivors)
        else:
            changes, more = self._zero(chosen, seen, candidate)
        if not changes and self.density < 1:
            listed = "; ".join(f"{skip.tensor}: {skip.reason}" for skip in more[:5])
            raise NoEffectError(f"{self} changes nothing ({listed})")
        add_step(candidate, Step(str(self), tuple(changes), (*skips, *more), structural=self.shrink and bool(changes)))
        return candidate

    def survivors(self, weights: Sequence[Tensor]) -> Tensor:
        """Return which filters stay, as booleans (filters,), judged by the norms of one or more weights together."""
        power = 1 if self.norm == "l1" else 2
        strength = torch.stack([weight.detach().flatten(1).double().abs().pow(power).sum(1) for weight in weights])
        total = strength.shape[1]
        return keep_largest([strength.sum(0)], self._count(total))[0]

    def _count(self, total: int) -> int:
        aligned = (2 * kept_count(self.density, total) + self.round_to) // (2 * self.round_to) * self.round_to
        return min(total, max(self.round_to, aligned))

    def _zero(self, chosen: dict[str, _ConvNd], seen: Trace, model: nn.Module) -> tuple[list[Change], list[Skip]]:
        changes, skips = [], []
        for name, layer in chosen.items():
            dropped = ~self.survivors([layer.weight])
            owners = [owner.module for owner in find_owners(model)[id(layer.weight)]]
            following = [norm for owner in owners for norm in seen.norms.get(owner, ())]
            if zero_filters([*owners, *following], dropped):
                changes.append(Change(name, f"{int(dropped.sum())} of {len(dropped)} filters zeroed"))
            else:
                skips.append(
                    Skip(name, f"{len(dropped) - int(dropped.sum())} of {len(dropped)} filters stay, as before")
                )
        return changes, skips


def zero_filters(layers: Iterable[nn.Module], dropped: Tensor) -> bool:
    """Set filters and their biases, or channels of batch norms, to zero in place; tell whether anything changed.

    `dropped` are booleans for all filters, or the indices of those that go.
    """
    changed = False
    for module in layers:
        for tensor in (module.weight, module.bias):
            if isinstance(tensor, Tensor):
                changed = changed or bool(tensor.detach()[dropped].count_nonzero())
                tensor.detach()[dropped] = 0
    return changed


def eligible(model: nn.Module, seen: Trace) -> tuple[dict[str, _ConvNd], list[Skip]]:
    """Return the convolutions whose filters may be pruned, by the names of their weights, and what is left alone."""
    weights, skips = find_weights(model)
    chosen: dict[str, _ConvNd] = {}
    for weight in weights:
        layers = [owner.module for owner in weight.owners]
        kind = type(layers[0]).__name__
        if not all(isinstance(layer, _ConvNd) for layer in layers):
            reason = f"{kind} has no filters"
        elif any(isinstance(layer, _ConvTransposeNd) for layer in layers):
            reason = "the filters of transposed convolutions are not pruned"
        elif seen.head in layers:
            reason = "it gives the model's output"
        elif not all(layer in seen.order for layer in layers):
            reason = "it was not called when the model ran"
        else:
            chosen[weight.name] = layers[0]  # type: ignore[assignment]
            continue
        skips.append(Skip(weight.name, reason))
    return chosen, skips


def _as_shape(value: object) -> tuple[int, ...] | None:
    if value is None:
        return None
    rule = "must be the shape of one example without the batch dimension, such as (3, 32, 32), or None"
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        reject("FilterPrune", "example_shape", value, rule)
    return tuple(check_integer("FilterPrune", "example_shape", size, rule, at_least=1) for size in value)
