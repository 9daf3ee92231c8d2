"""Attribution by gradients as they are, at the input or at a layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import explains_keywords
from cp_compress.fidelity.attributions.methods.captum_calls import attr
from cp_compress.fidelity.attributions.methods.fields import set_count, set_layer, set_real
from cp_compress.fidelity.attributions.methods.method import AttributionMethod, AttributionSubject, Maps, Need, sum_of

_FEWEST_STEPS, _MOST_STEPS, _USUAL_GAP = 50, 400, 0.05
BASELINE_RULE = "baseline is the value that every place of an uninformative input has: a finite number"


@explains_keywords
@dataclass(frozen=True, repr=False)
class Saliency(AttributionMethod):
    """The gradient of the class's logit with respect to the input, signed (Simonyan et al. 2013).

    With `layer`, the path of a module, it is the gradient with respect to that layer's output.
    """

    layer: str | None = None
    expression_name: ClassVar[str] = "saliency"

    def __post_init__(self) -> None:
        set_layer(self)

    def attribute(self, subject: AttributionSubject, inputs: Tensor, target: Tensor) -> Maps:
        """Return the gradients of the logits of the classes `target`."""
        if subject.layer is not None:
            return _layer_gradient(subject, inputs, target, multiply=False)
        maps: Tensor = attr.Saliency(subject.logits).attribute(
            inputs, target=target, abs=False, additional_forward_args=subject.beside
        )
        return maps


@explains_keywords
@dataclass(frozen=True, repr=False)
class InputXGradient(AttributionMethod):
    """The input times the gradient of the class's logit (Shrikumar et al. 2016).

    With `layer`, the path of a module, that layer's output takes the place of the input.
    """

    layer: str | None = None
    expression_name: ClassVar[str] = "input_x_gradient"

    def __post_init__(self) -> None:
        set_layer(self)

    def attribute(self, subject: AttributionSubject, inputs: Tensor, target: Tensor) -> Maps:
        """Return the inputs, or the layer's outputs, times their gradients."""
        if subject.layer is not None:
            return _layer_gradient(subject, inputs, target, multiply=True)
        maps: Tensor = attr.InputXGradient(subject.logits).attribute(
            inputs, target=target, additional_forward_args=subject.beside
        )
        return maps


@explains_keywords
@dataclass(frozen=True, repr=False)
class IntegratedGradients(AttributionMethod):
    """Gradients summed over a straight path from a baseline to the input (Sundararajan et al. 2017).

    `steps` is the number of points on the path (Gauss–Legendre), `baseline` the value of every place at its start.
    Too few steps leave a gap between the attributions' sum and the logit's change along the path, which every
    comparison reports. Without `steps`, each example gets 50 points, and twice as many again, up to 400, while its gap
    is more than 5 % of the change. With `layer`, the path of a module, the path leads through that layer's outputs,
    from what it gives for the baseline.
    """

    steps: int | None = None
    baseline: float = 0.0
    layer: str | None = None
    expression_name: ClassVar[str] = "integrated_gradients"
    complete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.steps is not None:
            set_count(self, "steps", "points on the path", at_least=2)
        set_real(self, "baseline", BASELINE_RULE)
        set_layer(self)

    @property
    def gap_advice(self) -> str:
        """What helps against a gap: more points on the path."""
        return f"use more steps, such as integrated_gradients(steps={2 * (self.steps or _MOST_STEPS)})"

    def attribute(self, subject: AttributionSubject, inputs: Tensor, target: Tensor) -> Maps:
        """Return the integrals, and the changes of the logits along the paths."""
        inputs = inputs.detach()
        if self.steps is not None:
            return self._integrate(subject, inputs, target, self.steps)
        maps, change = self._integrate(subject, inputs, target, _FEWEST_STEPS)
        maps, change, steps = maps.detach(), change.detach(), _FEWEST_STEPS
        while steps < _MOST_STEPS:
            gap = (sum_of(maps) - change).abs() > _USUAL_GAP * change.abs()
            if not bool(gap.any()):
                break
            steps *= 2
            rows = None if subject.rows is None else subject.rows[gap.to(subject.rows.device)]
            some = replace(subject, rows=rows)
            maps[gap], change[gap] = self._integrate(some, inputs[gap], target[gap], steps)
        return maps, change

    def _integrate(
        self, subject: AttributionSubject, inputs: Tensor, target: Tensor, steps: int
    ) -> tuple[Tensor, Tensor]:
        settings: dict[str, Any] = {
            "baselines": self.baseline,
            "target": target,
            "additional_forward_args": subject.beside,
            "n_steps": steps,
            "method": "gausslegendre",
            "internal_batch_size": max(subject.limit, len(inputs)),
        }
        if subject.layer is not None:
            maps = attr.LayerIntegratedGradients(subject.rules, subject.layer).attribute(inputs, **settings)
            return maps, _change_at_layer(subject, subject.layer, inputs, self.baseline, target)
        maps, missing = attr.IntegratedGradients(subject.logits).attribute(
            inputs, **settings, return_convergence_delta=True
        )
        return maps, sum_of(maps) - missing


@explains_keywords
@dataclass(frozen=True, repr=False)
class GradCAM(AttributionMethod):
    """A layer's channels, weighted by their mean gradients and summed (Selvaraju et al. 2017).

    `layer` is the path of a module with an output (n, channels, *space), such as "layer3.2.conv2". The maps have
    that layer's resolution and keep their sign: the usual ReLU at the end would hide what argues against a class.
    """

    layer: str | None = None  # so that a text without one is told what to name
    expression_name: ClassVar[str] = "grad_cam"
    needs: ClassVar[tuple[Need, ...]] = ("gradients", "spatial layer")

    def __post_init__(self) -> None:
        set_layer(self, optional=False)

    def attribute(self, subject: AttributionSubject, inputs: Tensor, target: Tensor) -> Maps:
        """Return the weighted sums (n, 1, *space) of the layer's channels."""
        maps: Tensor = attr.LayerGradCam(subject.rules, subject.layer).attribute(
            inputs, target=target, additional_forward_args=subject.beside
        )
        return maps


def _layer_gradient(subject: AttributionSubject, inputs: Tensor, target: Tensor, multiply: bool) -> Tensor:
    method = attr.LayerGradientXActivation(subject.rules, subject.layer, multiply_by_inputs=multiply)
    found: Tensor = method.attribute(inputs, target=target, additional_forward_args=subject.beside)
    return found


def _change_at_layer(
    subject: AttributionSubject, layer: nn.Module, inputs: Tensor, baseline: float, target: Tensor
) -> Tensor:
    """Return how far the logits (n,) move when a layer gives what it gives for the baseline, and all else stays."""
    outputs: list[Tensor] = []
    beside = subject.beside or ()
    with torch.no_grad():
        # a copy, because later parts of the model may work on it in place
        handle = layer.register_forward_hook(lambda module, args, output: outputs.append(output.clone()))
        try:
            # what else belongs to an example may have a part in what the layer gives
            subject.rules(torch.full_like(inputs[:1] if subject.rows is None else inputs, baseline), *beside)
        finally:
            handle.remove()
        handle = layer.register_forward_hook(lambda module, args, output: outputs[0].expand_as(output).contiguous())
        try:
            without = subject.rules(inputs, *beside)
        finally:
            handle.remove()
        change: Tensor = (subject.rules(inputs, *beside) - without).gather(1, target[:, None])
    return change.flatten()
