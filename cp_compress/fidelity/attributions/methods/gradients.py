"""Attribution by gradients as they are, at the input or at a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cp_compress.fidelity.attributions.methods.fields import MethodText, set_count, set_layer, set_real

BASELINE_RULE = "baseline is the value of every place of the input that stands for nothing: a finite number"


@dataclass(frozen=True)
class Saliency(MethodText):
    """The gradient of the class's logit with respect to the input, signed (Simonyan et al. 2013).

    With `layer`, the path of a module, it is the gradient with respect to that layer's output.
    """

    layer: str | None = None
    expression_name: ClassVar[str] = "saliency"

    def __post_init__(self) -> None:
        set_layer(self)


@dataclass(frozen=True)
class InputXGradient(MethodText):
    """The input times the gradient of the class's logit (Shrikumar et al. 2016).

    With `layer`, the path of a module, that layer's output stands for the input.
    """

    layer: str | None = None
    expression_name: ClassVar[str] = "input_x_gradient"

    def __post_init__(self) -> None:
        set_layer(self)


@dataclass(frozen=True)
class IntegratedGradients(MethodText):
    """Gradients summed over a straight path from a baseline to the input (Sundararajan et al. 2017).

    `steps` is the number of points on the path (Gauss–Legendre), `baseline` the value of every place at its start.
    Too few steps leave a gap between the attributions' sum and the logit's change along the path, which every
    comparison reports. With `layer`, the path of a module, it is that layer's output which moves, from what the
    baseline gives there.
    """

    steps: int = 50
    baseline: float = 0.0
    layer: str | None = None
    expression_name: ClassVar[str] = "integrated_gradients"

    def __post_init__(self) -> None:
        set_count(self, "steps", "points on the path", at_least=2)
        set_real(self, "baseline", BASELINE_RULE)
        set_layer(self)


@dataclass(frozen=True)
class GradCAM(MethodText):
    """A layer's channels, weighted by their mean gradients and summed (Selvaraju et al. 2017).

    `layer` is the path of a module with an output (n, channels, *space), such as "layer3.2.conv2". The maps have
    that layer's resolution and keep their sign: the usual ReLU at the end would hide what argues against a class.
    """

    layer: str
    expression_name: ClassVar[str] = "grad_cam"

    def __post_init__(self) -> None:
        set_layer(self, optional=False)
