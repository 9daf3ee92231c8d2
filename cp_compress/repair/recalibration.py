"""Batch normalisation recalibrated: the statistics of its layers estimated from other data, such as decoded data."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cp_compress.base.arguments import check_flag, check_integer, check_real, explains_keywords
from cp_compress.base.batching import BatchSize
from cp_compress.base.devices import usable_device
from cp_compress.base.errors import CompressionError, NoEffectError
from cp_compress.fidelity.observing.runner import Runner, model_device
from cp_compress.fidelity.observing.sampling import choose_examples
from cp_compress.inputs.calls import first_input
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.seen import mark_as_used
from cp_compress.model.layers import copy_model
from cp_compress.model.quantization.lowering import is_lowered
from cp_compress.model.record import Change, Skip
from cp_compress.repair.record import record_repair
from cp_compress.training.arguments import check_module

_OWNER = "recalibrate_batchnorm"


@explains_keywords
def recalibrate_batchnorm(
    model: nn.Module,
    dataset: Any,
    *,
    examples: int | Sequence[int] | Tensor | None = None,
    batch_size: int = 256,
    momentum: float | None = None,
    layer_by_layer: bool = False,
    device: torch.device | str | None = None,
) -> nn.Module:
    """Return a copy of a model whose batch normalisation has the statistics of other data; nothing else changes.

    The given model is not changed; the step is recorded on the copy, and so in every check of it.

    Args:
        model: A network with batch normalisation that keeps running statistics.
        dataset: Data in any form that comparisons accept, such as a `CompressedDataset`; its labels are not used.
        examples: A number of examples spread evenly over the data, their indices, or None for all.
        batch_size: The largest number of examples in one call.
        momentum: None for the mean and the unbiased variance of all values of each channel that reach a layer, pooled
            exactly over the whole data. A number in (0, 1] moves the old statistics towards those of each batch in
            turn, by that fraction.
        layer_by_layer: By default all layers are measured in one pass, in which each normalises by the statistics of
            the batch, as in training. If True, each is measured while all layers before it already have their new
            statistics, so that in evaluation mode the statistics are those of the data down to the last layer, whatever
            the batch size (except for a layer used twice in one call). That takes about half a pass per layer.
        device: Where to run the model; by default the device of `model`.

    Returns:
        The recalibrated copy.

    Raises:
        NoEffectError: If the model has no batch normalisation that keeps statistics or calls none of its layers, or the
            statistics are already those of the data.
        InvalidArgumentError: If an argument is not as described, or the model is a ScriptModule.
        CompressionError: If the model was lowered, or the dtype of the statistics cannot hold them.
        ObservationError: If the model cannot take the data.

    >>> from cp_compress.data import JPEG, CompressedDataset
    >>> from cp_compress.examples import digits_cnn, digits_training
    >>> repaired = recalibrate_batchnorm(digits_cnn(), CompressedDataset(digits_training(), JPEG(20)), examples=500)
    >>> from cp_compress.model import compression_steps
    >>> compression_steps(repaired)
    ("recalibrate_batchnorm(examples=500, data='jpeg(quality=20)')",)
    """
    rule = "must be a whole number of 1 or more"
    size = check_integer(_OWNER, "batch_size", batch_size, rule, at_least=1)
    if momentum is not None:
        rule = "must be the weight of each batch, a number in (0, 1], or None to pool all values"
        momentum = check_real(_OWNER, "momentum", momentum, rule, above=0, at_most=1)
    check_flag(_OWNER, "layer_by_layer", layer_by_layer)
    check_module(_OWNER, "model", model)
    with torch.inference_mode(False):  # a copy made within inference mode could not be changed
        copied = copy_model(_OWNER, model)
    if is_lowered(copied):
        raise CompressionError(f"{_OWNER}: the model was lowered for this CPU; recalibrate it before `lower`")
    layers, skips = _find_layers(copied)
    own = model_device(model) or torch.device("cpu")
    target = own if device is None else usable_device(device, f"{_OWNER}(device={str(device)!r}): it")
    data = LabeledData(dataset)
    chosen = choose_examples(_OWNER, examples, len(data))
    parts = chosen.tensor_split(-(-len(chosen) // size))  # of even sizes: one example alone has no variance
    runner = Runner(copied.to(target), target)
    before = {path: _read(layer) for path, layer in layers.items()}
    work = _Pass(runner, layers, data, parts, BatchSize(size), momentum)
    with torch.inference_mode(False), torch.no_grad():
        found = work.one_by_one() if layer_by_layer else work.together()
        for path, statistics in found.items():
            _set(layers[path], statistics)
    if not found:
        rule = "the model calls none of its layers of batch normalisation on this data, so nothing can be measured"
        raise NoEffectError(f"{_OWNER}: {rule}; calls of a function with their statistics are not observed")
    changes = _changes(before, layers)
    if not changes:
        raise NoEffectError(f"{_OWNER}: the statistics of all layers are already those of this data")
    skips += [Skip(path, "the model did not use this layer") for path in layers if path not in found]
    settings: dict[str, Any] = {"examples": len(chosen)}
    settings |= {} if momentum is None else {"momentum": momentum}
    settings |= {"layer_by_layer": True} if layer_by_layer else {}
    record_repair(copied, _OWNER, data, settings, changes, skips)
    for part in torch.split(chosen, size):
        mark_as_used(copied, "recalibration", data.inputs(part))
    return copied.to(own)


@dataclass
class _Moments:
    """Count, mean and sum of squared deviations of the values of each channel, in float64."""

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, values: Tensor) -> _Moments:
        """Summarise what reaches a layer, (n, channels, ...)."""
        rows = values.detach().double().transpose(0, 1).flatten(1)
        mean = rows.mean(1)
        return cls(rows.shape[1], mean, (rows - mean[:, None]).square().sum(1))

    def joined(self, other: _Moments) -> _Moments:
        """Return the moments of both samples together (Chan, Golub and LeVeque 1979)."""
        count, difference = self.count + other.count, other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        squares = self.squares + other.squares + difference.square() * (self.count * other.count / count)
        return _Moments(count, mean, squares)

    @property
    def variance(self) -> Tensor:
        """The unbiased variance, as torch keeps it."""
        if self.count < 2:
            raise CompressionError(f"{_OWNER}: one value per channel has no variance; give more examples")
        return self.squares / (self.count - 1)


@dataclass
class _Statistics:
    """What a layer shall hold, and from how many batches it comes."""

    mean: Tensor
    variance: Tensor
    batches: int


class _Enough(Exception):
    """Ends a call of the model behind the layer that is measured."""


class _Pass:
    def __init__(
        self,
        runner: Runner,
        layers: dict[str, _BatchNorm],
        data: LabeledData,
        parts: tuple[Tensor, ...],
        limit: BatchSize,
        momentum: float | None,
    ) -> None:
        self.runner, self.layers, self.data, self.parts = runner, layers, data, parts
        self.limit, self.momentum = limit, momentum

    def together(self) -> dict[str, _Statistics]:
        """Measure all layers in one pass, each normalising by the statistics of the batch."""
        with self.runner.evaluating(), _by_batch(self.layers.values()):
            return self._measure(self.layers)

    def one_by_one(self) -> dict[str, _Statistics]:
        """Measure each layer when all before it have their new statistics."""
        found: dict[str, _Statistics] = {}
        with self.runner.evaluating():
            calls = self._calls()
            for path in calls:
                layer = {path: self.layers[path]}
                found |= self._measure(layer, stop=calls[path] == 1)
                _set(self.layers[path], found[path])
        return found

    def _calls(self) -> dict[str, int]:
        """Return how often each layer is used in a call at most, in the order of use; read until all layers were."""
        order: list[str] = []
        most: dict[str, int] = {}
        calls: dict[str, int] = {}

        def count(path: str, values: Tensor) -> None:
            calls[path] = calls.get(path, 0) + 1

        def run(part: Tensor, rows: slice) -> None:
            calls.clear()
            self.runner.logits(self.data.inputs(part[rows]))
            place = 0
            for path, times in calls.items():  # one that is new here comes behind what was used before it
                if path not in order:
                    order.insert(place, path)
                place = order.index(path) + 1
                most[path] = max(times, most.get(path, 0))

        with _watching(self.layers, count):
            for part in self.parts:
                self.limit.run(len(part), functools.partial(run, part))
                if len(order) == len(self.layers):
                    break
        return {path: most[path] for path in order}

    def _measure(self, layers: dict[str, _BatchNorm], stop: bool = False) -> dict[str, _Statistics]:
        pooled: dict[str, _Moments] = {}
        moving: dict[str, _Statistics] = {}
        seen: dict[str, _Moments] = {}

        def keep(path: str, values: Tensor) -> None:
            moments = _Moments.of(values)
            seen[path] = seen[path].joined(moments) if path in seen else moments
            if stop:
                raise _Enough

        def run(part: Tensor, rows: slice) -> None:
            seen.clear()
            with contextlib.suppress(_Enough):
                self.runner.logits(self.data.inputs(part[rows]))
            # all that can run out of memory lies above, so that a repeated slice adds nothing twice
            for path, moments in seen.items():
                pooled[path] = pooled[path].joined(moments) if path in pooled else moments
                if self.momentum is not None:
                    moving[path] = _move(moving.get(path) or _read(layers[path]), moments, self.momentum)

        with _watching(layers, keep):
            for part in self.parts:
                self.limit.run(len(part), functools.partial(run, part))
        if self.momentum is not None:
            return moving
        return {path: _Statistics(moments.mean, moments.variance, len(self.parts)) for path, moments in pooled.items()}


def _find_layers(model: nn.Module) -> tuple[dict[str, _BatchNorm], list[Skip]]:
    every = {path: module for path, module in model.named_modules() if isinstance(module, _BatchNorm)}
    layers = {path: layer for path, layer in every.items() if layer.running_mean is not None}
    if not layers:
        kept = " that keeps statistics" if every else ""
        raise NoEffectError(f"{_OWNER}: the model has no batch normalisation{kept}, so there is nothing to re-estimate")
    return layers, [Skip(path, "it keeps no statistics") for path in every if path not in layers]


@contextlib.contextmanager
def _watching(layers: dict[str, _BatchNorm], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `see` with the path of a layer and its input whenever it is used."""

    def hook(path: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, keywords: see(path, first_input(module, args, keywords))

    handles = [layer.register_forward_pre_hook(hook(path), with_kwargs=True) for path, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _by_batch(layers: Any) -> Iterator[None]:
    """Let layers normalise by the statistics of the batch, and leave their own alone."""
    kept = [(layer, layer.training, layer.track_running_stats) for layer in layers]
    for layer, _, _ in kept:
        layer.training, layer.track_running_stats = True, False
    try:
        yield
    finally:
        for layer, training, tracking in kept:
            layer.training, layer.track_running_stats = training, tracking


def _read(layer: _BatchNorm) -> _Statistics:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    mean, variance = (buffer.to(torch.float64, copy=True) for buffer in (layer.running_mean, layer.running_var))
    return _Statistics(mean, variance, 0)


def _move(before: _Statistics, batch: _Moments, share: float) -> _Statistics:
    """Move statistics towards those of a batch."""
    mean, variance = torch.lerp(before.mean, batch.mean, share), torch.lerp(before.variance, batch.variance, share)
    return _Statistics(mean, variance, before.batches + 1)


def _set(layer: _BatchNorm, statistics: _Statistics) -> None:
    for buffer, value in ((layer.running_mean, statistics.mean), (layer.running_var, statistics.variance)):
        assert buffer is not None
        rounded = value.to(buffer.dtype)
        if not bool(torch.isfinite(rounded).all()):
            raise CompressionError(f"{_OWNER}: the data has statistics that {buffer.dtype} cannot hold")
        buffer.copy_(rounded)
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.fill_(statistics.batches)


def _changes(before: dict[str, _Statistics], layers: dict[str, _BatchNorm]) -> list[Change]:
    changes = []
    for path, layer in layers.items():
        old, new = before[path], _read(layer)
        pairs = {"running_mean": (old.mean, new.mean), "running_var": (old.variance, new.variance)}
        prefix = f"{path}." if path else ""
        changes += [
            Change(prefix + name, "re-estimated") for name, (was, now) in pairs.items() if not torch.equal(was, now)
        ]
    return changes
