"""Ranges of the inputs of layers, found by running a model on calibration data.

The range of a layer is the smallest and the largest value that any of its calls saw, widened to hold zero (the rule of
torchao's `MinMaxObserver` for 8-bit unsigned affine codes), so that zero padding and the zeros of a ReLU stay exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.batching import is_out_of_memory
from cp_compress.base.digests import digest_tensors
from cp_compress.base.errors import CompressionError, ObservationError
from cp_compress.base.factories import make_from
from cp_compress.inputs.calls import first_input
from cp_compress.inputs.reading import LabeledData
from cp_compress.model.layers import named_tensors
from cp_compress.model.representations.arithmetic import has_own_forward
from cp_compress.model.representations.formats import safe_scale
from cp_compress.model.representations.products import Product, Products
from cp_compress.model.tracing import running

_BATCH = 64
_CODES = 255


@explains_keywords
class CalibrationData:
    """Inputs (n, ...) that a model is calibrated on: equal, and with equal hashes, where their content is equal.

    Made from a tensor of inputs, or from whatever gives labelled examples (`cp_compress.inputs.reading`), whose labels
    are not used. A copy is kept. Raises InvalidArgumentError for anything else, and for no inputs.

    >>> CalibrationData(torch.zeros(2, 3)) == CalibrationData((torch.zeros(2, 3), torch.tensor([0, 1])))
    True
    """

    inputs: Tensor
    digest: str

    def __init__(self, source: Any) -> None:
        try:
            data = source if isinstance(source, Tensor) else _inputs_of(source)
        except ObservationError as error:
            reject("CalibrationData", "source", type(source).__name__, str(error))
        if data.ndim == 0 or len(data) == 0:
            reject("CalibrationData", "source", tuple(data.shape), "there must be at least one input")
        self.inputs = data.detach().cpu().clone()
        self.digest = digest_tensors([self.inputs])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CalibrationData) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<calibration data of {len(self.inputs)} inputs, {self.digest[:12]}>"

    def batches(self) -> Iterator[Tensor]:
        """Yield the inputs in order, in batches of a fixed size."""
        yield from torch.split(self.inputs, _BATCH)


def read_calibration(owner: str, calibration: str | CalibrationData) -> CalibrationData:
    """Return calibration data, calling the factory where it is a name.

    Raises InvalidArgumentError where there is no such factory or it returns no data; what it raises passes through.
    """
    if isinstance(calibration, CalibrationData):
        return calibration
    made = make_from(calibration, f"{owner}: calibration")
    return made if isinstance(made, CalibrationData) else CalibrationData(made)


def find_input_ranges(
    model: nn.Module, layers: set[nn.Module], data: CalibrationData
) -> tuple[dict[nn.Module, tuple[Tensor, Tensor]], dict[nn.Module, str]]:
    """Return scale (float32) and zero point (uint8) of the inputs of every layer that the model calls.

    Of a layer with a forward of its own, the range is that of what its forward multiplies by the weight. Where it does
    something else with the weight, the second result says why there is no range. Raises CompressionError, naming the
    layer, for inputs that are NaN or Inf.
    """
    ends: dict[nn.Module, Tensor] = {}
    own = {module for module in layers if has_own_forward(type(module))}
    handles = [module.register_forward_pre_hook(_record(ends), with_kwargs=True) for module in layers - own]
    watched = {module: _watch(module, ends) for module in own}
    device = next((tensor.device for _, tensor in named_tensors(model)), torch.device("cpu"))
    try:
        with running(model), torch.no_grad():
            for batch in data.batches():
                _run(model, batch.to(device))
    finally:
        for handle in handles:
            handle.remove()
        for module in own:
            del module.forward
    for path, module in model.named_modules():
        if module in ends and not bool(torch.isfinite(ends[module]).all()):
            raise CompressionError(f"{path or 'the model itself'} gets NaN or Inf as input on the calibration data")
    told = {module: seen.obstacle(type(module).__name__) for module, seen in watched.items() if seen.called}
    refused = {module: reason for module, reason in told.items() if reason is not None}
    return {module: _to_codes(*ends[module]) for module in ends if module not in refused}, refused


class _Watched(Products):
    """The products of one layer over all of its calls."""

    called = False


def _watch(module: nn.Module, ends: dict[nn.Module, Tensor]) -> _Watched:
    """Let a layer's own forward, until it is deleted from the instance, widen the range of what meets its weight."""

    def widen(product: Product) -> None:
        _widen(ends, module, product.inputs)

    seen, own = _Watched(module.weight, widen), module.forward  # type: ignore[arg-type]

    def forward(*args: Any, **kwargs: Any) -> Any:
        seen.called = True
        with seen:
            return own(*args, **kwargs)

    module.forward = forward
    return seen


def _inputs_of(source: Any) -> Tensor:
    return torch.cat([inputs for inputs, _ in LabeledData(source).batches(_BATCH)])


def _run(model: nn.Module, batch: Tensor) -> None:
    try:
        model(batch)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        told = f"the model cannot take calibration inputs of shape {tuple(batch.shape)} and {batch.dtype}: {error}"
        raise CompressionError(told) from error


def _record(ends: dict[nn.Module, Tensor]) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _widen(ends, module, first_input(module, args, kwargs))

    return hook


def _widen(ends: dict[nn.Module, Tensor], module: nn.Module, given: Tensor) -> None:
    if given.numel():
        low, high = torch.aminmax(given.detach().float())
        before = ends.get(module, torch.zeros(2, device=low.device))
        ends[module] = torch.stack([torch.minimum(before[0], low), torch.maximum(before[1], high)])


def _to_codes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    scale = safe_scale(high - low, _CODES)
    return scale, (-low / scale).round().clamp(0, _CODES).to(torch.uint8)
