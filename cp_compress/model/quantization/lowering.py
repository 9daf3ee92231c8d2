"""Static 8-bit layers on the integer instructions of a CPU, through oneDNN's kernels.

The layers of `Quantize(..., mode="static")` define what is computed, on any device, by sums of integers in floats. The
kernels compute the same sums in integers. They need a CPU with 8-bit dot products (VNNI): without these, the kernels
saturate partial sums, which gives other results.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.errors import CompressionError
from cp_compress.model.layers import copy_model, named_tensors
from cp_compress.model.record import Change, Skip, Step, add_step
from cp_compress.model.representations.arithmetic import has_own_forward
from cp_compress.model.representations.integer_layers import formats_of, integers_of

_CODES = 255


@dataclass(frozen=True)
class _Packed:
    """What a kernel takes beside its input: input scale and zero point, weight, its scales and zeros, settings."""

    scale: float
    zero: int
    weight: Tensor
    scales: Tensor
    zeros: Tensor
    settings: tuple[Any, ...]


class LoweredForward:
    """The `forward` of one static layer on oneDNN's kernel; an attribute of the instance, so paths and hooks stay.

    Where the kernel cannot be used, which is for gradients, for inputs with other dimensions and for empty inputs, the
    layer's own forward is called. The weight is packed at the first call, once in every copy.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer: Any = layer
        self._packed: _Packed | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"layer": self.layer, "_packed": None}

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return what the static layer returns, to float rounding."""
        layer, convolves = self.layer, isinstance(self.layer, nn.Conv2d)
        learns = inputs.requires_grad or (layer.bias is not None and layer.bias.requires_grad)
        if (torch.is_grad_enabled() and learns) or inputs.numel() == 0 or (convolves and inputs.ndim != 4):
            own: Tensor = type(layer).forward(layer, inputs)
            return own
        if self._packed is None:
            self._packed = _pack(layer)
        packed = self._packed
        codes = (inputs.float() / packed.scale).round_().add_(packed.zero).clamp_(0, _CODES).to(torch.uint8)
        bias = None if layer.bias is None else layer.bias.detach().float()
        kernel = torch.ops.onednn.qconv2d_pointwise if convolves else torch.ops.onednn.qlinear_pointwise
        flat = codes if convolves else codes.reshape(-1, codes.shape[-1])
        outputs = _run(kernel, flat, packed, bias)
        whole = outputs if convolves else outputs.view(*inputs.shape[:-1], -1)
        return whole.to(inputs.dtype)


def _run(kernel: Any, codes: Tensor, packed: _Packed, bias: Tensor | None) -> Tensor:
    start = (codes, packed.scale, packed.zero, packed.weight, packed.scales, packed.zeros, bias)
    outputs: Tensor = kernel.default(*start, *packed.settings, 1.0, 0, torch.float32, "none", [], "")
    return outputs


def _pack(layer: Any) -> _Packed:
    scale, zero = float(layer.int8_input_scale), int(layer.int8_input_zero)
    scales = layer.weight_scale.detach().float().view(-1)
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    weight = integers_of(layer, "weight")
    if isinstance(layer, nn.Conv2d):
        settings = (list(layer.stride), list(layer.padding), list(layer.dilation), layer.groups)
        weight = torch.ops.onednn.qconv_prepack(weight, scales, scale, zero, *settings, None)
        return _Packed(scale, zero, weight, scales, zeros, settings)
    return _Packed(scale, zero, torch.ops.onednn.qlinear_prepack(weight, None), scales, zeros, ())


@explains_keywords
def lower(model: nn.Module) -> nn.Module:
    """Return a copy of a model to run on this CPU, with its static 8-bit layers on integer kernels.

    Linear layers and 2d convolutions are lowered. Given the same input, each returns the result of the model's layer up
    to float rounding; in a whole network this may change an integer in a later layer by one, so check the lowered model
    if it is the one that will run. NaN in an input is not propagated. Once a layer was called, later changes of its
    weights have no effect. A lowered model cannot be saved: save the model that it was made from. Raises
    CompressionError for a model without such layers or on another device, and on a CPU without VNNI.
    """
    candidate = copy_model("lower", model)
    if any(tensor.device.type != "cpu" for _, tensor in named_tensors(candidate)):
        raise CompressionError("lower: the kernels are for the CPU, and the model is on another device")
    if not has_integer_kernels():
        raise CompressionError("lower: this CPU or this torch has no exact 8-bit dot products (oneDNN with VNNI)")
    changes, skips = [], []
    for path, module in candidate.named_modules():
        names = [f"{path}.{name}".lstrip(".") for name in formats_of(module)]
        reason = _obstacle(module) if names else None
        if reason is not None:
            skips += [Skip(name, reason) for name in names]
        elif names:
            module.forward = LoweredForward(module)
            changes += [Change(name, "lowered to oneDNN") for name in names]
    if not changes:
        listed = "; ".join(f"{skip.tensor}: {skip.reason}" for skip in skips[:5])
        raise CompressionError(f"lower: no layer has 8-bit inputs and an integer kernel ({listed or 'no integers'})")
    add_step(candidate, Step("lower", tuple(changes), tuple(skips)))
    return candidate


@functools.cache
def has_integer_kernels() -> bool:
    """Tell whether this CPU and this torch compute exact 8-bit dot products.

    One dot product is tried, because oneDNN can be held to older instructions than the CPU has (ONEDNN_MAX_CPU_ISA).
    """
    if not (torch._C._has_mkldnn and torch.cpu._is_vnni_supported()):
        return False
    length = 16
    weight = torch.full((1, length), 127, dtype=torch.int8)
    packed = _Packed(1.0, 0, torch.ops.onednn.qlinear_prepack(weight, None), torch.ones(1), torch.zeros(1).int(), ())
    codes = torch.full((1, length), _CODES, dtype=torch.uint8)
    return bool(_run(torch.ops.onednn.qlinear_pointwise, codes, packed, None) == length * _CODES * 127)


def is_lowered(model: nn.Module) -> bool:
    """Tell whether a layer of a model was lowered."""
    return any(isinstance(vars(module).get("forward"), LoweredForward) for module in model.modules())


def _obstacle(module: Any) -> str | None:
    if module.integer_mode != "static":
        return f"its inputs are not rounded to a fixed range (mode {module.integer_mode!r})"
    if has_own_forward(module.integer_base):
        return f"{module.integer_base.__name__} has a forward of its own"
    if isinstance(module, nn.Linear):
        return None
    if not isinstance(module, nn.Conv2d):
        return f"{type(module).__name__} has no integer kernel"
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return "the kernel pads with zeros, by numbers only"
    return None
