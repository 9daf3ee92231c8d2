"""Gradients of a model's outputs with respect to its inputs only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.observing.runner import Runner


@contextlib.contextmanager
def differentiating(runner: Runner) -> Iterator[None]:
    """Hold the model in evaluation mode with gradients on, whatever mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad(), runner.evaluating():
        yield


def differentiable(runner: Runner, inputs: Tensor) -> Tensor:
    """Return a copy of inputs (n, ...) on the model's device that gradients can be asked for.

    Raises ObservationError for inputs that are not floating-point numbers.
    """
    if not inputs.is_floating_point():
        raise ObservationError(f"inputs are {inputs.dtype}: gradients need inputs of a floating-point dtype")
    return inputs.detach().to(runner.device, copy=True).requires_grad_()


@contextlib.contextmanager
def starting_at(layer: nn.Module) -> Iterator[None]:
    """Let gradients start at the outputs of a layer where none come to it from the inputs, as with token ids."""

    def start(module: nn.Module, args: object, output: object) -> object:
        plain = isinstance(output, Tensor) and output.is_floating_point() and not output.requires_grad
        # what follows may work in place, which the start of gradients itself does not allow
        return output.detach().requires_grad_().clone() if plain and isinstance(output, Tensor) else output

    handle = layer.register_forward_hook(start)
    try:
        yield
    finally:
        handle.remove()


def require_gradients(
    runner: Runner, inputs: Tensor, purpose: str, run: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Raise ObservationError unless the model's logits on inputs (1, ...) have a gradient; `purpose` needs it.

    `run` maps inputs to logits where the model takes more than them.
    """
    reason = None
    with differentiating(runner):
        leaf = differentiable(runner, inputs)
        logits = (run or runner.logits)(leaf)
        if not logits.requires_grad:
            reason = "its logits carry no gradient"
        elif torch.autograd.grad(logits.sum(), leaf, allow_unused=True)[0] is None:
            reason = "its logits do not depend on the inputs in a differentiable way"
    if reason is not None:
        raise ObservationError(
            f"{purpose} needs a model that is differentiable in its inputs, such as an nn.Module in torch; {reason}"
        )
