"""Layers that hold their weights as small integers, and stay instances of the layers they were.

The weight is the product of stored integers and scales (`cp_compress.model.representations.formats`). A layer's class
is replaced by a subclass in which the weight is a property that is computed from the two stored tensors whenever it is
used, so that hooks, paths, `isinstance` and code that reads `layer.weight` go on working. In the modes "dynamic"
and "static" the forward is replaced as well (`cp_compress.model.representations.arithmetic`).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from cp_compress.base.errors import CompressionError
from cp_compress.model.layers import is_linear
from cp_compress.model.representations.arithmetic import StayOnForward, can_round_inputs, integer_forward
from cp_compress.model.representations.formats import (
    IntegerFormat,
    dequantize,
    empty_store,
    row_groups,
    scale_shape,
    unstore,
)
from cp_compress.model.representations.products import weight_in_use

INPUT_SCALE, INPUT_ZERO = "int8_input_scale", "int8_input_zero"
_TABLES = (nn.Embedding, nn.EmbeddingBag)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_Formats = tuple[tuple[str, IntegerFormat], ...]


class IntegerWeights:
    """What the subclasses with integer weights have in common; never instantiated by itself."""

    integer_base: type[nn.Module]
    integer_formats: dict[str, IntegerFormat]
    integer_mode: str
    integer_shapes: dict[str, tuple[int, ...]]

    def extra_repr(self) -> str:
        """Return the layer's own settings and how it is quantised."""
        forms = ", ".join(dict.fromkeys(f"{form} {self.integer_mode}" for form in self.integer_formats.values()))
        own = super().extra_repr()  # type: ignore[misc]
        return f"{own}, {forms}" if own else forms

    def __reduce_ex__(self, protocol: Any) -> Any:
        # the class is made at run time: what is stored is how to make it again
        state = self.__getstate__() if hasattr(self, "__getstate__") else self.__dict__
        return _blank_layer, (self.integer_base, tuple(self.integer_formats.items()), self.integer_mode), state


class RecurrentIntegerWeights(IntegerWeights):
    """The same for recurrent layers, which read their weights from a list that torch keeps beside the parameters."""

    @property
    def _flat_weights(self) -> list[Tensor | None]:
        return [getattr(self, name, None) for name in self._flat_weights_names]  # type: ignore[attr-defined]

    @_flat_weights.setter
    def _flat_weights(self, value: object) -> None:
        """Leave the list as it is: it is computed."""

    def flatten_parameters(self) -> None:
        """Do nothing: there are no parameters to lay out, only values computed for one call."""

    def _update_flat_weights(self) -> None:
        pass

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the layer returns with the weights that its integers represent."""
        with warnings.catch_warnings():
            # cuDNN copies weights that are not laid out in one piece, and says so
            warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
            return super().forward(*args, **kwargs)  # type: ignore[misc]


def formats_of(module: nn.Module) -> dict[str, IntegerFormat]:
    """Return the formats of the weights that a layer holds as integers, by name; none for any other layer."""
    return module.integer_formats if isinstance(module, IntegerWeights) else {}


def require_float_weights(owner: str, model: nn.Module) -> None:
    """Raise CompressionError, naming the first layer, when weights are integers already."""
    layers = [(path, module) for path, module in model.named_modules() if formats_of(module)]
    if layers:
        path = layers[0][0] or "the model itself"
        forms = ", ".join(dict.fromkeys(form.name for form in formats_of(layers[0][1]).values()))
        raise CompressionError(
            f"{owner}: {len(layers)} layers hold integer weights already (first: {path}, {forms}), and what follows "
            "would no longer fit their scales; int8 must be the last step"
        )


def stored_names(name: str, form: IntegerFormat) -> tuple[str, str]:
    """Return the names of the two buffers that hold a weight: its integers and its scales."""
    return f"{name}_int{form.stored_bits}", f"{name}_scale"


def integers_of(module: nn.Module, name: str) -> Tensor:
    """Return the integers of a weight in the weight's shape."""
    form = formats_of(module)[name]
    stored = module.get_buffer(stored_names(name, form)[0])
    shapes: dict[str, tuple[int, ...]] = module.integer_shapes  # type: ignore[assignment]
    return unstore(stored, shapes[name], form)


def to_integer_layer(module: nn.Module, formats: Mapping[str, IntegerFormat], mode: str) -> None:
    """Turn a layer, in place, into one whose named weights are buffers yet to be filled by `fill`."""
    module.integer_shapes = {name: tuple(module._parameters[name].shape) for name in formats}  # type: ignore[assignment, union-attr]
    for name in formats:
        del module._parameters[name]
    module.__class__ = _integer_class(type(module), tuple(formats.items()), mode)  # type: ignore[arg-type]
    if isinstance(module, nn.RNNBase):
        vars(module).pop("_flat_weights", None)
        module._flat_weight_refs = []
    if mode != "weight":
        module.register_forward_pre_hook(StayOnForward())


def fill(module: nn.Module, name: str, stored: Tensor, scale: Tensor) -> None:
    """Give a layer the stored integers and scales of one weight; their product is the weight."""
    names = stored_names(name, formats_of(module)[name])
    for buffer, tensor in zip(names, (stored, scale), strict=True):
        module.register_buffer(buffer, tensor)


def fill_input_range(module: nn.Module, scale: Tensor, zero: Tensor) -> None:
    """Give a layer in mode "static" the scale and the zero point of its inputs."""
    module.register_buffer(INPUT_SCALE, scale)
    module.register_buffer(INPUT_ZERO, zero)


def blank_store(weight: Tensor, module: nn.Module, form: IntegerFormat) -> tuple[Tensor, Tensor]:
    """Return stored integers and scales, without content yet, for a weight of a layer."""
    shape = tuple(weight.shape)
    scales = weight.detach().new_ones(scale_shape(shape, row_groups(module), form))
    return empty_store(shape, form, weight.device), scales


def integer_obstacle(module: nn.Module, mode: str) -> str | None:
    """Return why the weights of a layer cannot be held as integers, or None."""
    kind = type(module).__name__
    if isinstance(module, IntegerWeights):
        return "the layer holds other weights as integers already"
    if not (is_linear(module) or isinstance(module, (_ConvNd, nn.MultiheadAttention, *_RECURRENT, *_TABLES))):
        return f"{kind} does not compute with integer weights here"
    taken = [name for name in module._parameters if hasattr(module, f"{name}_scale")]
    if taken:
        return f"the layer has an attribute {taken[0]}_scale of its own"
    if isinstance(module, _TABLES) and module.max_norm is not None:
        return f"{kind} with max_norm changes its table whenever it is used"
    if mode == "weight":
        return None
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return "attention reads this weight without calling the layer: its inputs cannot be rounded"
    if "forward" in vars(module):
        return f"the forward of this {kind} was replaced on the instance: its inputs cannot be rounded"
    if not can_round_inputs(module):
        return f"{kind} has arithmetic of its own: its inputs cannot be rounded"
    return None


@functools.cache
def _integer_class(base: type[nn.Module], formats: _Formats, mode: str) -> type[nn.Module]:
    body: dict[str, Any] = {name: _weight_property(name, form) for name, form in formats}
    body |= {"integer_base": base, "integer_formats": dict(formats), "integer_mode": mode}
    body["__module__"] = base.__module__
    if mode != "weight":
        body["forward"] = integer_forward(base, mode)
    shared = RecurrentIntegerWeights if issubclass(base, nn.RNNBase) else IntegerWeights
    form = formats[0][1].name.capitalize()
    return type(f"{form}{'' if mode == 'weight' else mode.capitalize()}{base.__name__}", (shared, base), body)


def _blank_layer(base: type[nn.Module], formats: _Formats, mode: str) -> nn.Module:
    kind = _integer_class(base, formats, mode)  # type: ignore[arg-type]
    return kind.__new__(kind)


def _weight_property(name: str, form: IntegerFormat) -> property:
    scale_name = stored_names(name, form)[1]

    def weight(self: nn.Module) -> Tensor:
        used = weight_in_use(self)
        if used is not None:
            return used
        scale = self._buffers[scale_name]
        assert scale is not None
        return dequantize(integers_of(self, name), scale, row_groups(self), form)

    return property(weight)
