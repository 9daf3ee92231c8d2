"""What can only be seen when a model runs: an input it accepts, the order of its layers, which norm follows which."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from cp_compress.base.errors import CompressionError
from cp_compress.model.casting import find_casts, model_dtype
from cp_compress.model.holding import find_holding

_SIZES = (32, 224, 64, 28, 16, 8, 96, 128, 256, 299)
_ROWS = 2


@dataclass(frozen=True)
class Trace:
    """One run of a model: convolutions in the order of their calls, the norms fed by them, and what gave the output."""

    order: tuple[nn.Module, ...]
    norms: dict[nn.Module, tuple[_BatchNorm, ...]]
    head: nn.Module | None


def example_batch(owner: str, model: nn.Module, shape: tuple[int, ...] | None) -> Tensor:
    """Return a random batch that the model accepts: of the given shape, or of one found by trying usual sizes.

    Raises CompressionError when the model accepts none.
    """
    shapes = [shape] if shape is not None else _guesses(model)
    failure = "the model has no convolution to take the number of channels from"
    for guess in shapes:
        batch = _random_batch(model, guess)
        try:
            with running(model), torch.no_grad():
                model(batch)
            return batch
        except Exception as error:
            failure = f"with an example of shape {guess} the model fails: {error}"
    advice = "" if shape else "; give the shape of one example, as in example_shape=(3, 32, 32)"
    raise CompressionError(f"{owner} has to run the model to see how its layers follow one another. {failure}{advice}")


@contextlib.contextmanager
def running(model: nn.Module) -> Iterator[None]:
    """Hold a model in evaluation mode and keep the random state; both are restored."""
    flags = [(module, module.training) for module in model.modules()]
    devices = sorted({tensor.device for tensor in model.parameters() if tensor.is_cuda}, key=str)
    with torch.random.fork_rng(devices=devices):
        for module, _ in flags:
            module.training = False
        try:
            yield
        finally:
            for module, training in flags:
                module.training = training


def trace(model: nn.Module, batch: Tensor) -> Trace:
    """Run a model once and return what was seen. `head` is the layer that gives the output: it is never pruned."""
    order: list[nn.Module] = []
    norms: dict[nn.Module, tuple[_BatchNorm, ...]] = {}
    # held by value: an id is only unique while its tensor lives
    made: dict[int, tuple[Tensor, nn.Module]] = {}

    def after(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        order.append(module)
        if isinstance(module, _ConvNd) and isinstance(output, Tensor):
            made[id(output)] = (output, module)

    def before(module: nn.Module, args: tuple[object, ...]) -> None:
        if args and id(args[0]) in made:
            source = made[id(args[0])][1]
            assert isinstance(module, _BatchNorm)
            norms[source] = (*norms.get(source, ()), module)

    handles = [
        module.register_forward_hook(after) for module in model.modules() if isinstance(module, (_ConvNd, nn.Linear))
    ]
    handles += [
        module.register_forward_pre_hook(before) for module in model.modules() if isinstance(module, _BatchNorm)
    ]
    try:
        with running(model), torch.no_grad():
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    convolutions = tuple(dict.fromkeys(module for module in order if isinstance(module, _ConvNd)))
    return Trace(convolutions, norms, order[-1] if order else None)


def _guesses(model: nn.Module) -> list[tuple[int, ...]]:
    for module in model.modules():
        if isinstance(module, _ConvNd):
            return [(module.in_channels, *[size] * len(module.kernel_size)) for size in _SIZES]
    return []


def _random_batch(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    narrow = find_casts(model) or find_holding(model)
    dtype = narrow[1] if narrow is not None else model_dtype(model)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    return torch.randn((_ROWS, *shape), generator=generator).to(device, dtype)
