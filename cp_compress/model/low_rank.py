"""Weights as products of two thin matrices: the best approximation of a given rank, or of a given share of energy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.errors import NoEffectError
from cp_compress.model.layers import Weight, copy_model, find_weights
from cp_compress.model.order import record_scheme, require_order
from cp_compress.model.record import Change, Skip
from cp_compress.model.representations.integer_layers import require_float_weights
from cp_compress.model.representations.low_rank_layers import low_rank_obstacle, to_low_rank_layer
from cp_compress.model.scheme import Piped
from cp_compress.model.settings import LowRankSettings
from cp_compress.model.targets import choose

if TYPE_CHECKING:
    from torch import nn


@explains_keywords
@dataclass(frozen=True, repr=False)
class LowRank(Piped, LowRankSettings):
    """Replace each weight by a product of two matrices of rank r: the closest one in the sum of squares.

    A weight is taken as a matrix of its first dimension by all others. It is left unchanged, and named in the report,
    if the two factors would hold as many numbers as the weight itself. Linear layers, convolutions without groups and
    embeddings (named by `include`) compute with the factors one after the other; attention projections, convolutions in
    groups and transposed ones store the factors and multiply them when they are used. Sources: Eckart and Young 1936;
    for convolutions Zhang et al. 2015, "Accelerating very deep convolutional networks", without its nonlinear part.

    Args:
        rank: The rank r, 1 or more; give either this or `energy`.
        energy: The share of the sum of squared singular values to keep, in (0, 1); r is the smallest rank that does.
        include: Patterns on the paths or types of layers, as in `Prune`.
        exclude: Patterns of the layers to leave unchanged.

    Raises:
        InvalidArgumentError: If an argument is not as described, or both or none of `rank` and `energy` are given.

    >>> from torch import nn
    >>> layer = LowRank(rank=2).compress(nn.Linear(16, 8))
    >>> tuple(layer.weight_left.shape), tuple(layer.weight_right.shape), isinstance(layer, nn.Linear)
    ((8, 2), (2, 16), True)
    """

    leaves: ClassVar[tuple[str, ...]] = ("factors",)
    undoes: ClassVar[tuple[str, ...]] = ("zeros", "pattern")

    def compress(self, model: nn.Module) -> nn.Module:
        """Return a copy of the model with factors in place of weights.

        Raises NoEffectError when no weight would become smaller, CompressionError for weights that were pruned before,
        and for NaN or Inf weights.
        """
        candidate = copy_model("LowRank", model)
        require_float_weights(str(self), candidate)
        found, skips = find_weights(candidate, embeddings=bool(self.include))
        weights, left = choose(str(self), found, self.include, self.exclude)
        skips += left
        planned: dict[nn.Module, dict[str, tuple[Tensor, Tensor]]] = {}
        changes: list[Change] = []
        require_order(self, candidate, [weight.name for weight in weights])
        for weight in weights:
            reason, factors = self._factorise(weight)
            if factors is None:
                skips.append(Skip(weight.name, reason))
                continue
            (owner,) = weight.owners
            planned.setdefault(owner.module, {})[owner.attribute] = factors
            changes.append(Change(weight.name, reason))
        if not changes:
            listed = "; ".join(f"{skip.tensor}: {skip.reason}" for skip in skips[:5])
            raise NoEffectError(f"{self}: no weight of the model would become smaller ({listed})")
        for module, parts in planned.items():
            to_low_rank_layer(module, parts)
        record_scheme(self, candidate, changes, skips)
        return candidate

    def _factorise(self, weight: Weight) -> tuple[str, tuple[Tensor, Tensor] | None]:
        reason = low_rank_obstacle(weight)
        if reason:
            return reason, None
        matrix = weight.matrix
        rows, columns = matrix.shape[0], math.prod(matrix.shape[1:])
        break_even = rows * columns / (rows + columns)
        if self.rank is not None and self.rank >= break_even:
            return f"at rank {self.rank} its factors would be no smaller: {rows}×{columns}", None
        values, vectors, transposed = _spectrum(matrix)
        # beyond the numerical rank there is nothing but rounding, and a division by it
        full = max(1, int((values > values[0] * max(rows, columns) * torch.finfo(values.dtype).eps).sum()))
        rank = min(full, self.rank or _rank_of_energy(values, self.energy or 1.0))
        if rank >= break_even:
            return f"it needs rank {rank}, at which its factors would be no smaller: {rows}×{columns}", None
        left, right = _factors(matrix, values[:rank], vectors[:, :rank], transposed)
        swapped = matrix.shape != weight.tensor.shape or matrix.stride() != weight.tensor.stride()
        factors = (right.t().contiguous(), left.t().contiguous()) if swapped else (left, right)
        kept = float(values[:rank].sum() / values.sum()) if float(values.sum()) else 1.0
        asked = f" ({self.rank} asked for, but it has no more)" if self.rank is not None and rank < self.rank else ""
        return f"rank {rank} of {min(rows, columns)}{asked}, {kept:.4g} of the energy", factors


def _spectrum(weight: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Return squared singular values, falling, the singular vectors of the shorter side, and whether that is columns.

    In float64 the eigenvectors of the Gram matrix of a float32 weight are its singular vectors to float32 rounding.
    """
    matrix = weight.detach().flatten(1).double()
    transposed = matrix.shape[0] > matrix.shape[1]
    short = matrix.t() if transposed else matrix
    values, vectors = torch.linalg.eigh(short @ short.t())
    return values.flip(0).clamp_min(0), vectors.flip(1), transposed


def _rank_of_energy(values: Tensor, energy: float) -> int:
    total = values.cumsum(0)
    # one last bit of the sum must not ask for one rank more
    reached = total >= energy * total[-1] * (1 - 1e-12)
    return int(reached.int().argmax()) + 1


def _factors(weight: Tensor, values: Tensor, vectors: Tensor, transposed: bool) -> tuple[Tensor, Tensor]:
    """Return factors (rows, rank) and (rank, *others) that share the singular values evenly."""
    matrix = weight.detach().flatten(1).double()
    root = values.clamp_min(torch.finfo(torch.float64).tiny).pow(0.25)
    if transposed:
        left, right = matrix @ vectors / root, (vectors * root).t()
    else:
        left, right = vectors * root, (vectors / root).t() @ matrix
    shape = (len(root), *weight.shape[1:])
    return left.to(weight.dtype).contiguous(), right.to(weight.dtype).reshape(shape).contiguous()
