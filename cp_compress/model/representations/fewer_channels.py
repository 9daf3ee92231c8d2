"""Layers with fewer channels than the architecture: only the sizes have to be known, the weights stay parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cp_compress.base.errors import CompressionError
from cp_compress.model.layers import find_layer, is_transposed_linear, level_suffixes
from cp_compress.model.record import read_steps
from cp_compress.model.representations.attention_heads import size_names
from cp_compress.model.representations.configurations import config_sizes, is_config_size, set_config_size
from cp_compress.model.representations.fewer_heads import attention_shapes, set_heads, settle_encoders
from cp_compress.model.representations.representation import Representation

_SIZES: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (_ConvNd, ("in_channels", "out_channels", "groups")),
    (nn.Linear, ("in_features", "out_features")),
    (_NormBase, ("num_features",)),
    (nn.PReLU, ("num_parameters",)),
    (nn.RNNBase, ("input_size", "hidden_size")),
)
_TRANSPOSED = ("nx", "nf")


class FewerChannels(Representation):
    """The sizes of all layers of a model in which a step removed channels: (path, setting, value) of each."""

    key = "sizes"

    def describe(self, model: nn.Module) -> list[list[Any]]:
        """Return the sizes; none where no step changed a shape."""
        structural = any(step.structural for step in read_steps(model))
        return [list(row) for row in (*_sizes(model), *config_sizes(model))] if structural else []

    def read(self, content: Any) -> tuple[tuple[str, str, int], ...]:
        """Return the sizes."""
        return tuple((str(path), str(name), int(value)) for path, name, value in content)

    def shape(self, model: nn.Module, found: tuple[tuple[str, str, int], ...]) -> None:
        """Make layers smaller, never larger."""
        for path, name, value in found:
            module = find_layer(model, path)
            if is_config_size(module, name):
                if not set_config_size(module, name, value):
                    raise CompressionError(f"{path or 'the model itself'} cannot have {name}={value}")
                continue
            # compression only ever removes channels: nothing larger than the architecture is ever made
            if name not in _names(module) or not 1 <= value <= getattr(module, name):
                raise CompressionError(f"{path or 'the model itself'} cannot have {name}={value}")
            if name == "num_heads" and isinstance(module, nn.MultiheadAttention):
                if value < module.num_heads:
                    set_heads(module, value)
                continue
            setattr(module, name, value)
        for path in dict.fromkeys(path for path, _, _ in found):
            module = find_layer(model, path)
            for name, shape in _expected_shapes(module).items():
                tensor = getattr(module, name, None)
                if isinstance(tensor, Tensor) and tuple(tensor.shape) != shape:
                    tensor.data = tensor.data.new_empty(shape)
        settle_encoders(model)


def _sizes(model: nn.Module) -> Iterator[tuple[str, str, int]]:
    for path, module in model.named_modules():
        yield from ((path, name, getattr(module, name)) for name in _names(module))


def _names(module: nn.Module) -> list[str]:
    """Return the settings of a layer that tell its sizes."""
    found = [name for kind, names in _SIZES if isinstance(module, kind) for name in names]
    found += _TRANSPOSED if is_transposed_linear(module) else ()
    return [*found, *(name for name in size_names(module) if name not in found)]


def _expected_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    if isinstance(module, _ConvNd):
        rows, columns = module.out_channels, module.in_channels
        if isinstance(module, _ConvTransposeNd):
            rows, columns = columns, rows
        bias = (module.out_channels,)
        return {"weight": (rows, columns // module.groups, *module.kernel_size), "bias": bias}
    if isinstance(module, nn.Linear):
        return {"weight": (module.out_features, module.in_features), "bias": (module.out_features,)}
    if is_transposed_linear(module):
        inputs, outputs = (int(getattr(module, name)) for name in _TRANSPOSED)
        return {"weight": (inputs, outputs), "bias": (outputs,)}
    if isinstance(module, nn.PReLU):
        return {"weight": (module.num_parameters,)}
    if isinstance(module, nn.MultiheadAttention):
        return attention_shapes(module)
    if isinstance(module, nn.RNNBase):
        return _recurrent_shapes(module)
    if not isinstance(module, _NormBase):
        return {}
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
