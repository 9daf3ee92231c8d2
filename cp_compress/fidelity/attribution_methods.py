"""The ways to ask a model which parts of an input its answer rests on: values that can be written and read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cp_compress.base.arguments import check_integer, reject
from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.expressions import format_expression, parse_expression

Extent = int | tuple[int, ...]


@dataclass(frozen=True)
class Saliency:
    """The gradient of the class's logit with respect to the input, signed (Simonyan et al. 2013)."""

    expression_name: ClassVar[str] = "saliency"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __str__(self) -> str:
        return format_expression(self)


@dataclass(frozen=True)
class InputXGradient:
    """The input times the gradient of the class's logit (Shrikumar et al. 2016)."""

    expression_name: ClassVar[str] = "input_x_gradient"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __str__(self) -> str:
        return format_expression(self)


@dataclass(frozen=True)
class IntegratedGradients:
    """Gradients summed over a straight path from the all-zero input (Sundararajan et al. 2017).

    `steps` is the number of points on the path (Gauss–Legendre). Too few leave a gap between the attributions'
    sum and the logit's change along the path, which every comparison reports.
    """

    steps: int = 50
    expression_name: ClassVar[str] = "integrated_gradients"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        rule = "steps is a number of points on the path: a whole number of 2 or more"
        object.__setattr__(self, "steps", check_integer("IntegratedGradients", "steps", self.steps, rule, at_least=2))

    def __str__(self) -> str:
        return format_expression(self)


@dataclass(frozen=True)
class Occlusion:
    """The change of the class's logit when a window of the input is set to zero (Zeiler and Fergus 2014).

    `window` and `stride` are in pixels: one number for every spatial dimension, or one for each. A window covers
    all channels of an image (C, H, W); in a vector of features it covers so many consecutive features. It needs
    no gradients.
    """

    window: Extent = 4
    stride: Extent = 2
    expression_name: ClassVar[str] = "occlusion"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            object.__setattr__(self, name, _as_extent(name, getattr(self, name)))
        pairs = zip(*_aligned(self.window, self.stride), strict=True)
        if any(stride > window for window, stride in pairs):
            reject("Occlusion", "stride", self.stride, f"steps wider than the window {self.window} would leave gaps")

    def __str__(self) -> str:
        return format_expression(self)

    def sizes(self, input_shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return window and stride over every dimension of an input of shape (C, H, W), (H, W) or (features,).

        Raises InvalidArgumentError when the window does not fit into the input.
        """
        spatial = input_shape[1:] if len(input_shape) > 2 else input_shape
        window = _spread("window", self.window, len(spatial))
        stride = _spread("stride", self.stride, len(spatial))
        if any(size > limit for size, limit in zip(window, spatial, strict=True)):
            reject("Occlusion", "window", self.window, f"larger than the input, which is {spatial}")
        channels = input_shape[: len(input_shape) - len(spatial)]
        return channels + window, channels + stride


@dataclass(frozen=True)
class GradCAM:
    """A layer's channels, weighted by their mean gradients and summed (Selvaraju et al. 2017).

    `layer` is the path of a module with an output (n, channels, *space), such as "layer3.2.conv2". The maps have
    that layer's resolution and keep their sign: the usual ReLU at the end would hide what argues against a class.
    """

    layer: str
    expression_name: ClassVar[str] = "grad_cam"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.layer, str) or not self.layer:
            reject("GradCAM", "layer", self.layer, "layer is the path of a module, such as 'layer3.2.conv2'")

    def __str__(self) -> str:
        return format_expression(self)


AttributionMethod = Saliency | InputXGradient | IntegratedGradients | Occlusion | GradCAM
_METHODS: dict[str, type[AttributionMethod]] = {
    method.expression_name: method for method in (Saliency, InputXGradient, IntegratedGradients, Occlusion, GradCAM)
}


def parse_attribution_method(text: str) -> AttributionMethod:
    """Return the attribution method that an expression names; the inverse of `str`.

    Raises InvalidArgumentError for anything but one known method with arguments that it allows.

    >>> parse_attribution_method("integrated_gradients(steps=20)")
    IntegratedGradients(steps=20)
    >>> str(Occlusion(window=5, stride=5)), str(parse_attribution_method("saliency"))
    ('occlusion(window=5, stride=5)', 'saliency()')
    """
    if not isinstance(text, str):
        reject("parse_attribution_method", "text", text, "an expression such as 'saliency()' is needed")
    methods = parse_expression(text, _METHODS, "attribution method")
    if len(methods) != 1:
        raise InvalidArgumentError(f"attribution method {text!r}: name one method, not {len(methods)}")
    method: AttributionMethod = methods[0]
    return method


def as_attribution_method(method: AttributionMethod | str) -> AttributionMethod:
    """Return a method given as a value or as its expression."""
    return method if isinstance(method, AttributionMethod) else parse_attribution_method(method)


def _as_extent(name: str, value: object) -> Extent:
    rule = f"{name} must be a whole number of 1 or more, or one for each spatial dimension"
    if isinstance(value, (tuple, list)) and value:
        return tuple(check_integer("Occlusion", name, part, rule, at_least=1) for part in value)
    return check_integer("Occlusion", name, value, rule, at_least=1)


def _aligned(window: Extent, stride: Extent) -> tuple[tuple[int, ...], tuple[int, ...]]:
    dimensions = max(len(part) if isinstance(part, tuple) else 1 for part in (window, stride))
    return _spread("window", window, dimensions), _spread("stride", stride, dimensions)


def _spread(name: str, extent: Extent, dimensions: int) -> tuple[int, ...]:
    if isinstance(extent, int):
        return (extent,) * dimensions
    if len(extent) != dimensions:
        reject("Occlusion", name, extent, f"needs one number, or one for each of {dimensions} spatial dimensions")
    return extent
