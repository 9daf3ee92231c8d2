"""The units of a layer, which are its output channels: how to read, zero and remove them, as outputs and as inputs.

Units are the filters of convolutions, the neurons of linear layers, the hidden units of recurrent layers, and the inner
dimensions of attention, where dimension i of query, key and value is one unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cp_compress.base.errors import CompressionError
from cp_compress.model.layers import is_transposed_linear, level_suffixes, transposed_sizes
from cp_compress.model.representations.fewer_heads import remove_heads
from cp_compress.model.structure.recurrent import (
    is_recurrent,
    level_places,
    level_rows,
    remove_hidden_units,
    remove_recurrent_inputs,
)


def is_depthwise(layer: nn.Module) -> bool:
    """Tell whether a convolution has one filter for each of its input channels."""
    return isinstance(layer, _ConvNd) and 1 < layer.groups == layer.in_channels == layer.out_channels


def unit_word(layer: nn.Module) -> str:
    """Return what the units of a layer are called."""
    if isinstance(layer, _ConvNd):
        return "filters"
    if isinstance(layer, nn.MultiheadAttention):
        return "inner dimensions"
    return "hidden units" if is_recurrent(layer) else "neurons"


def unit_count(layer: nn.Module) -> int:
    """Return the number of units of a layer; in a recurrent layer those of all its levels and directions."""
    if is_recurrent(layer):
        return len(level_suffixes(layer)) * int(layer.hidden_size)  # type: ignore[arg-type]
    if is_transposed_linear(layer):
        return transposed_sizes(layer)[1]
    if isinstance(layer, nn.MultiheadAttention):
        return int(layer.num_heads * layer.head_dim)
    count: int = getattr(layer, "out_channels" if isinstance(layer, _ConvNd) else "out_features")
    return count


def unit_parts(layer: nn.Module) -> int:
    """Return into how many runs of equal length the units are divided, each of which must keep the same number."""
    if is_recurrent(layer):
        return len(level_suffixes(layer))
    return layer.groups if isinstance(layer, _ConvNd) and not is_depthwise(layer) else 1


def unit_rows(layer: nn.Module) -> list[Tensor]:
    """Return the weights of each unit as a row, (units, values): one tensor, or one a level of a recurrent layer."""
    if is_recurrent(layer):
        return [level_rows(layer, suffix) for suffix in level_suffixes(layer)]
    if isinstance(layer, nn.MultiheadAttention):
        return [torch.cat(_projections(layer), 1)]
    return [_by_unit(layer).reshape(unit_count(layer), -1)]


def zero_units(layers: Iterable[nn.Module], dropped: Tensor) -> bool:
    """Set units and their biases, or channels of norms, to zero in place; tell whether anything changed.

    `dropped` are booleans for all units.
    """
    changed = False
    for layer in layers:
        for view, chosen in _places(layer, dropped):
            chosen = chosen.to(view.device)
            changed = changed or bool(view[chosen].count_nonzero())
            view[chosen] = 0
    return changed


def channel_rows(layer: nn.Module) -> Tensor:
    """Return the weights of each output channel of a layer as a row, (channels, values)."""
    return unit_rows(layer)[0]


def zero_channels(layer: nn.Module, indices: Iterable[int], inputs: bool) -> bool:
    """Set units and their biases, or with `inputs` what a linear layer makes of channels that it reads, to zero.

    Works in place, and tells whether anything changed.
    """
    chosen = list(indices)
    if not inputs:
        dropped = torch.zeros(unit_count(layer), dtype=torch.bool)
        dropped[chosen] = True
        return zero_units([layer], dropped)
    columns = _by_unit(layer).t()
    changed = bool(columns[chosen].count_nonzero())
    columns[chosen] = 0
    return changed


def remove_units(layer: nn.Module, indices: Iterable[int], inputs: bool = False) -> None:
    """Remove units from a layer in place, or with `inputs` the channels that it reads.

    Handles convolutions, linear and recurrent layers, norms without statistics over channels, PReLU, and whole heads of
    attention. Each group of a grouped convolution, and each level of a recurrent layer, must lose the same number.
    Raises CompressionError for another layer.
    """
    gone = set(indices)
    if isinstance(layer, _ConvNd):
        (_remove_inputs if inputs and not is_depthwise(layer) else _remove_filters)(layer, gone)
    elif isinstance(layer, nn.Linear):
        _keep(layer.weight, kept := _left(layer.weight.shape[1 if inputs else 0], gone), 1 if inputs else 0)
        if inputs:
            layer.in_features = len(kept)
        else:
            _keep(layer.bias, kept)
            layer.out_features = len(kept)
    elif is_transposed_linear(layer):
        _remove_transposed(layer, gone, inputs)
    elif isinstance(layer, _NormBase):
        kept = _left(layer.num_features, gone)
        for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
            _keep(tensor, kept)
        layer.num_features = len(kept)
    elif isinstance(layer, nn.RNNBase):
        (remove_recurrent_inputs if inputs else remove_hidden_units)(layer, gone)
    elif isinstance(layer, nn.MultiheadAttention) and not inputs:
        remove_heads(layer, _left(unit_count(layer), gone))
    elif isinstance(layer, nn.PReLU):
        if layer.num_parameters > 1:
            _keep(layer.weight, kept := _left(layer.num_parameters, gone))
            layer.num_parameters = len(kept)
    else:
        raise CompressionError(f"channels of {type(layer).__name__} cannot be removed")


def _by_unit(layer: nn.Module) -> Tensor:
    weight: Tensor = layer.weight.detach()  # type: ignore[operator]
    if isinstance(layer, _ConvTransposeNd):  # (inputs, outputs of a group, …): units are behind the inputs
        return _in_groups(weight, layer.groups).transpose(1, 2)
    return weight.t() if is_transposed_linear(layer) else weight


def _projections(layer: nn.MultiheadAttention) -> list[Tensor]:
    if layer.in_proj_weight is not None:
        return list(layer.in_proj_weight.detach().chunk(3))
    return [weight.detach() for weight in (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)]


def _places(layer: nn.Module, dropped: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield views of all parameters of units, each with the booleans for its leading dimensions."""
    if is_recurrent(layer):
        yield from level_places(layer, dropped)
    elif isinstance(layer, nn.MultiheadAttention):
        biases = [] if layer.in_proj_bias is None else layer.in_proj_bias.detach().chunk(3)
        yield from ((view, dropped) for view in (*_projections(layer), *biases))
    else:
        if layer.weight is not None:
            view = _by_unit(layer)
            yield view, dropped.view(view.shape[:2]) if isinstance(layer, _ConvTransposeNd) else dropped
        if layer.bias is not None:
            yield layer.bias.detach(), dropped  # type: ignore[operator]


def _remove_transposed(layer: Any, gone: set[int], inputs: bool) -> None:
    dimension = 0 if inputs else 1
    _keep(layer.weight, kept := _left(layer.weight.shape[dimension], gone), dimension)
    if inputs:
        layer.nx = len(kept)
    else:
        _keep(layer.bias, kept)
        layer.nf = len(kept)


def _remove_filters(layer: _ConvNd, gone: set[int]) -> None:
    kept = _left(layer.out_channels, gone)
    if isinstance(layer, _ConvTransposeNd) and not is_depthwise(layer):
        _keep_in_groups(layer, kept, layer.out_channels)
    else:
        _keep(layer.weight, kept)
    _keep(layer.bias, kept)
    if is_depthwise(layer):
        layer.groups = layer.in_channels = len(kept)
    layer.out_channels = len(kept)


def _remove_inputs(layer: _ConvNd, gone: set[int]) -> None:
    kept = _left(layer.in_channels, gone)
    if isinstance(layer, _ConvTransposeNd):
        _keep(layer.weight, kept)
    else:
        _keep_in_groups(layer, kept, layer.in_channels)
    layer.in_channels = len(kept)


def _keep_in_groups(layer: _ConvNd, kept: list[int], total: int) -> None:
    """Keep, in each group, its own share of the channels in the second dimension of the weight."""
    groups = layer.groups
    weight = _in_groups(layer.weight.data, groups)
    local = torch.tensor(kept, device=weight.device).view(groups, -1) % (total // groups)
    chosen = weight.transpose(1, 2)[torch.arange(groups, device=weight.device)[:, None], local]
    layer.weight.data = chosen.transpose(1, 2).flatten(0, 1).contiguous()


def _in_groups(weight: Tensor, groups: int) -> Tensor:
    return weight.view(groups, -1, *weight.shape[1:])


def _left(total: int, gone: set[int]) -> list[int]:
    return [index for index in range(total) if index not in gone]


def _keep(tensor: Tensor | None, kept: list[int], dimension: int = 0) -> None:
    # the parameter object stays: with it requires_grad, and the place that optimisers and ties know
    if tensor is not None:
        tensor.data = tensor.data.index_select(dimension, torch.tensor(kept, device=tensor.device))
