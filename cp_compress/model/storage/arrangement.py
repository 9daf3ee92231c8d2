"""How a compressed model differs from its architecture in anything but values, as JSON and back.

Layers with fewer channels, layers with integer weights, casts around the model, parameters held in 16 bits, train/eval
states and the record of the schemes. What is read is checked against the architecture before anything is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cp_compress.base.error_reasons import reason_of
from cp_compress.base.errors import CompressionError, CorruptStreamError
from cp_compress.model.layers import Weight, find_owners
from cp_compress.model.record import Step, read_steps, write_steps
from cp_compress.model.representations.half_computed import add_casts, find_casts
from cp_compress.model.representations.half_stored import add_holding, find_holding
from cp_compress.model.representations.low_rank_layers import (
    low_rank_layers,
    low_rank_obstacle,
    low_rank_ranks,
    to_low_rank_layer,
)
from cp_compress.model.storage.integer_arrangement import IntegerLayer, describe_integers, shape_integers
from cp_compress.model.storage.steps import describe_step, read_step
from cp_compress.model.structure.recurrent import level_suffixes

_FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
_SIZES: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (_ConvNd, ("in_channels", "out_channels", "groups")),
    (nn.Linear, ("in_features", "out_features")),
    (_NormBase, ("num_features",)),
    (nn.PReLU, ("num_parameters",)),
    (nn.RNNBase, ("input_size", "hidden_size")),
)


def describe_arrangement(model: nn.Module) -> dict[str, Any]:
    """Return everything about a model but its values that `read_arrangement` turns back."""
    casts = find_casts(model)
    steps = read_steps(model)
    structural = any(step.structural for step in steps)
    return {
        "steps": [describe_step(step) for step in steps],
        "low_rank": [[path, low_rank_ranks(layer)] for path, layer in low_rank_layers(model)],
        "integers": describe_integers(model),
        "casts": _dtype_names(casts),
        "holding": _dtype_names(find_holding(model)),
        "training": "".join("1" if module.training else "0" for module in model.modules()),
        "sizes": [list(row) for row in _sizes(model)] if structural else [],
    }


@dataclass(frozen=True)
class Arrangement:
    """What `describe_arrangement` wrote, checked for its form but not yet against a model."""

    steps: tuple[Step, ...]
    low_rank: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
    integers: tuple[IntegerLayer, ...]
    casts: tuple[torch.dtype, torch.dtype] | None
    holding: tuple[torch.dtype, torch.dtype] | None
    training: str
    sizes: tuple[tuple[str, str, int], ...]


def read_arrangement(content: Any) -> Arrangement:
    """Return an arrangement from plain Python types; raises CorruptStreamError for what cannot have been written."""
    try:
        return Arrangement(
            tuple(read_step(step) for step in content["steps"]),
            tuple((str(path), _read_ranks(ranks)) for path, ranks in content["low_rank"]),
            tuple(map(IntegerLayer.from_json, content["integers"])),
            _read_dtypes(content["casts"]),
            _read_dtypes(content["holding"]),
            str(content["training"]),
            tuple((str(path), str(name), int(value)) for path, name, value in content["sizes"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CorruptStreamError(f"its arrangement of layers is not readable ({reason_of(error)})") from error


def shape_model(model: nn.Module, arrangement: Arrangement) -> None:
    """Give a model, in place, the layers of an arrangement; the values of its tensors are then to be replaced.

    Raises CompressionError for an arrangement that does not fit the model.
    """
    _resize(model, arrangement.sizes)
    for path, ranks in arrangement.low_rank:
        _make_low_rank(model, path, dict(ranks))
    shape_integers(model, arrangement.integers)


def finish_model(model: nn.Module, arrangement: Arrangement) -> None:
    """Give a model its casts, train/eval states and record, once it has its values; raises as `shape_model`."""
    modules = list(model.modules())
    if len(arrangement.training) != len(modules):
        raise CompressionError(f"the file has {len(arrangement.training)} modules, the model {len(modules)}")
    for module, flag in zip(modules, arrangement.training, strict=True):
        module.training = flag == "1"
    if arrangement.casts is not None and find_casts(model) is None:
        add_casts(model, *arrangement.casts)
    if arrangement.holding is not None and find_holding(model) is None:
        add_holding(model, *arrangement.holding)
    write_steps(model, arrangement.steps)


def _dtype_names(dtypes: tuple[torch.dtype, torch.dtype] | None) -> list[str] | None:
    return None if dtypes is None else [str(dtype).removeprefix("torch.") for dtype in dtypes]


def _read_dtypes(names: Any) -> tuple[torch.dtype, torch.dtype] | None:
    if names is None:
        return None
    first, second = names
    return _FLOATS[first], _FLOATS[second]


def _read_ranks(ranks: Any) -> tuple[tuple[str, int], ...]:
    return tuple((str(name), int(rank)) for name, rank in ranks.items())


def _sizes(model: nn.Module) -> Iterator[tuple[str, str, int]]:
    for path, module in model.named_modules():
        for kind, names in _SIZES:
            if isinstance(module, kind):
                yield from ((path, name, getattr(module, name)) for name in names)


def _resize(model: nn.Module, sizes: Sequence[tuple[str, str, int]]) -> None:
    for path, name, value in sizes:
        module = _find(model, path)
        known = any(isinstance(module, kind) and name in names for kind, names in _SIZES)
        # compression only ever removes channels: nothing larger than the architecture is ever made
        if not known or not 1 <= value <= getattr(module, name):
            raise CompressionError(f"{path or 'the model itself'} cannot have {name}={value}")
        setattr(module, name, value)
    for path in dict.fromkeys(path for path, _, _ in sizes):
        module = _find(model, path)
        for name, shape in _expected_shapes(module).items():
            tensor = getattr(module, name, None)
            if isinstance(tensor, Tensor) and tuple(tensor.shape) != shape:
                tensor.data = tensor.data.new_empty(shape)


def _expected_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    if isinstance(module, _ConvNd):
        rows, columns = module.out_channels, module.in_channels
        if isinstance(module, _ConvTransposeNd):
            rows, columns = columns, rows
        bias = (module.out_channels,)
        return {"weight": (rows, columns // module.groups, *module.kernel_size), "bias": bias}
    if isinstance(module, nn.Linear):
        return {"weight": (module.out_features, module.in_features), "bias": (module.out_features,)}
    if isinstance(module, nn.PReLU):
        return {"weight": (module.num_parameters,)}
    if isinstance(module, nn.RNNBase):
        return _recurrent_shapes(module)
    assert isinstance(module, _NormBase)
    return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (module.num_features,))


def _recurrent_shapes(module: nn.RNNBase) -> dict[str, tuple[int, ...]]:
    directions = 2 if module.bidirectional else 1
    read = module.proj_size or module.hidden_size
    shapes: dict[str, tuple[int, ...]] = {}
    for level, suffix in enumerate(level_suffixes(module)):
        rows = {"LSTM": 4, "GRU": 3}.get(module.mode, 1) * module.hidden_size
        columns = module.input_size if level < directions else directions * read
        shapes |= {f"weight_ih{suffix}": (rows, columns), f"weight_hh{suffix}": (rows, read)}
        shapes |= {f"bias_ih{suffix}": (rows,), f"bias_hh{suffix}": (rows,)}
        shapes[f"weight_hr{suffix}"] = (module.proj_size, module.hidden_size)
    return shapes


def _make_low_rank(model: nn.Module, path: str, ranks: dict[str, int]) -> None:
    module = _find(model, path)
    factors = {}
    for name, rank in ranks.items():
        weight = module._parameters.get(name)
        places = () if weight is None else find_owners(model)[id(weight)]
        if weight is None or low_rank_obstacle(Weight(name, weight, places)) or not 1 <= rank < weight.numel():
            raise CompressionError(f"{path}.{name} is no weight that can be held as factors of rank {rank}")
        rows, *others = weight.shape
        factors[name] = (weight.detach().new_empty(rows, rank), weight.detach().new_empty(rank, *others))
    to_low_rank_layer(module, factors)


def _find(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise CompressionError(f"{path} is a layer in the file, not in the model") from error
