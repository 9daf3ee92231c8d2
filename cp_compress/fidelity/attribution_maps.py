"""Attribution maps of one observed model, all computed by Captum, in batches, once."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import InputXGradient as CaptumInputXGradient
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import LayerGradCam
from captum.attr import Occlusion as CaptumOcclusion
from captum.attr import Saliency as CaptumSaliency
from torch import Tensor, nn

from cp_compress.base.digests import digest_tensors
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.attribution_methods import (
    AttributionMethod,
    GradCAM,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    Saliency,
)
from cp_compress.fidelity.gradients import differentiable, differentiating, require_gradients
from cp_compress.fidelity.observation import Observation
from cp_compress.fidelity.running import Runner
from cp_compress.fidelity.sampling import batch_size_for


@dataclass(frozen=True)
class AttributionMaps:
    """Signed maps (n, ...) on the CPU, and how far integrated gradients are from complete.

    `completeness_gap` is Σ|gap| / Σ|change| over the examples: the gap is the map's sum less the change of the
    logit along the path, which a complete map would add up to. None for other methods.
    """

    maps: Tensor
    completeness_gap: float | None = None


def attribution_maps(
    observation: Observation,
    method: AttributionMethod,
    indices: Tensor,
    targets: Tensor,
    batch_size: int | None = None,
) -> AttributionMaps:
    """Return the maps of the examples at `indices` (k,) for the classes `targets` (k,), computed once.

    `batch_size` is the largest number of inputs in one call of the model, steps and windows included.

    Raises ObservationError when the model offers no gradients or no layers where the method needs them, when the
    layer does not exist, and for NaN or infinite attributions.
    """
    key = ("attributions", str(method), digest_tensors([indices, targets]), batch_size)
    return observation.remember(key, lambda: _compute(observation, method, indices, targets, batch_size))


def _compute(
    observation: Observation, method: AttributionMethod, indices: Tensor, targets: Tensor, batch_size: int | None
) -> AttributionMaps:
    runner = observation.runner
    layer = _find_layer(runner, method) if isinstance(method, GradCAM) else None
    first = observation.data.select(indices[:1])[0]
    if not isinstance(method, Occlusion):
        require_gradients(runner, first, f"attribution by {method}")
    if isinstance(method, GradCAM) and layer is not None:
        _check_layer(runner, method, layer, first)
    maps: list[Tensor] = []
    gaps: list[Tensor] = []
    batch = batch_size_for(runner.device, batch_size)

    def run(part: slice) -> None:
        inputs, _ = observation.data.select(indices[part])
        leaf, target = differentiable(runner, inputs), targets[part].to(runner.device, copy=True)
        found, gap = _attribute(runner, method, layer, leaf, target, batch.limit)
        maps.append(found.detach().cpu())
        gaps.append(gap.detach().cpu())

    with differentiating(runner):
        batch.run(len(indices), run)
    joined = torch.cat(maps)
    _check_finite(joined, indices, method)
    missing, change = torch.cat(gaps).double().abs().sum(dim=0).tolist()
    if not isinstance(method, IntegratedGradients):
        return AttributionMaps(joined)
    return AttributionMaps(joined, missing / change if change > 0 else math.inf)


def _attribute(
    runner: Runner, method: AttributionMethod, layer: nn.Module | None, inputs: Tensor, target: Tensor, limit: int
) -> tuple[Tensor, Tensor]:
    """Return maps (n, ...), and (gap, change) of each example (n, 2), zeros where completeness is no question."""
    maps: Tensor
    none = torch.zeros(len(inputs), 2)
    if isinstance(method, Saliency):
        maps = CaptumSaliency(runner.logits).attribute(inputs, target=target, abs=False)
        return maps, none
    if isinstance(method, InputXGradient):
        maps = CaptumInputXGradient(runner.logits).attribute(inputs, target=target)
        return maps, none
    if isinstance(method, Occlusion):
        window, stride = method.sizes(tuple(inputs.shape[1:]))
        maps = CaptumOcclusion(runner.logits).attribute(
            inputs.detach(),
            sliding_window_shapes=window,
            strides=stride,
            target=target,
            # several windows at a time where the batch of examples alone would not fill a call
            perturbations_per_eval=max(1, limit // len(inputs)),
        )
        return maps, none
    if isinstance(method, GradCAM):
        maps = LayerGradCam(runner.logits, layer).attribute(inputs, target=target)
        return maps, none
    maps, gap = CaptumIntegratedGradients(runner.logits).attribute(
        inputs.detach(),
        target=target,
        n_steps=method.steps,
        method="gausslegendre",
        internal_batch_size=max(limit, len(inputs)),
        return_convergence_delta=True,
    )
    change = maps.detach().flatten(1).sum(dim=1) - gap
    return maps, torch.stack([gap, change], dim=1)


def _check_layer(runner: Runner, method: GradCAM, layer: nn.Module, inputs: Tensor) -> None:
    outputs: list[Any] = []
    hook = layer.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        with torch.no_grad(), runner.evaluating():
            runner.logits(inputs)
    finally:
        hook.remove()
    if not outputs:
        raise ObservationError(f"{method}: the model does not use this layer in its forward pass")
    if not isinstance(outputs[-1], Tensor) or outputs[-1].ndim < 3:
        found = f"shape {tuple(outputs[-1].shape)}" if isinstance(outputs[-1], Tensor) else type(outputs[-1]).__name__
        raise ObservationError(
            f"{method}: the layer gives outputs of {found}; Grad-CAM needs a layer with outputs "
            "(n, channels, *space), such as a convolution"
        )


def _find_layer(runner: Runner, method: GradCAM) -> nn.Module:
    if runner.module is None:
        raise ObservationError(f"{method} needs an nn.Module with named layers; the model is a plain callable")
    layers: dict[str, nn.Module] = dict(runner.module.named_modules())
    if method.layer not in layers:
        names = [name for name in layers if name]
        close = difflib.get_close_matches(method.layer, names, n=5, cutoff=0.4) or names[-5:]
        raise ObservationError(f"{method}: the model has no layer {method.layer!r}; close are {', '.join(close)}")
    return layers[method.layer]


def _check_finite(maps: Tensor, indices: Tensor, method: AttributionMethod) -> None:
    bad = indices[~torch.isfinite(maps).flatten(1).all(dim=1)]
    if len(bad):
        first = ", ".join(f"#{index}" for index in bad[:5].tolist())
        raise ObservationError(
            f"{method} gives NaN or infinite attributions on {len(bad)} of {len(maps)} examples ({first}"
            f"{'…' if len(bad) > 5 else ''}): such maps cannot be compared"
        )
