"""Attribution by backward passes with a rule of their own at each activation.

The rules hold at every ReLU, ELU, leaky ReLU, sigmoid, tanh, softplus and max pooling that a model runs in PyTorch,
whether it is written as a module, as a function, in place, or as a module that is used several times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cp_compress.fidelity.attributions.methods.fields import MethodText, set_count, set_layer, set_real, set_seed
from cp_compress.fidelity.attributions.methods.gradients import BASELINE_RULE


@dataclass(frozen=True)
class GuidedBackprop(MethodText):
    """The gradient in which every ReLU lets only positive gradients pass (Springenberg et al. 2014)."""

    expression_name: ClassVar[str] = "guided_backprop"


@dataclass(frozen=True)
class Deconvolution(MethodText):
    """The gradient in which a ReLU of the gradient stands for each ReLU's own (Zeiler and Fergus 2014)."""

    expression_name: ClassVar[str] = "deconvolution"


@dataclass(frozen=True)
class GuidedGradCAM(MethodText):
    """Guided backpropagation times the positive Grad-CAM of a layer, at the input's size (Selvaraju et al. 2017).

    `layer` is the path of a module with an output (n, channels, *space), such as "layer3.2.conv2"; its map is
    enlarged by nearest neighbours.
    """

    layer: str
    expression_name: ClassVar[str] = "guided_grad_cam"

    def __post_init__(self) -> None:
        set_layer(self, optional=False)


@dataclass(frozen=True)
class DeepLift(MethodText):
    """What each place adds to the logit's change from a baseline, by the rescale rule (Shrikumar et al. 2017).

    `baseline` is the value of every place of the input that stands for nothing. At activations without a rule, such
    as GELU or softmax, the gradient is taken; the gap between the attributions' sum and the logit's change shows it,
    and every comparison reports that gap. With `layer`, the path of a module, that layer's output stands for the
    input; the gap then holds what passes the layer by as well.
    """

    baseline: float = 0.0
    layer: str | None = None
    expression_name: ClassVar[str] = "deep_lift"

    def __post_init__(self) -> None:
        set_real(self, "baseline", BASELINE_RULE)
        set_layer(self)


@dataclass(frozen=True)
class DeepLiftShap(MethodText):
    """The mean of `DeepLift` over several baselines, an approximation of SHAP values (Lundberg and Lee 2017).

    The baselines are `baselines` examples of the data set, drawn by `seed`: the same for all examples and both models.
    """

    baselines: int = 8
    seed: int = 0
    expression_name: ClassVar[str] = "deep_lift_shap"

    def __post_init__(self) -> None:
        set_count(self, "baselines", "examples that serve as baselines")
        set_seed(self)
