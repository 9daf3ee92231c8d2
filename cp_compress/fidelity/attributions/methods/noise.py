"""Attribution averaged over random draws, which are the same for all examples and both models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cp_compress.base.arguments import check_choice
from cp_compress.fidelity.attributions.methods.fields import MethodText, set_count, set_real, set_seed

_DEVIATION_RULE = "deviation is the standard deviation of the noise in units of the input: a number of 0 or more"


@dataclass(frozen=True)
class SmoothGrad(MethodText):
    """The mean of a method's maps over inputs with Gaussian noise added (Smilkov et al. 2017).

    `samples` patterns of noise with the standard `deviation`, in units of the input, are drawn by `seed` and added to
    every example, in both models. `method` is the expression of what is averaged, such as "saliency".
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


@dataclass(frozen=True)
class GradientShap(MethodText):
    """Expected gradients between baselines and noisy inputs, an approximation of SHAP values (Lundberg and Lee 2017).

    For each of `samples` draws, Gaussian noise of standard `deviation` (in units of the input) is added to the
    example, a point is taken at random between it and a baseline, and the gradient there is multiplied by the way
    from the baseline. `baselines` is "data", an example of the data set for each draw, or "zero". `seed` draws
    noise, points and baselines, the same for all examples and both models.
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
