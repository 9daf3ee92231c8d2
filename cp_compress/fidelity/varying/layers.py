"""A layer whose outputs are explained or moved: found by its path, with outputs of the form that is needed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import reject
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.observing.layer_outputs import find_layer
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.fidelity.varying.inputs import (
    Input,
    Varied,
    VariedInput,
    cannot_be_moved,
    floating_inputs,
    padding_seen,
    spread,
)
from cp_compress.inputs.trees import Inputs, TensorTree


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


class VariedLayer(Varied):
    """What a layer gives for some examples, as the values that are moved; the model goes on from there.

    Places of padding are those of a mask among the inputs, or that parts of the model are given.

    Args:
        observation: The observed model and data.
        chosen: The examples (k,).
        path: The path of the layer; it runs once in a pass, and gives one floating-point tensor (n, ...).
        purpose: What an error is about, such as "a comparison of boundaries".
    """

    def __init__(self, observation: Observation, chosen: Tensor, path: str, *, purpose: str) -> None:
        inputs = observation.data.read(chosen)[0]
        super().__init__(observation, chosen, inputs)
        self.layer = path
        owner = f"{purpose} at_layer={path!r}"
        self._module = find_used_layer(self.runner, owner, path, inputs[:1], spatial=False)
        self._values = self._run(inputs)
        if not self._values.is_floating_point():
            raise ObservationError(f"{owner}: the layer gives {self._values.dtype}, which cannot be moved")

    def values(self, part: slice | Tensor = slice(None)) -> Tensor:
        """Return what the layer gives (m, ...) for some of the examples."""
        return self._values[part]

    def select(self, rows: Tensor) -> Varied:
        """Return the values of the examples at `rows` (m,) alone."""
        part = super().select(rows)
        assert isinstance(part, VariedLayer)
        part._values = self._values[rows]
        return part

    def logits(self, values: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the logits (m, classes) where the layer gives the values (m, ...) for the examples at `rows` (m,)."""
        assert rows is not None
        assert self._inputs is not None
        own = rows.cpu()

        def put(module: nn.Module, args: object, output: Tensor) -> Tensor:
            # a copy, because later parts of the model may work on it in place
            moved = values.to(output, copy=True)
            if self.counting is None:
                return moved
            return torch.where(spread(self.counting[own], moved).to(moved.device), moved, output)

        handle = self._module.register_forward_hook(put)
        try:
            return self.runner.logits(self._inputs[own])
        finally:
            handle.remove()

    def _run(self, inputs: Inputs) -> Tensor:
        """Return what the layer gives, on the CPU, and learn which places are padding."""
        found: list[Tensor] = []
        hook = self._module.register_forward_hook(lambda module, args, output: found.append(output.detach().cpu()))
        try:
            limit = self.observation.batch_size.limit
            counting = padding_seen(self.runner, inputs, lambda: tuple(found[-1].shape[1:2]), limit)
        finally:
            hook.remove()
        values = torch.cat(found)
        if len(values) != len(inputs):
            shape = tuple(found[-1].shape)
            raise ObservationError(f"{self.layer} gives outputs {shape}, whose first dimension is not the examples")
        self.counting = counting if counting is not None and values.ndim > 2 else None
        return values


def vary(
    observation: Observation, chosen: Tensor, name: Input = None, layer: str | None = None, *, owner: str, purpose: str
) -> Varied:
    """Return what of the examples `chosen` (k,) is moved: their input, one of several, or what a layer gives.

    Raises InvalidArgumentError, as `owner`, for names that do not fit, and ObservationError where a name is needed, the
    layer cannot be used, or the values cannot be moved; `purpose` is what needs them.
    """
    if layer is None:
        first = observation.data.read(chosen[:1])[0]
        if name is None and isinstance(first, TensorTree) and not floating_inputs(first):
            told = f"each example is {first.describe()}"
            raise ObservationError(f"{purpose}: {told}: {cannot_be_moved(observation.runner.module)}")
        found: Varied = VariedInput(observation, chosen, name, owner=owner, purpose=purpose)
        assert isinstance(found, VariedInput)
        found.hold()
    elif not isinstance(layer, str) or not layer:
        reject(owner, "at_layer", layer, "must be the path of a module, such as 'embeddings.word_embeddings'")
    elif name is not None:
        reject(owner, "input", name, f"at_layer={layer!r} says what is moved: leave one of the two out")
    else:
        key = ("values of a layer", layer, tuple(chosen.tolist()))
        found = observation.remember(key, lambda: VariedLayer(observation, chosen, layer, purpose=purpose))
    found.require_floating()
    return found
