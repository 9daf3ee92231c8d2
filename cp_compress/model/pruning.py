"""Unstructured magnitude pruning: the largest weights stay, all others become zero."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from cp_compress.base.arguments import check_choice, check_real
from cp_compress.base.errors import CompressionError
from cp_compress.model.integer import require_float_weights
from cp_compress.model.layers import Weight, copy_model, find_weights
from cp_compress.model.schemes import Piped
from cp_compress.model.selection import zero_all_but_largest
from cp_compress.model.steps import Change, Step, add_step
from cp_compress.model.targets import as_patterns, choose

if TYPE_CHECKING:
    from torch import nn

_SCOPES = ("global", "layer")


@dataclass(frozen=True)
class Prune(Piped):
    """Keep the share `density` of all weights, those of the largest magnitude; set the others to zero.

    Exactly round(density·n) weights stay, halves rounded up and never fewer than one; of equal magnitudes the first
    by index stay (order of `named_parameters`, then row-major). With `scope="global"` n counts all weight matrices
    together, with "layer" each by itself. Biases and normalisation are not counted. `include` and `exclude` are
    patterns (as in fnmatch) on the paths of layers, or on their types ("type:LSTM"); the tables of embeddings are
    pruned only where `include` names them. Definition: magnitude pruning as in Condensa (Joseph et al. 2020), except
    for its rounding and ties.

    >>> from torch import nn
    >>> Prune(0.25).compress(nn.Linear(4, 2)).weight.count_nonzero().item()
    2
    """

    density: float
    scope: str = "global"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    expression_name: ClassVar[str] = "prune"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", check_density("Prune", self.density, "weights"))
        check_choice("Prune", "scope", self.scope, _SCOPES)
        for name in ("include", "exclude"):
            object.__setattr__(self, name, as_patterns("Prune", name, getattr(self, name)))

    def compress(self, model: nn.Module) -> nn.Module:
        """Return a pruned copy of the model.

        Raises CompressionError when nothing can be pruned or nothing would change, when a layer would be left
        without any weight, when a pattern matches no layer, and for NaN or Inf weights.
        """
        candidate = copy_model("Prune", model)
        require_float_weights(str(self), candidate)
        found, skips = find_weights(candidate, embeddings=bool(self.include))
        weights, left = choose(str(self), found, self.include, self.exclude)
        skips += left
        if not weights:
            listed = "; ".join(f"{skip.tensor}: {skip.reason}" for skip in skips[:5])
            raise CompressionError(f"{self}: the model has no weight matrix to prune ({listed or 'it has no tensors'})")
        before = [int(weight.tensor.count_nonzero()) for weight in weights]
        for group in [weights] if self.scope == "global" else [[weight] for weight in weights]:
            tensors: list[Tensor] = [weight.tensor for weight in group]
            zero_all_but_largest(tensors, kept_count(self.density, sum(map(Tensor.numel, tensors))))
        after = [int(weight.tensor.count_nonzero()) for weight in weights]
        self._require_effect(weights, before, after)
        changes = [
            Change(weight.name, f"{was - now} of {weight.tensor.numel()} weights zeroed, {now} left")
            for weight, was, now in zip(weights, before, after, strict=True)
            if now < was
        ]
        add_step(candidate, Step(str(self), tuple(changes), tuple(skips)))
        return candidate

    def _require_effect(self, weights: list[Weight], before: list[int], after: list[int]) -> None:
        emptied = [weight.name for weight, was, now in zip(weights, before, after, strict=True) if was and not now]
        if emptied:
            raise CompressionError(
                f"{self} leaves no weight at all in {', '.join(emptied)}: the model's output would no longer depend on "
                "its input there. Use a larger density, scope='layer', or exclude"
            )
        if before == after and self.density < 1:
            total = sum(weight.tensor.numel() for weight in weights)
            raise CompressionError(f"{self} changes nothing: {sum(before)} of {total} weights are non-zero already")


def check_density(owner: str, density: object, unit: str) -> float:
    """Return a density as a float, or reject it."""
    rule = f'density is the kept share of {unit} and must lie in (0, 1]; for "keep nothing removed" use density=1'
    return check_real(owner, "density", density, rule, above=0, at_most=1)


def kept_count(density: float, total: int) -> int:
    """Return round(density·total) with halves up, at least 1; the density counts as the decimal that it is written as.

    >>> kept_count(0.29, 100), kept_count(0.145, 100), kept_count(0.001, 10)
    (29, 15, 1)
    """
    exact = Decimal(repr(density)) * total
    return max(1, int(exact.quantize(Decimal(1), ROUND_HALF_UP)))
