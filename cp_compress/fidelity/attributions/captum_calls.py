"""One batch of attribution maps by each method: what is asked of Captum."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.batching import slices
from cp_compress.base.lazy import LazyModule
from cp_compress.fidelity.attributions.methods import (
    AttributionMethod,
    Deconvolution,
    DeepLift,
    DeepLiftShap,
    GradCAM,
    GradientShap,
    GuidedBackprop,
    GuidedGradCAM,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    Saliency,
    SmoothGrad,
    averaged_method,
)
from cp_compress.fidelity.attributions.methods.draws import Draws
from cp_compress.fidelity.observing.activation_modules import ActivationModules
from cp_compress.fidelity.observing.runner import Runner

attr: Any = LazyModule("captum.attr")


@dataclass(frozen=True)
class Subject:
    """A model as the methods ask it.

    `modules` runs it with its activations as modules, for methods that need those or a layer; `layer` is the layer
    asked about. `draws` holds what a method draws at random. `limit` is the largest number of inputs in one call.
    """

    runner: Runner
    modules: ActivationModules | None
    layer: nn.Module | None
    draws: Draws
    limit: int

    @property
    def rules(self) -> ActivationModules:
        """The model with its activations as modules."""
        assert self.modules is not None
        return self.modules


@dataclass(frozen=True)
class Batch:
    """Maps (n, ...) of a batch, and (gap, change) of each example (n, 2) where completeness can be asked for."""

    maps: Tensor
    gap: Tensor | None = None


@functools.singledispatch
def attribute(method: AttributionMethod, subject: Subject, inputs: Tensor, target: Tensor) -> Batch:
    """Return the maps of inputs (n, ...), which require gradients, for the classes `target` (n,)."""
    raise NotImplementedError(type(method).__name__)


@attribute.register
def _(method: Saliency, subject: Subject, inputs: Tensor, target: Tensor) -> Batch:
    if subject.layer is not None:
        return Batch(_layer_gradient(subject, inputs, target, multiply=False))
    return Batch(attr.Saliency(subject.runner.logits).attribute(inputs, target=target, abs=False))


@attribute.register
def _(method: InputXGradient, subject: Subject, inputs: Tensor, target: Tensor) -> Batch:
    if subject.layer is not None:
        return Batch(_layer_gradient(subject, inputs, target, multiply=True))
    return Batch(attr.InputXGradient(subject.runner.logits).attribute(inputs, target=target))


@attribute.register
def _(method: GradCAM, subject: Subject, inputs: Tensor, target: Tensor) -> Batch:
    return Batch(attr.LayerGradCam(subject.rules, subject.layer).attribute(inputs, target=target))


@attribute.register
def _(method: Occlusion, subject: Subject, inputs: Tensor, target: Tensor) -> Batch:
    window, stride = method.sizes(tuple(inputs.shape[1:]))
    maps = attr.Occlusion(subject.runner.logits).attribute(
        inputs.detach(),
        sliding_window_shapes=window,
        strides=stride,
        target=target,
        # several windows at a time where the batch of examples alone would not fill a call
        perturbations_per_eval=max(1, subject.limit // len(inputs)),
    )
    return Batch(maps)


@attribute.register
def _(method: IntegratedGradients, subject: Subject, inputs: Tensor, target: Tensor) -> Batch:
    settings: dict[str, Any] = {
        "baselines": method.baseline,
        "target": target,
        "n_steps": method.steps,
        "method": "gausslegendre",
        "internal_batch_size": max(subject.limit, len(inputs)),
    }
    inputs = inputs.detach()
    if subject.layer is not None:
        maps = attr.LayerIntegratedGradients(subject.rules, subject.layer).attribute(inputs, **settings)
        change = _change_at_layer(subject, subject.layer, inputs, method.baseline, target)
        return Batch(maps, _gap(maps, change))
    maps, missing = attr.IntegratedGradients(subject.runner.logits).attribute(
        inputs, **settings, return_convergence_delta=True
    )
    return Batch(maps, _gap(maps, maps.detach().flatten(1).sum(dim=1) - missing))


@attribute.register
def _(method: GuidedBackprop, subject: Subject, inputs: Tensor, target: Tensor) -> Batch:
    with _without_warnings():
        return Batch(attr.GuidedBackprop(subject.rules).attribute(inputs, target=target))


@attribute.register
def _(method: Deconvolution, subject: Subject, inputs: Tensor, target: Tensor) -> Batch:
    with _without_warnings():
        return Batch(attr.Deconvolution(subject.rules).attribute(inputs, target=target))


@attribute.register
def _(method: GuidedGradCAM, subject: Subject, inputs: Tensor, target: Tensor) -> Batch:
    with _without_warnings():
        return Batch(attr.GuidedGradCam(subject.rules, subject.layer).attribute(inputs, target=target))


@attribute.register
def _(method: DeepLift, subject: Subject, inputs: Tensor, target: Tensor) -> Batch:
    return _deep_lift(subject, inputs, torch.full_like(inputs[:1], method.baseline, requires_grad=False), target)


@attribute.register
def _(method: DeepLiftShap, subject: Subject, inputs: Tensor, target: Tensor) -> Batch:
    baselines = subject.draws.baselines.to(inputs)
    return _mean(_deep_lift(subject, inputs, baseline[None], target) for baseline in baselines)


@attribute.register
def _(method: SmoothGrad, subject: Subject, inputs: Tensor, target: Tensor) -> Batch:
    inner = averaged_method(method)
    moved = (_leaf(inputs + noise) for noise in subject.draws.noise.to(inputs))
    return _mean(attribute(inner, subject, leaf, target) for leaf in moved)


@attribute.register
def _(method: GradientShap, subject: Subject, inputs: Tensor, target: Tensor) -> Batch:
    draws, gradient = subject.draws, attr.Saliency(subject.runner.logits)

    def one(noise: Tensor, baseline: Tensor, share: Tensor) -> Batch:
        way = (inputs + noise - baseline).detach()
        return Batch(gradient.attribute(_leaf(baseline + share * way), target=target, abs=False) * way)

    return _mean(
        one(*drawn)
        for drawn in zip(draws.noise.to(inputs), draws.baselines.to(inputs), draws.shares.to(inputs), strict=True)
    )


def _layer_gradient(subject: Subject, inputs: Tensor, target: Tensor, multiply: bool) -> Tensor:
    method = attr.LayerGradientXActivation(subject.rules, subject.layer, multiply_by_inputs=multiply)
    found: Tensor = method.attribute(inputs, target=target)
    return found


def _deep_lift(subject: Subject, inputs: Tensor, baseline: Tensor, target: Tensor) -> Batch:
    """Return the maps against one baseline (1, ...), which goes through the model beside each input."""
    rules, layer = subject.rules, subject.layer
    method = attr.DeepLift(rules) if layer is None else attr.LayerDeepLift(rules, layer)
    maps, changes = [], []
    for part in slices(len(inputs), max(1, subject.limit // 2)):
        with _without_warnings():
            found = method.attribute(_leaf(inputs[part]), baseline.expand_as(inputs[part]), target=target[part])
        maps.append(found.detach())
        logits, without = subject.rules.latest.detach().chunk(2)
        changes.append((logits - without).gather(1, target[part, None]).flatten())
    joined = torch.cat(maps)
    return Batch(joined, _gap(joined, torch.cat(changes)))


def _change_at_layer(subject: Subject, layer: nn.Module, inputs: Tensor, baseline: float, target: Tensor) -> Tensor:
    """Return how far the logits (n,) move when a layer gives what it gives for the baseline, and all else stays."""
    outputs: list[Tensor] = []
    with torch.no_grad():
        # a copy, because later parts of the model may work on it in place
        handle = layer.register_forward_hook(lambda module, args, output: outputs.append(output.clone()))
        try:
            subject.rules(torch.full_like(inputs[:1], baseline))
        finally:
            handle.remove()
        handle = layer.register_forward_hook(lambda module, args, output: outputs[0].expand_as(output).contiguous())
        try:
            without = subject.rules(inputs)
        finally:
            handle.remove()
        change: Tensor = (subject.rules(inputs) - without).gather(1, target[:, None])
    return change.flatten()


def _gap(maps: Tensor, change: Tensor) -> Tensor:
    return torch.stack([maps.detach().flatten(1).sum(dim=1) - change.detach(), change.detach()], dim=1)


def _mean(batches: Iterator[Batch]) -> Batch:
    """Return the mean maps, with one map more than the sum in memory at any time."""
    count, maps, gap = 0, torch.zeros(()), None
    for batch in batches:
        maps = batch.maps.detach() if count == 0 else maps + batch.maps.detach()
        if batch.gap is not None:
            gap = batch.gap.detach() if gap is None else gap + batch.gap.detach()
        count += 1
    return Batch(maps / count, None if gap is None else gap / count)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep quiet that Captum sets hooks: they are on modules of ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Setting (forward|backward)", category=UserWarning)
        yield
