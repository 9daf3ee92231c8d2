"""The products of inputs with a layer's weight, seen where the layer's own forward makes them.

A subclass of a convolution or linear layer may pad, reshape or scale around the product, or add another path to it.
While its forward runs, the calls of torch that take its weight are seen: a product of an input with the weight as it is
held can be computed in another way, and anything else that is made of the weight is remembered by its name.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from cp_compress.base.devices import keeping_random_state
from cp_compress.model.layers import is_transposed_linear

_CONVOLUTIONS: dict[Any, int] = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
_SETTINGS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_MATRIX = (torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__)
_ADDED = (torch.addmm, Tensor.addmm)
_TRANSPOSES = (torch.t, Tensor.t, torch.transpose, Tensor.transpose, torch.swapaxes, Tensor.swapaxes)
_TURNED = (Tensor.T.__get__, Tensor.mT.__get__)  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class Product:
    """One product of an input with the weight of a layer.

    `spatial` is the number of a convolution's dimensions behind the channels, 0 for a product of matrices. `multiply`
    returns the product, without a bias, of any input and weight of these shapes.
    """

    inputs: Tensor
    bias: Tensor | None
    spatial: int
    multiply: Callable[[Tensor, Tensor], Tensor]

    def plain(self, weight: Tensor) -> Tensor:
        """Return the product as the layer itself computes it, up to the order in which the bias is added."""
        outputs = self.multiply(self.inputs, weight)
        return outputs if self.bias is None else outputs + self.bias.view(-1, *[1] * self.spatial)


class Products(TorchFunctionMode):
    """Sees what is made of one weight inside a `with`: `multiply` gives each product's result, None torch's own.

    `count` is the number of products, and `others` are the names of the functions that made another tensor of it.
    """

    def __init__(self, weight: Tensor, multiply: Callable[[Product], Tensor | None]) -> None:
        super().__init__()
        self._weight = weight
        self._turned: list[Tensor] = []
        self._multiply = multiply
        self.count = 0
        self.others: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return what a function of torch returns, or the product."""
        kwargs = kwargs or {}
        product = self._product(func, args, kwargs)
        if product is not None:
            self.count += 1
            made = self._multiply(product)
            return func(*args, **kwargs) if made is None else made
        result = func(*args, **kwargs)
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(self._is_weight(leaf) is not None for leaf in given):
            self._note(func, args, result)
        return result

    def obstacle(self, kind: str) -> str | None:
        """Return why products alone do not say what a forward does with its weight, or None."""
        if self.others:
            listed = ", ".join(dict.fromkeys(self.others))
            return (
                f"the forward of {kind} computes with its weight in another way ({listed}) than to multiply an input "
                "by it: its inputs cannot be rounded; use mode='weight'"
            )
        return None if self.count else f"the forward of {kind} does not multiply an input by this weight"

    def _note(self, func: Any, args: Any, result: Any) -> None:
        if any(result is known for known in (self._weight, *self._turned)):
            return  # a cast to the dtype that it has
        if (func in _TRANSPOSES or func in _TURNED) and self._weight.ndim == 2 and args[0] is self._weight:
            self._turned.append(result)
        elif any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result)):
            self.others.append(getattr(func, "__name__", str(func)))

    def _is_weight(self, value: Any) -> bool | None:
        """Tell whether a value is the weight (False), the weight transposed (True), or neither (None)."""
        if value is self._weight:
            return False
        return True if any(value is turned for turned in self._turned) else None

    def _product(self, func: Any, args: Any, kwargs: Any) -> Product | None:
        if func is F.linear or func in _CONVOLUTIONS:
            given = dict(zip(_SETTINGS, args, strict=False)) | kwargs
            turned = self._is_weight(given.get("weight"))
            if turned is None or (turned and func is not F.linear):
                return None
            bias, rest = given.get("bias"), {name: value for name, value in given.items() if name in _SETTINGS[3:]}
            return self._of(
                given["input"], bias, _CONVOLUTIONS.get(func, 0), not turned, lambda x, w: func(x, w, **rest)
            )
        if func in _MATRIX and len(args) == 2 and not kwargs:
            turned = self._is_weight(args[1])
            return None if turned is None or args[1].ndim != 2 else self._of(args[0], None, 0, turned, F.linear)
        if func in _ADDED and len(args) == 3 and set(kwargs.values()) <= {1} and "out" not in kwargs:
            turned = self._is_weight(args[2])
            bias = args[0] if isinstance(args[0], Tensor) and args[0].ndim == 1 else None
            return None if turned is None or bias is None else self._of(args[1], bias, 0, turned, F.linear)
        return None

    def _of(self, inputs: Tensor, bias: Tensor | None, spatial: int, rows: bool, multiply: Any) -> Product:
        """Return a product; `rows` tells whether the outputs are the rows of the weight as it is held."""
        if rows:
            return Product(inputs, bias, spatial, multiply)
        return Product(inputs, bias, spatial, lambda values, weight: multiply(values, weight.t()))


_weights: ContextVar[MappingProxyType[int, Tensor]] = ContextVar("cp_weights", default=MappingProxyType({}))


def weight_in_use(layer: nn.Module) -> Tensor | None:
    """Return the tensor that stands for a layer's weight in the running call of its own forward, or None."""
    return _weights.get().get(id(layer))


@contextlib.contextmanager
def using_weight(layer: nn.Module, weight: Tensor) -> Iterator[None]:
    """Let one tensor be the layer's weight inside, in this thread: products are told by the identity of the weight."""
    token = _weights.set(MappingProxyType({**_weights.get(), id(layer): weight}))
    try:
        yield
    finally:
        _weights.reset(token)


def probe_obstacle(layer: nn.Module) -> str | None:
    """Return why the inputs of a layer with a forward of its own cannot be rounded, or None; a copy is run once."""
    kind, failure = type(layer).__name__, ""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(0)
    for shape in _probe_shapes(layer):
        probe = copy.deepcopy(layer).eval()
        inputs = torch.randn(shape, generator=generator).to(weight.device, weight.dtype)
        seen = Products(probe.weight, lambda product: None)  # type: ignore[arg-type]
        try:
            with keeping_random_state(), torch.no_grad(), seen:
                type(probe).forward(probe, inputs)
        except Exception as error:  # a forward of a user's own may need anything; another shape may fit
            failure = str(error).partition("\n")[0]
            continue
        return seen.obstacle(kind)
    return (
        f"{kind} has arithmetic of its own and cannot be run alone to see it ({failure}): its inputs cannot be rounded"
    )


def _probe_shapes(layer: Any) -> list[tuple[int, ...]]:
    if is_transposed_linear(layer):
        return [(2, layer.weight.shape[0])]
    if isinstance(layer, nn.Linear):
        return [(2, layer.in_features), (2, 3, layer.in_features)]
    reach = max((size - 1) * step + 1 for size, step in zip(layer.kernel_size, layer.dilation, strict=True))
    spatial = len(layer.kernel_size)
    return [(2, layer.in_channels, *[size] * spatial) for size in (max(8, reach + 1), 2 * reach + 32)]
