"""How a model reaches what a scheme can express during training: at once, step by step, or by a penalty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cp_compress.base.arguments import check_integer, check_real, explains_keywords
from cp_compress.base.showing.describing import Written


@explains_keywords
@dataclass(frozen=True, repr=False)
class Direct(Written):
    """Compress first, then train the rest: zeros stay zero, rounded numbers are trained through the rounding."""

    expression_name: ClassVar[str] = "direct"
    positional_fields: ClassVar[tuple[str, ...]] = ()


@explains_keywords
@dataclass(frozen=True, repr=False)
class Gradual(Written):
    """Lower the density from 1 to the scheme's along a cubic curve, every `every` steps, then train the remaining
    weights.

    After the fraction x of the first `share` of all steps the density is 1 − (1 − d)(1 − (1 − x)³): Zhu and Gupta 2017,
    "To prune, or not to prune". For schemes with a density that do not remove channels.
    """

    share: float = 0.7
    every: int = 10

    expression_name: ClassVar[str] = "gradual"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        rule = "share is the part of all steps in which the density falls, a number in (0, 1]"
        object.__setattr__(self, "share", check_real("Gradual", "share", self.share, rule, above=0, at_most=1))
        rule = "every is the number of steps between two changes of the density, a whole number of 1 or more"
        object.__setattr__(self, "every", check_integer("Gradual", "every", self.every, rule, at_least=1))

    def progress(self, step: int, total: int) -> float | None:
        """Return the share of 1 − d that is dropped before a step (from 0), or None when nothing changes there."""
        last = self.last_change(total)
        if step > last or (step % self.every and step != last):
            return None
        return 1.0 - (1.0 - step / last) ** 3 if last else 1.0

    def last_change(self, total: int) -> int:
        """Return the step before which the scheme's own density is reached."""
        return min(total - 1, round(self.share * total))


@explains_keywords
@dataclass(frozen=True, repr=False)
class LC(Written):
    """Learning-compression: train freely, drawn towards the closest compressed model by an augmented Lagrangian.

    The L step minimises loss + μ/2‖w − θ‖² − λᵀ(w − θ) for `every` training steps; the C step sets θ = Π(w − λ/μ), the
    scheme's projection, then λ ← λ − μ(w − θ), and μ grows. It starts from direct compression, θ = Π(w) with λ = 0.
    After the free steps the model becomes θ, and the rest is trained as by `Direct`. Carreira-Perpiñán 2017, "Model
    compression as constrained optimization".

    The penalty is made for plain gradient descent: optimisers that scale gradients, such as Adam, scale it away. The
    largest stable step is about 4 / `largest_mu` with a momentum of 0.9.

    Args:
        mu: The first weight μ of the penalty, above 0.
        growth: The factor of μ after each C step, 1 or more; None for the factor with which μ reaches `largest_mu` at
            the end of the free steps.
        every: The number of training steps between two C steps.
        largest_mu: The largest weight of the penalty, not below `mu`.
        fine_tuning: The last fraction of all steps, in [0, 1), in which the model is θ and zeros stay zero.

    Raises:
        InvalidArgumentError: If an argument is out of its range.
    """

    mu: float = 0.1
    growth: float | None = None
    every: int = 10
    largest_mu: float = 10.0
    fine_tuning: float = 0.25

    expression_name: ClassVar[str] = "lc"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for name in ("mu", "largest_mu"):
            rule = f"{name} is a weight of the penalty, a number above 0"
            object.__setattr__(self, name, check_real("LC", name, getattr(self, name), rule, above=0))
        rule = f"largest_mu is the last weight of the penalty, not below mu={self.mu:g}"
        check_real("LC", "largest_mu", self.largest_mu, rule, at_least=self.mu)
        if self.growth is not None:
            rule = "growth is the factor of μ after each C step, a number of 1 or more, or None"
            object.__setattr__(self, "growth", check_real("LC", "growth", self.growth, rule, at_least=1))
        rule = "every is the number of steps between two C steps, a whole number of 1 or more"
        object.__setattr__(self, "every", check_integer("LC", "every", self.every, rule, at_least=1))
        rule = "fine_tuning is the last share of all steps, in which zeros are held, a number in [0, 1)"
        check_real("LC", "fine_tuning", self.fine_tuning, rule, at_least=0, below=1)

    def free_steps(self, total: int) -> int:
        """Return the number of steps before the model becomes θ."""
        return max(1, total - round(self.fine_tuning * total))

    def weight(self, compressions: int, total: int) -> float:
        """Return μ after a number of C steps."""
        rounds = max(1, (self.free_steps(total) - 1) // self.every)
        factor = self.growth or (self.largest_mu / self.mu) ** (1 / rounds)
        return float(min(self.mu * factor**compressions, self.largest_mu))


Method = Direct | Gradual | LC
