"""The tensors of a model that schemes work on: which are weight matrices of layers, and which are something else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from cp_compress.base.errors import CompressionError
from cp_compress.base.holdings.tensors import is_made_of_others, is_plain, value_of
from cp_compress.base.showing.mistaken import reject_kind
from cp_compress.model.copying import copy_whole
from cp_compress.model.record import Skip
from cp_compress.model.sources import add_source

_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True)
class Owner:
    """One place where a parameter is used: the module, its path and the parameter's name in it."""

    path: str
    module: nn.Module
    attribute: str


@dataclass(frozen=True)
class Weight:
    """A weight matrix: its first name in the model, the tensor, and every place where it is used."""

    name: str
    tensor: nn.Parameter
    owners: tuple[Owner, ...]

    @property
    def matrix(self) -> Tensor:
        """The values with the outputs first: the tensor itself, or a transposed view of it, which shares its memory."""
        values = self.tensor.detach()
        return values.t() if all(is_transposed_linear(owner.module) for owner in self.owners) else values


def copy_model(owner: str, model: nn.Module) -> nn.Module:
    """Return a deep copy of a model for a scheme to work on, without gradients.

    The copy carries what it was made from (`cp_compress.model.sources`).

    Raises InvalidArgumentError for anything but an `nn.Module`, and CompressionError for one that cannot be
    copied, holds lazy parameters, or holds NaN or Inf in a parameter.
    """
    if not isinstance(model, nn.Module):
        reject_kind(owner, "model", model, "only a torch.nn.Module can be compressed", "model")
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise CompressionError(f"{name} is a lazy parameter without a shape: run the model once before compressing")
        if parameter.is_meta:
            raise CompressionError(f"{name} is on the device meta and has no values: load the model before compressing")
        require_finite(name, parameter)
    copied = copy_whole(model)
    add_source(copied, model)
    return copied


def require_finite(name: str, tensor: Tensor) -> None:
    """Raise CompressionError, naming the tensor, when it holds NaN or Inf."""
    tensor = value_of(tensor)
    if not is_plain(tensor):
        return
    if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all()):
        raise CompressionError(f"{name} holds NaN or Inf: such a model cannot be compressed in a meaningful way")


def find_owners(model: nn.Module) -> dict[int, tuple[Owner, ...]]:
    """Map the `id` of every parameter to the places where it is used."""
    owners: dict[int, tuple[Owner, ...]] = {}
    for path, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                place = Owner(path, module, attribute)
                owners[id(parameter)] = (*owners.get(id(parameter), ()), place)
    return owners


def find_weights(model: nn.Module, embeddings: bool = False) -> tuple[list[Weight], list[Skip]]:
    """Return the weight matrices in the order of `named_parameters`, and every other tensor of two dimensions or more.

    A tensor used in several places is returned once, and is a weight matrix when one of the places makes it one. The
    tables of embeddings count as weight matrices when `embeddings` is set.
    """
    owners = find_owners(model)
    weights, others = [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or parameter.numel() == 0:
            continue
        places = owners[id(parameter)]
        if is_made_of_others(parameter):
            others.append(
                Skip(name, f"tensors of another library ({type(parameter).__name__}) are not pruned or quantised")
            )
        elif not parameter.is_floating_point() or parameter.element_size() == 1:
            others.append(Skip(name, f"{_text(parameter.dtype)} values are not pruned or quantised"))
        elif any(is_weight(place) or (embeddings and is_table(place)) for place in places):
            weights.append(Weight(name, parameter, places))
        else:
            others.append(Skip(name, _reason(places[0])))
    return weights, others


def factor_names(name: str) -> tuple[str, str]:
    """Return the names of the two parameters that hold a weight as a product."""
    return f"{name}_left", f"{name}_right"


def is_transposed_linear(module: nn.Module) -> bool:
    """Tell whether a layer is a `Conv1D` of transformers: linear, with a weight (inputs, outputs).

    It is known by its name, so that transformers need not be installed.
    """
    kinds = type(module).__mro__
    return any(kind.__name__ == "Conv1D" and kind.__module__.partition(".")[0] == "transformers" for kind in kinds)


def transposed_sizes(layer: Any) -> tuple[int, int]:
    """Return the numbers of inputs and outputs of a `Conv1D` of transformers."""
    inputs, outputs = layer.weight.shape
    return int(inputs), int(outputs)


def is_linear(module: nn.Module) -> bool:
    """Tell whether a layer is linear, in whichever order its weight has its axes."""
    return isinstance(module, nn.Linear) or is_transposed_linear(module)


def is_weight(place: Owner) -> bool:
    """Tell whether a parameter is, in one place of its use, the weight matrix of a layer, or a factor of one."""
    module, attribute = place.module, place.attribute
    if any(attribute in factor_names(name) for name in getattr(module, "low_rank_names", ())):
        return True
    if isinstance(module, (nn.Linear, nn.Bilinear, _ConvNd)):
        return attribute == "weight"
    if is_transposed_linear(module):
        return attribute == "weight"
    if isinstance(module, nn.MultiheadAttention):
        return attribute in _ATTENTION
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return attribute.startswith("weight_")
    return False


def level_suffixes(layer: nn.Module) -> list[str]:
    """Return how the names of the parameters of each level end."""
    if not isinstance(layer, nn.RNNBase):
        return [""]
    directions = ("", "_reverse") if layer.bidirectional else ("",)
    return [f"_l{level}{direction}" for level in range(layer.num_layers) for direction in directions]


def is_table(place: Owner) -> bool:
    """Tell whether a parameter is, in one place of its use, the table of an embedding."""
    return isinstance(place.module, (nn.Embedding, nn.EmbeddingBag)) and place.attribute == "weight"


def _reason(place: Owner) -> str:
    kind = type(place.module).__name__
    if is_table(place):
        return f"the table of an {kind} is looked up, not multiplied; a pattern of include has to name it"
    if ".parametrizations." in f".{place.path}.":
        return "the layer is parametrised: its weight is computed from other tensors"
    return f"{place.attribute} of {kind} is not known to be a weight matrix"


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and buffer once, with its first name; buffers that are not saved are included."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def resolve(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds the tensor of a dotted name, and the last part of the name."""
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path), attribute


def find_layer(model: nn.Module, path: str) -> nn.Module:
    """Return the layer of a path in a stored arrangement; raises CompressionError where the model has none."""
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise CompressionError(f"{path} is a layer in the file, not in the model") from error


def used_value(model: nn.Module, name: str) -> Tensor | None:
    """Return what a model computes with under a dotted name, in whatever form it is held, or None where it has none."""
    try:
        module, attribute = resolve(model, name)
    except AttributeError:
        return None
    value = getattr(module, attribute, None)
    if attribute in ("weight", "bias") and is_packed_layer(module) and callable(value):
        value = value()
    return value_of(value) if isinstance(value, Tensor) else None


def is_packed_layer(module: nn.Module) -> bool:
    """Tell whether a module is a layer of `torch.ao` that unpacks its weight and bias when it is asked for them."""
    return type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized"))


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
