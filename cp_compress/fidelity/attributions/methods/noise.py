"""Attribution averaged over random draws, which are the same for all examples and both models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cp_compress.base.arguments import check_choice, explains_keywords
from cp_compress.fidelity.attributions.methods.averaging import mean_of, noise_patterns, seeded
from cp_compress.fidelity.attributions.methods.captum_calls import attr
from cp_compress.fidelity.attributions.methods.fields import set_count, set_real, set_seed
from cp_compress.fidelity.attributions.methods.known import method_without_draws
from cp_compress.fidelity.attributions.methods.method import AttributionMethod, AttributionSubject, Maps, leaf
from cp_compress.inputs.reading import LabeledData

_DEVIATION_RULE = "deviation is the standard deviation of the noise in units of the input: a number of 0 or more"


@explains_keywords
@dataclass(frozen=True, repr=False)
class SmoothGrad(AttributionMethod):
    """The mean of a method's maps over inputs with Gaussian noise added (Smilkov et al. 2017).

    The same patterns of noise are added to every example, in both models.

    Args:
        samples: The number of noise patterns, 1 or more.
        deviation: The standard deviation of the noise in units of the input, above 0.
        method: The method whose maps are averaged, or its expression; one without random draws.
        seed: Draws the noise, a whole number of 0 or more.

    Raises:
        InvalidArgumentError: An argument is out of its range.
    """

    samples: int = 16
    deviation: float = 0.1
    method: str = "saliency"
    seed: int = 0
    expression_name: ClassVar[str] = "smooth_grad"

    def __post_init__(self) -> None:
        set_count(self, "samples", "noise patterns")
        set_real(self, "deviation", _DEVIATION_RULE, above=0)
        set_seed(self)
        if not isinstance(self.method, str):  # a method as a value
            object.__setattr__(self, "method", str(self.method))

    @property
    def inner(self) -> AttributionMethod:
        """The method that is averaged; raises InvalidArgumentError unless it is one without random draws."""
        return method_without_draws("SmoothGrad", self.method)

    def draws(self, data: LabeledData, input_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Return the patterns of `noise` (samples, *input_shape)."""
        return {"noise": noise_patterns(self.samples, self.deviation, input_shape, seeded(self.seed))}

    def attribute(self, subject: AttributionSubject, inputs: Tensor, target: Tensor) -> Maps:
        """Return the mean maps, and the mean changes of the logits where the averaged method gives those."""
        inner = self.inner
        moved = (leaf(inputs + noise) for noise in subject.draws["noise"].to(inputs))
        return mean_of(inner.attribute(subject, point, target) for point in moved)


@explains_keywords
@dataclass(frozen=True, repr=False)
class GradientShap(AttributionMethod):
    """Expected gradients between baselines and noisy inputs, an approximation of SHAP values (Lundberg and Lee 2017).

    For each draw, Gaussian noise is added to the example, a point is taken at random between it and a baseline, and the
    gradient there is multiplied by the difference between example and baseline. The draws are the same for all
    examples and both models.

    Args:
        samples: The number of draws, 1 or more.
        deviation: The standard deviation of the noise in units of the input, 0 or more.
        baselines: "data", an example of the data set for each draw, or "zero".
        seed: Draws noise, points and baselines, a whole number of 0 or more.

    Raises:
        InvalidArgumentError: An argument is out of its range.
    """

    samples: int = 16
    deviation: float = 0.0
    baselines: str = "data"
    seed: int = 0
    expression_name: ClassVar[str] = "gradient_shap"

    def __post_init__(self) -> None:
        set_count(self, "samples", "draws")
        set_real(self, "deviation", _DEVIATION_RULE, at_least=0)
        check_choice("GradientShap", "baselines", self.baselines, ("data", "zero"))
        set_seed(self)

    def draws(self, data: LabeledData, input_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Return `noise` and `baselines` (samples, *input_shape), and `shares` (samples,) of the way between."""
        generator = seeded(self.seed)
        chosen = torch.randint(len(data), (self.samples,), generator=generator)
        shares = torch.rand(self.samples, generator=generator)
        noise = noise_patterns(self.samples, self.deviation, input_shape, generator)
        baselines = data.inputs(chosen) if self.baselines == "data" else torch.zeros_like(noise)
        return {"noise": noise, "baselines": baselines, "shares": shares}

    def attribute(self, subject: AttributionSubject, inputs: Tensor, target: Tensor) -> Maps:
        """Return the mean products of the gradient and the difference from the baseline."""
        gradient = attr.Saliency(subject.logits)

        def one(noise: Tensor, baseline: Tensor, share: Tensor) -> Tensor:
            way = (inputs + noise - baseline).detach()
            found: Tensor = gradient.attribute(
                leaf(baseline + share * way), target=target, abs=False, additional_forward_args=subject.beside
            )
            return found * way

        drawn = (subject.draws[name].to(inputs) for name in ("noise", "baselines", "shares"))
        return mean_of(one(*parts) for parts in zip(*drawn, strict=True))
