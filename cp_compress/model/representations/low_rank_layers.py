"""Layers that hold their weights as two factors, and stay instances of the layers they were.

The weight W (rows, *others) is `weight_left` (rows, rank) times `weight_right` (rank, *others). A layer's class is
replaced by a subclass in which the weight is a property that multiplies the factors, so that hooks, paths,
`isinstance` and code that reads `layer.weight` go on working; where the layer's arithmetic allows it, `forward` applies
one factor after the other and never forms the product.
"""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cp_compress.base.errors import CompressionError
from cp_compress.model.layers import Weight, factor_names, find_layer, find_owners, is_linear
from cp_compress.model.representations.representation import Held, Representation

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LowRankWeights:
    """What the subclasses with factorised weights have in common; never instantiated by itself."""

    low_rank_base: type[nn.Module]
    low_rank_names: tuple[str, ...]

    def extra_repr(self) -> str:
        """Return the layer's own settings and its ranks."""
        own = super().extra_repr()  # type: ignore[misc]
        ranks = ", ".join(map(str, low_rank_ranks(self).values()))
        return f"{own}, rank {ranks}" if own else f"rank {ranks}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        # the class is made at run time: what is stored is how to make it again
        state = self.__getstate__() if hasattr(self, "__getstate__") else self.__dict__
        return _blank_layer, (self.low_rank_base, self.low_rank_names), state


def low_rank_layers(model: nn.Module) -> list[tuple[str, LowRankWeights]]:
    """Return the path and layer of every layer that holds factors."""
    return [(path, module) for path, module in model.named_modules() if isinstance(module, LowRankWeights)]


def to_low_rank_layer(module: nn.Module, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Turn a layer, in place, into one whose named weights are held as the given factors."""
    for name, parts in factors.items():
        trained = module._parameters[name].requires_grad  # type: ignore[union-attr]
        del module._parameters[name]
        for stored, tensor in zip(factor_names(name), parts, strict=True):
            module.register_parameter(stored, nn.Parameter(tensor, requires_grad=trained))
    module.__class__ = _low_rank_class(type(module), tuple(factors))  # type: ignore[arg-type]


def low_rank_ranks(layer: LowRankWeights) -> dict[str, int]:
    """Return the rank of every factorised weight of a layer, by the weight's name."""
    return {name: getattr(layer, factor_names(name)[0]).shape[1] for name in layer.low_rank_names}


def low_rank_obstacle(weight: Weight) -> str | None:
    """Return why a weight cannot be held as factors, or None."""
    module = weight.owners[0].module
    kind = type(module).__name__
    if len(weight.owners) > 1:
        return "several layers share it"
    if isinstance(module, LowRankWeights):
        return "it is a factor already"
    taken = [name for name in factor_names(weight.owners[0].attribute) if hasattr(module, name)]
    if taken:
        return f"the layer has an attribute {taken[0]} of its own"
    if isinstance(module, nn.Embedding) and module.max_norm is None:
        return None
    if not (is_linear(module) or isinstance(module, (_ConvNd, nn.MultiheadAttention))):
        return f"{kind} cannot compute with factors here"
    return None


class Factors(Representation):
    """The layers whose weights are products: their paths, with the rank of each weight by its name."""

    key = "low_rank"

    def describe(self, model: nn.Module) -> list[list[Any]]:
        """Return path and ranks of each layer."""
        return [[path, low_rank_ranks(layer)] for path, layer in low_rank_layers(model)]

    def read(self, content: Any) -> tuple[tuple[str, dict[str, int]], ...]:
        """Return path and ranks of each layer."""
        return tuple((str(path), {str(name): int(rank) for name, rank in ranks.items()}) for path, ranks in content)

    def shape(self, model: nn.Module, found: tuple[tuple[str, dict[str, int]], ...]) -> None:
        """Replace weights by factors."""
        for path, ranks in found:
            to_low_rank_layer(find_layer(model, path), _blank_factors(model, path, ranks))

    def held(self, layer: nn.Module) -> Mapping[str, Held]:
        """Return the weights that are products: their parts are weights themselves."""
        names = layer.low_rank_names if isinstance(layer, LowRankWeights) else ()
        return {name: Held(factor_names(name)) for name in names}


def _blank_factors(model: nn.Module, path: str, ranks: dict[str, int]) -> dict[str, tuple[Tensor, Tensor]]:
    module = find_layer(model, path)
    factors = {}
    for name, rank in ranks.items():
        weight = module._parameters.get(name)
        places = () if weight is None else find_owners(model)[id(weight)]
        if weight is None or low_rank_obstacle(Weight(name, weight, places)) or not 1 <= rank < weight.numel():
            raise CompressionError(f"{path}.{name} is no weight that can be held as factors of rank {rank}")
        rows, *others = weight.shape
        factors[name] = (weight.detach().new_empty(rows, rank), weight.detach().new_empty(rank, *others))
    return factors


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """Return the weight (rows, *others) of factors (rows, rank) and (rank, *others)."""
    product: Tensor = left @ right.flatten(1)
    return product.view(left.shape[0], *right.shape[1:])


class _LowRankType(type):
    """The type of the classes made here, by which another such class may name one as its base when it is pickled."""


def _reduce_class(kind: Any) -> Any:
    return _low_rank_class, (kind.low_rank_base, kind.low_rank_names)


copyreg.pickle(_LowRankType, _reduce_class)


@functools.cache
def _low_rank_class(base: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    body: dict[str, Any] = {name: _weight_property(name) for name in names}
    body |= {"low_rank_base": base, "low_rank_names": names, "__module__": base.__module__}
    forward = _forward_of(base)
    if forward is not None:
        body["forward"] = forward
    kind: Any = _LowRankType(f"LowRank{base.__name__}", (LowRankWeights, base), body)
    made: type[nn.Module] = kind
    return made


def _blank_layer(base: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    kind = _low_rank_class(base, names)  # type: ignore[arg-type]
    return kind.__new__(kind)


def _weight_property(name: str) -> property:
    left, right = factor_names(name)
    return property(lambda layer: multiply(getattr(layer, left), getattr(layer, right)))


def _forward_of(base: type[nn.Module]) -> Any:
    """Return a forward that applies the factors in turn, where the class computes as torch's own does."""
    if base.forward is nn.Linear.forward:
        return _forward_linear
    if base.__name__ == "Conv1D" and base.__module__.startswith("transformers."):
        return _forward_transposed
    if base.forward is nn.Embedding.forward:
        return _forward_embedding
    if base.forward in [kind.forward for kind in _CONVOLUTIONS] and not issubclass(base, _ConvTransposeNd):
        return _forward_convolution
    return None


def _forward_linear(self: Any, input: Tensor) -> Tensor:
    return F.linear(F.linear(input, self.weight_right), self.weight_left, self.bias)


def _forward_transposed(self: Any, x: Tensor) -> Tensor:
    return F.linear(F.linear(x, self.weight_left.t()), self.weight_right.t(), self.bias)


def _forward_embedding(self: Any, input: Tensor) -> Tensor:
    rows = F.embedding(
        input, self.weight_left, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq, sparse=self.sparse
    )
    vectors: Tensor = rows @ self.weight_right
    return vectors


def _forward_convolution(self: Any, input: Tensor) -> Tensor:
    if self.groups > 1:
        outputs: Tensor = self.low_rank_base.forward(self, input)
        return outputs
    inner = self._conv_forward(input, self.weight_right, None)
    spatial = len(self.kernel_size)
    mix: Any = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
    mixed: Tensor = mix(inner, self.weight_left.view(*self.weight_left.shape, *[1] * spatial), self.bias)
    return mixed
