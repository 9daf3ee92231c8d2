"""Structured pruning: whole filters of convolutions, or neurons of linear layers, become zero or are removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.nn.modules.conv import _ConvNd

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.errors import CompressionError, NoEffectError
from cp_compress.model.layers import copy_model, find_weights, is_transposed_linear
from cp_compress.model.order import record_scheme, require_order
from cp_compress.model.record import Skip
from cp_compress.model.representations.integer_layers import require_float_weights
from cp_compress.model.scheme import Piped
from cp_compress.model.settings import (
    FilterPruneSettings,
    NeuronPruneSettings,
    StructurePruneSettings,
    UnitPruneSettings,
)
from cp_compress.model.structure.blocks import Block, split_blocks
from cp_compress.model.structure.ranking import Ranking, Target
from cp_compress.model.structure.removal import Work, remove_weakest, zero_weakest
from cp_compress.model.targets import choose
from cp_compress.model.tracing import Trace, example_inputs, trace

_NEURAL = (nn.Linear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


@dataclass(frozen=True, repr=False)
class _UnitPrune(Piped, UnitPruneSettings):
    """What the three structured schemes have in common; they differ in the layers they look at."""

    kinds: ClassVar[tuple[type[nn.Module], ...]]
    knows_blocks: ClassVar[bool] = False

    @property
    def leaves(self) -> tuple[str, ...]:
        """Which of the kinds of `cp_compress.model.Scheme` it leaves behind: without `shrink` units are zeroed."""
        return ("removed_channels",) if self.shrink else ("zeros",)

    @property
    def undoes(self) -> tuple[str, ...]:
        """Which of the kinds of `cp_compress.model.Scheme` it undoes: a removal moves the weights of a pattern."""
        return ("pattern",) if self.shrink else ()

    def compress(self, model: nn.Module) -> nn.Module:
        """Return a copy of the model without the weakest units.

        Raises CompressionError when there is nothing to prune, when nothing would change, when `shrink` could remove
        nothing, when the model cannot be run on an example, when a pattern matches no layer, and for NaN or Inf
        weights; MissingExtraError when Torch-Pruning is needed and absent.
        """
        candidate = copy_model(type(self).__name__, model)
        require_float_weights(str(self), candidate)
        inputs = example_inputs(str(self), candidate, self.example_shape, self.example_dtype)
        seen = trace(candidate, inputs.first)
        chosen, skips = self._eligible(candidate, seen)
        if not chosen:
            listed = "; ".join(f"{skip.tensor}: {skip.reason}" for skip in skips[:5])
            raise CompressionError(f"{self}: the model has no {self.units} to prune ({listed or 'it has no layers'})")
        blocks: list[Block] = []
        whole: list[Skip] = []
        if self.knows_blocks:
            blocks, chosen, whole = split_blocks(candidate, seen, chosen)
            skips += whole
        ranking = Ranking(self.density, self.norm, self.round_to, self.scope, self.floor)
        work = Work(candidate, chosen, inputs, seen, ranking, tuple(blocks))
        done = remove_weakest(work) if self.shrink else zero_weakest(work)
        if not done.changes and self.density < 1:
            listed = "; ".join(f"{skip.tensor}: {skip.reason}" for skip in [*whole, *done.skips][:5])
            raise NoEffectError(f"{self} changes nothing ({listed})")
        if self.shrink and self.density < 1 and not done.structural:
            listed = "; ".join(f"{change.tensor}: {change.action}" for change in done.changes[:5])
            rule = "shrink=False sets them to zero, and removes nothing"
            raise CompressionError(f"{self} removes nothing: no layer would shrink ({listed}); {rule}")
        record_scheme(self, candidate, done.changes, [*skips, *done.skips], done.structural)
        return candidate

    def _has_units(self, layer: nn.Module) -> bool:
        linear = nn.Linear in self.kinds and is_transposed_linear(layer)
        return linear or isinstance(layer, self.kinds)

    def _eligible(self, model: nn.Module, seen: Trace) -> tuple[dict[str, Target], list[Skip]]:
        found, skips = find_weights(model)
        weights, left = choose(str(self), found, self.include, self.exclude)
        skips += left
        require_order(self, model, [weight.name for weight in weights])
        chosen: dict[str, Target] = {}
        for weight in weights:
            layers = [owner.module for owner in weight.owners]
            kind = type(layers[0]).__name__
            if any(hasattr(layer, "low_rank_names") for layer in layers):
                reason = f"its factors have no {self.units} of their own; put low_rank after {self.expression_name}"
            elif not all(self._has_units(layer) for layer in layers):
                reason = f"{kind} has no {self.units}"
            elif weight.owners[0].attribute.startswith("weight_hr"):
                reason = f"it reads the hidden units of {kind} and has none of its own"
            elif seen.heads.intersection(layers):
                reason = "it gives the model's output"
            elif not all(layer in seen.order for layer in layers):
                reason = "it was not called when the model ran"
            else:
                path = weight.owners[0].path
                names = chosen[path].names if path in chosen else ()
                chosen[path] = Target(path, layers[0], (*names, weight.name))
                continue
            skips.append(Skip(weight.name, reason))
        return chosen, skips


@explains_keywords
@dataclass(frozen=True, repr=False)
class FilterPrune(_UnitPrune, FilterPruneSettings):
    """Keep the share `density` of the filters of every convolution, the strongest by `norm`.

    round(density·filters) stay, halves rounded up, then rounded to a multiple of `round_to` and never fewer than that;
    of equal strengths the first by index; a grouped convolution keeps the same number in each group. The layer that
    gives the model's output is left unchanged.

    With `shrink=True`, filters whose outputs are added to one another are chosen together, as one filter (and counted
    as one by "global"). Each removal is checked on a copy; filters that cannot be removed without changing the result
    are set to zero, and the report says why; where none can be removed, that is an error. With
    `shrink=False` a filter, its bias and its channel of the following batch norm are set to zero.

    Args: What stays
        density: The share of the filters to keep, in (0, 1].
        norm: The criterion by which filters are ranked: "l1", "l2", "max", "mean" or "geometric_median", as defined by
            `unit_strengths`.
        scope: "layer" keeps the density in every layer; "global" ranks the filters of all layers together, by their
            strength divided by the mean strength of their layer.
        floor: The share of its filters that every layer keeps at least, from 0 to the density; for `scope="global"`.
        round_to: The number that stays in a layer is rounded to a multiple of this, 1 or more.

    Args: How they are dropped
        shrink: True removes filters, with the help of Torch-Pruning (extra "shrink"); False sets them to zero.

    Args: The example on which the model is run once
        example_shape: The shape of one example without the batch dimension; if None, common sizes are tried.
        example_dtype: "float" for normally distributed numbers, "int64" for indices, or "auto", which chooses indices
            if the model begins with an embedding.

    Args: Which layers
        include: Patterns on the paths or types of layers, as in `Prune`.
        exclude: Patterns of the layers to leave unchanged.

    Raises:
        InvalidArgumentError: If an argument is not as described.

    >>> import torch
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    >>> _ = model(torch.zeros(1, 3, 8, 8))
    >>> FilterPrune(0.5, example_shape=(3, 8, 8)).compress(model)[0].out_channels
    4
    """

    kinds: ClassVar[tuple[type[nn.Module], ...]] = (_ConvNd,)


@explains_keywords
@dataclass(frozen=True, repr=False)
class NeuronPrune(_UnitPrune, NeuronPruneSettings):
    """Keep the share `density` of the neurons (rows) of every linear layer, with their biases.

    In a recurrent layer hidden units are kept, the same number in each of its levels and directions; in an attention
    layer inner dimensions, where dimension i of query, key and value counts as one. The latter, and those of recurrent
    cells, are only ever set to zero. All else is as in `FilterPrune`.

    Args: What stays
        density: The share of the neurons to keep, in (0, 1].
        norm: The criterion by which neurons are ranked: "l1", "l2", "max", "mean" or "geometric_median", as defined by
            `unit_strengths`.
        scope: "layer" keeps the density in every layer; "global" ranks the neurons of all layers together, by their
            strength divided by the mean strength of their layer.
        floor: The share of its neurons that every layer keeps at least, from 0 to the density; for `scope="global"`.
        round_to: The number that stays in a layer is rounded to a multiple of this, 1 or more.

    Args: How they are dropped
        shrink: True removes neurons, with the help of Torch-Pruning (extra "shrink"); False sets them to zero.

    Args: The example on which the model is run once
        example_shape: The shape of one example without the batch dimension; if None, common sizes are tried.
        example_dtype: "float" for normally distributed numbers, "int64" for indices, or "auto", which chooses indices
            if the model begins with an embedding.

    Args: Which layers
        include: Patterns on the paths or types of layers, as in `Prune`.
        exclude: Patterns of the layers to leave unchanged.

    Raises:
        InvalidArgumentError: If an argument is not as described.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> NeuronPrune(0.5).compress(model)[2].in_features
    4
    """

    kinds: ClassVar[tuple[type[nn.Module], ...]] = _NEURAL


@explains_keywords
@dataclass(frozen=True, repr=False)
class StructurePrune(_UnitPrune, StructurePruneSettings):
    """Keep the share `density` of the filters of every convolution and of the neurons of every other layer.

    With `scope="global"` filters and neurons are ranked together, as in Condensa (Joseph et al. 2020), which compares
    their strengths regardless of the layer. All else is as in `FilterPrune` and `NeuronPrune`, but for transformers.

    In a transformer the units are the heads of attention, and the hidden neurons of feed-forward layers together with
    their gates. A key/value head goes with all query heads that share it (grouped-query attention); where all heads
    share one, it stays and query heads go. The strength of a unit is that of all weights that give it. The hidden
    width, which all blocks read and give, stays whole. With `shrink=False` exactly that is zero which is removed
    otherwise. What cannot be removed without changing the result, such as heads with a position bias each, stays as it
    is, and the report says why. A configuration of transformers says what is left where all its layers agree; for heads
    it then has `head_dim`. Attention is known by its linear layers and by attributes that are named after heads.

    Args: What stays
        density: The share of the units to keep, in (0, 1].
        norm: The criterion by which units are ranked: "l1", "l2", "max", "mean" or "geometric_median", as defined by
            `unit_strengths`.
        scope: "layer" keeps the density in every layer; "global" ranks the units of all layers together, by their
            strength divided by the mean strength of their layer.
        floor: The share of its units that every layer keeps at least, from 0 to the density; for `scope="global"`.
        round_to: The number that stays in a layer is rounded to a multiple of this, 1 or more.

    Args: How they are dropped
        shrink: True removes units, with the help of Torch-Pruning (extra "shrink"); False sets them to zero.

    Args: The example on which the model is run once
        example_shape: The shape of one example without the batch dimension; if None, common sizes are tried.
        example_dtype: "float" for normally distributed numbers, "int64" for indices, or "auto", which chooses indices
            if the model begins with an embedding.

    Args: Which layers
        include: Patterns on the paths or types of layers, as in `Prune`.
        exclude: Patterns of the layers to leave unchanged.

    Raises:
        InvalidArgumentError: If an argument is not as described.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> small = StructurePrune(0.5, example_shape=(3, 3, 3)).compress(model)
    >>> small[2].in_features, small[2].out_features
    (4, 3)
    """

    kinds: ClassVar[tuple[type[nn.Module], ...]] = (_ConvNd, *_NEURAL)
    knows_blocks: ClassVar[bool] = True
