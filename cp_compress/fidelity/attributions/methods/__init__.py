"""The ways to ask a model which parts of an input its answer rests on: values that can be written and read back."""

from __future__ import annotations

from cp_compress.base.arguments import reject
from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.expressions import parse_expression
from cp_compress.fidelity.attributions.methods.gradients import GradCAM as GradCAM
from cp_compress.fidelity.attributions.methods.gradients import InputXGradient as InputXGradient
from cp_compress.fidelity.attributions.methods.gradients import IntegratedGradients as IntegratedGradients
from cp_compress.fidelity.attributions.methods.gradients import Saliency as Saliency
from cp_compress.fidelity.attributions.methods.noise import GradientShap as GradientShap
from cp_compress.fidelity.attributions.methods.noise import SmoothGrad as SmoothGrad
from cp_compress.fidelity.attributions.methods.occlusion import Occlusion as Occlusion
from cp_compress.fidelity.attributions.methods.rules import Deconvolution as Deconvolution
from cp_compress.fidelity.attributions.methods.rules import DeepLift as DeepLift
from cp_compress.fidelity.attributions.methods.rules import DeepLiftShap as DeepLiftShap
from cp_compress.fidelity.attributions.methods.rules import GuidedBackprop as GuidedBackprop
from cp_compress.fidelity.attributions.methods.rules import GuidedGradCAM as GuidedGradCAM

PlainMethod = (
    Saliency
    | InputXGradient
    | IntegratedGradients
    | Occlusion
    | GradCAM
    | GuidedBackprop
    | Deconvolution
    | GuidedGradCAM
    | DeepLift
)
"""The methods without random draws, which SmoothGrad can average."""
AttributionMethod = PlainMethod | DeepLiftShap | GradientShap | SmoothGrad

_PLAIN: dict[str, type[PlainMethod]] = {
    method.expression_name: method
    for method in (
        Saliency,
        InputXGradient,
        IntegratedGradients,
        Occlusion,
        GradCAM,
        GuidedBackprop,
        Deconvolution,
        GuidedGradCAM,
        DeepLift,
    )
}
_METHODS: dict[str, type[AttributionMethod]] = {
    **_PLAIN,
    **{method.expression_name: method for method in (DeepLiftShap, GradientShap, SmoothGrad)},
}


def parse_attribution_method(text: str) -> AttributionMethod:
    """Return the attribution method that an expression names; the inverse of `str`.

    Raises InvalidArgumentError for anything but one known method with arguments that it allows.

    >>> parse_attribution_method("integrated_gradients(steps=20)")
    IntegratedGradients(steps=20, baseline=0.0, layer=None)
    >>> str(Occlusion(window=5, stride=5)), str(parse_attribution_method("saliency"))
    ('occlusion(window=5, stride=5)', 'saliency()')
    """
    if not isinstance(text, str):
        reject("parse_attribution_method", "text", text, "an expression such as 'saliency()' is needed")
    methods = parse_expression(text, _METHODS, "attribution method")
    if len(methods) != 1:
        raise InvalidArgumentError(f"attribution method {text!r}: name one method, not {len(methods)}")
    method: AttributionMethod = methods[0]
    if isinstance(method, SmoothGrad):
        averaged_method(method)
    return method


def as_attribution_method(method: AttributionMethod | str) -> AttributionMethod:
    """Return a method given as a value or as its expression."""
    if not isinstance(method, AttributionMethod):
        return parse_attribution_method(method)
    if isinstance(method, SmoothGrad):
        averaged_method(method)
    return method


def averaged_method(smooth: SmoothGrad) -> PlainMethod:
    """Return the method that a SmoothGrad averages; raises InvalidArgumentError unless it is one without draws."""
    methods = parse_expression(smooth.method, _PLAIN, "method for SmoothGrad")
    if len(methods) != 1:
        reject("SmoothGrad", "method", smooth.method, "name one method")
    found: PlainMethod = methods[0]
    return found


def layer_of(method: AttributionMethod) -> str | None:
    """Return the path of the layer that a method looks at, or None for the input."""
    inner = averaged_method(method) if isinstance(method, SmoothGrad) else method
    return getattr(inner, "layer", None)
