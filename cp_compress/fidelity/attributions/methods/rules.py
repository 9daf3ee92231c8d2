"""Attribution by backward passes with a rule of their own at each activation.

The rules hold at every ReLU, ELU, leaky ReLU, sigmoid, tanh, softplus and max pooling that a model runs in PyTorch,
whether it is written as a module, as a function, in place, or as a module that is used several times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.batching import slices
from cp_compress.fidelity.attributions.methods.averaging import mean_of, seeded
from cp_compress.fidelity.attributions.methods.captum_calls import attr, without_hook_warnings
from cp_compress.fidelity.attributions.methods.fields import set_count, set_layer, set_real, set_seed
from cp_compress.fidelity.attributions.methods.gradients import BASELINE_RULE
from cp_compress.fidelity.attributions.methods.method import AttributionMethod, AttributionSubject, Maps, Need, leaf
from cp_compress.inputs.reading import LabeledData

_GAP_ADVICE = "this model has activations for which DeepLIFT has no rule; use integrated_gradients()"


@explains_keywords
@dataclass(frozen=True, repr=False)
class GuidedBackprop(AttributionMethod):
    """The gradient in which every ReLU lets only positive gradients pass (Springenberg et al. 2014)."""

    expression_name: ClassVar[str] = "guided_backprop"
    needs: ClassVar[tuple[Need, ...]] = ("gradients", "relu")

    def attribute(self, subject: AttributionSubject, inputs: Tensor, target: Tensor) -> Maps:
        """Return the guided gradients of the logits of the classes `target`."""
        with without_hook_warnings():
            maps: Tensor = attr.GuidedBackprop(subject.rules).attribute(
                inputs, target=target, additional_forward_args=subject.beside
            )
        return maps


@explains_keywords
@dataclass(frozen=True, repr=False)
class Deconvolution(AttributionMethod):
    """The gradient in which each ReLU passes on the ReLU of the gradient (Zeiler and Fergus 2014)."""

    expression_name: ClassVar[str] = "deconvolution"
    needs: ClassVar[tuple[Need, ...]] = ("gradients", "relu")

    def attribute(self, subject: AttributionSubject, inputs: Tensor, target: Tensor) -> Maps:
        """Return the deconvolved gradients of the logits of the classes `target`."""
        with without_hook_warnings():
            maps: Tensor = attr.Deconvolution(subject.rules).attribute(
                inputs, target=target, additional_forward_args=subject.beside
            )
        return maps


@explains_keywords
@dataclass(frozen=True, repr=False)
class GuidedGradCAM(AttributionMethod):
    """Guided backpropagation times the positive Grad-CAM of a layer, at the input's size (Selvaraju et al. 2017).

    `layer` is the path of a module with an output (n, channels, *space), such as "layer3.2.conv2"; its map is
    enlarged by nearest neighbours.
    """

    layer: str | None = None  # so that a text without one is told what to name
    expression_name: ClassVar[str] = "guided_grad_cam"
    needs: ClassVar[tuple[Need, ...]] = ("gradients", "relu", "spatial layer")

    def __post_init__(self) -> None:
        set_layer(self, optional=False)

    def attribute(self, subject: AttributionSubject, inputs: Tensor, target: Tensor) -> Maps:
        """Return the products, of the inputs' shape."""
        with without_hook_warnings():
            maps: Tensor = attr.GuidedGradCam(subject.rules, subject.layer).attribute(
                inputs, target=target, additional_forward_args=subject.beside
            )
        return maps


@explains_keywords
@dataclass(frozen=True, repr=False)
class DeepLift(AttributionMethod):
    """What each place adds to the logit's change from a baseline, by the rescale rule (Shrikumar et al. 2017).

    `baseline` is the value that every place of an uninformative input has. At activations without a rule, such as GELU
    or softmax, the gradient is taken; the gap between the attributions' sum and the logit's change shows it, and every
    comparison reports that gap. With `layer`, the path of a module, that layer's output takes the place of the input;
    the gap then includes what bypasses the layer, and no comparison refuses it.
    """

    baseline: float = 0.0
    layer: str | None = None
    expression_name: ClassVar[str] = "deep_lift"
    needs: ClassVar[tuple[Need, ...]] = ("gradients", "activation modules")
    gap_advice: ClassVar[str] = _GAP_ADVICE

    def __post_init__(self) -> None:
        set_real(self, "baseline", BASELINE_RULE)
        set_layer(self)

    @property
    def complete(self) -> bool:
        """Whether the maps must add up to the logits' changes; at a layer, a part of the input may bypass it."""
        return self.layer is None

    def attribute(self, subject: AttributionSubject, inputs: Tensor, target: Tensor) -> Maps:
        """Return the maps, and the changes of the logits from the baseline."""
        return _deep_lift(subject, inputs, torch.full_like(inputs[:1], self.baseline, requires_grad=False), target)


@explains_keywords
@dataclass(frozen=True, repr=False)
class DeepLiftShap(AttributionMethod):
    """The mean of `DeepLift` over several baselines, an approximation of SHAP values (Lundberg and Lee 2017).

    The baselines are `baselines` examples of the data set, drawn by `seed`: the same for all examples and both models.
    """

    baselines: int = 8
    seed: int = 0
    expression_name: ClassVar[str] = "deep_lift_shap"
    needs: ClassVar[tuple[Need, ...]] = ("gradients", "activation modules")
    complete: ClassVar[bool] = True
    gap_advice: ClassVar[str] = _GAP_ADVICE

    def __post_init__(self) -> None:
        set_count(self, "baselines", "examples that serve as baselines")
        set_seed(self)

    def draws(self, data: LabeledData, input_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Return the `baselines` (k, *input_shape); raises InvalidArgumentError for more than there are examples."""
        if self.baselines > len(data):
            reject("DeepLiftShap", "baselines", self.baselines, f"the data set has {len(data)} examples only")
        chosen = torch.randperm(len(data), generator=seeded(self.seed))[: self.baselines]
        return {"baselines": data.inputs(chosen)}

    def attribute(self, subject: AttributionSubject, inputs: Tensor, target: Tensor) -> Maps:
        """Return the mean maps, and the mean changes of the logits from the baselines."""
        baselines = subject.draws["baselines"].to(inputs)
        return mean_of(_deep_lift(subject, inputs, baseline[None], target) for baseline in baselines)


def _deep_lift(subject: AttributionSubject, inputs: Tensor, baseline: Tensor, target: Tensor) -> Maps:
    """Return the maps against one baseline (1, ...), which goes through the model beside each input."""
    rules, layer = subject.rules, subject.layer
    method = attr.DeepLift(rules) if layer is None else attr.LayerDeepLift(rules, layer)
    maps, changes = [], []
    for part in slices(len(inputs), max(1, subject.limit // 2)):
        with without_hook_warnings():
            found = method.attribute(
                leaf(inputs[part]),
                baseline.expand_as(inputs[part]),
                target=target[part],
                additional_forward_args=None if subject.rows is None else (subject.rows[part],),
            )
        maps.append(found.detach())
        logits, without = rules.latest.detach().chunk(2)
        changes.append((logits - without).gather(1, target[part, None]).flatten())
    return torch.cat(maps), torch.cat(changes)
