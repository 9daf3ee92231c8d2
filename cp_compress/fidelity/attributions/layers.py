"""The layer that an attribution method looks at: found by its path, with outputs that the method can use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.observing.layer_outputs import find_layer
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.inputs.trees import Inputs


def find_used_layer(runner: Runner, owner: str, path: str, inputs: Inputs, *, spatial: bool) -> nn.Module:
    """Return the layer at a path; `owner` is what errors call the method, `inputs` (1, ...) run it once.

    Raises ObservationError for a plain callable, an unknown path, and a layer that does not run, runs more than once,
    or gives something else than one tensor (n, ...); with `spatial`, than one tensor (n, channels, *space).
    """
    layer = find_layer(runner, path, owner)
    _check_outputs(owner, _outputs(runner, layer, inputs), spatial)
    return layer


def _outputs(runner: Runner, layer: nn.Module, inputs: Inputs) -> list[Any]:
    outputs: list[Any] = []
    hook = layer.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        with torch.no_grad(), runner.evaluating():
            runner.logits(inputs)
    finally:
        hook.remove()
    return outputs


def _check_outputs(owner: str, outputs: list[Any], spatial: bool) -> None:
    if not outputs:
        raise ObservationError(f"{owner}: the model does not use this layer in its forward pass")
    if len(outputs) > 1:
        raise ObservationError(f"{owner}: the layer runs {len(outputs)} times in one forward pass; it must run once")
    output = outputs[0]
    found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(output, Tensor) or output.ndim < (3 if spatial else 2):
        needed = "(n, channels, *space), such as a convolution's" if spatial else "(n, ...)"
        raise ObservationError(f"{owner}: the layer gives outputs of {found}; this method needs a tensor {needed}")
