"""What every scheme that sets weights to zero does around its choice of weights: copy, choose layers, check, record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import nn

from cp_compress.base.errors import CompressionError, NoEffectError
from cp_compress.model.layers import Weight, copy_model, find_weights
from cp_compress.model.order import record_scheme
from cp_compress.model.record import Change, Skip
from cp_compress.model.representations.integer_layers import require_float_weights
from cp_compress.model.settings import Patterns
from cp_compress.model.targets import choose


class MaskingScheme(Protocol):
    """A scheme with patterns for its layers."""

    @property
    def include(self) -> Patterns: ...
    @property
    def exclude(self) -> Patterns: ...


class EmptiedLayerError(CompressionError):
    """A layer would be left without any weight; `candidate` is the refused model, to read its weights."""

    def __init__(self, message: str, candidate: nn.Module) -> None:
        super().__init__(message)
        self.candidate = candidate


ZeroWeights = Callable[[list[Weight]], list[Skip]]


def mask_weights(scheme: MaskingScheme, model: nn.Module, zero: ZeroWeights, must_change: bool = True) -> nn.Module:
    """Return a copy of the model in which `zero` has set weights of the chosen layers to zero, with its record.

    `zero` works in place and returns what it left alone. Raises CompressionError when there is no weight to work on,
    when a layer would be left without any weight, and, with `must_change`, when nothing would change.
    """
    candidate = copy_model(type(scheme).__name__, model)
    require_float_weights(str(scheme), candidate)
    found, skips = find_weights(candidate, embeddings=bool(scheme.include))
    weights, left = choose(str(scheme), found, scheme.include, scheme.exclude)
    skips += left
    before = [int(weight.tensor.count_nonzero()) for weight in weights]
    more = zero(weights) if weights else []
    if len(more) == len(weights):
        listed = "; ".join(f"{skip.tensor}: {skip.reason}" for skip in [*more, *skips][:5])
        raise CompressionError(f"{scheme}: the model has no weight matrix to prune ({listed or 'it has no tensors'})")
    after = [int(weight.tensor.count_nonzero()) for weight in weights]
    emptied = [weight.name for weight, was, now in zip(weights, before, after, strict=True) if was and not now]
    if emptied:
        rule = "the model's output would no longer depend on its input there. Use a larger density, scope='layer', or "
        message = f"{scheme} leaves no weight at all in {', '.join(emptied)}: {rule}exclude"
        raise EmptiedLayerError(message, candidate)
    if before == after and must_change:
        total = sum(weight.tensor.numel() for weight in weights)
        raise NoEffectError(f"{scheme} changes nothing: {sum(before)} of {total} weights are non-zero already")
    changes = [
        Change(weight.name, f"{was - now} of {weight.tensor.numel()} weights zeroed, {now} left")
        for weight, was, now in zip(weights, before, after, strict=True)
        if now < was
    ]
    record_scheme(scheme, candidate, changes, [*skips, *more])
    return candidate
