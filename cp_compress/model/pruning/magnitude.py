"""Unstructured magnitude pruning: the largest weights stay, all others become zero."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from cp_compress.base.arguments import explains_keywords
from cp_compress.model.layers import Weight
from cp_compress.model.pruning.largest import zero_all_but_largest
from cp_compress.model.pruning.zeroing import mask_weights
from cp_compress.model.record import Skip
from cp_compress.model.scheme import Piped
from cp_compress.model.settings import PruneSettings

if TYPE_CHECKING:
    from torch import nn


@explains_keywords
@dataclass(frozen=True, repr=False)
class Prune(Piped, PruneSettings):
    """Keep the share `density` of all weights, those of the largest magnitude, and set the others to zero.

    Exactly round(density·n) of n weights stay, halves rounded up and never fewer than one; of equal magnitudes the
    first by index stay (order of `named_parameters`, then row-major). Biases and normalisation are not counted.
    Definition: magnitude pruning as in Condensa (Joseph et al. 2020), except for its rounding and ties.

    Args:
        density: The share of the weights to keep, in (0, 1].
        scope: "global" counts all weight matrices together, "layer" each one separately.
        include: Patterns (as in fnmatch) on the paths of layers, such as "layer1.*", or on their types, such as
            "type:LSTM"; without any, all layers. Tables of embeddings are pruned only where a pattern names them, or
            where a layer shares them.
        exclude: Patterns of the layers to leave unchanged.

    Raises:
        InvalidArgumentError: If an argument is not as described.

    >>> from torch import nn
    >>> Prune(0.25).compress(nn.Linear(4, 2)).weight.count_nonzero().item()
    2
    """

    leaves: ClassVar[tuple[str, ...]] = ("zeros",)
    undoes: ClassVar[tuple[str, ...]] = ()

    def compress(self, model: nn.Module) -> nn.Module:
        """Return a pruned copy of the model.

        Raises CompressionError when nothing can be pruned or nothing would change, when a layer would be left
        without any weight, when a pattern matches no layer, and for NaN or Inf weights.
        """
        return mask_weights(self, model, self._zero, must_change=self.density < 1)

    def _zero(self, weights: list[Weight]) -> list[Skip]:
        for group in [weights] if self.scope == "global" else [[weight] for weight in weights]:
            tensors: list[Tensor] = [weight.matrix for weight in group]
            zero_all_but_largest(tensors, kept_count(self.density, sum(map(Tensor.numel, tensors))))
        return []


def kept_count(density: float, total: int) -> int:
    """Return round(density·total) with halves up, at least 1; the density counts as the decimal that it is written as.

    >>> kept_count(0.29, 100), kept_count(0.145, 100), kept_count(0.001, 10)
    (29, 15, 1)
    """
    exact = Decimal(repr(density)) * total
    return max(1, int(exact.quantize(Decimal(1), ROUND_HALF_UP)))
