"""Weights of loss terms, found during training: one Lagrange multiplier for each constraint, by dual ascent."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MEMORY = 0.9


class Multipliers:
    """Multipliers λ ≥ 0 of the constraints value ≤ bound.

    After each step λ ← max(0, λ + rate · clip(v/bound − 1, −1, 1)) with v the running mean of the term's values: a
    violated constraint gains weight by at most `rate` a step, and loses it as slowly once it holds.
    """

    def __init__(self, bounds: Sequence[float], rate: float, start: float = 1.0) -> None:
        self._bounds = torch.tensor(bounds, dtype=torch.float64)
        self._rate = rate
        self.values = torch.full((len(bounds),), start, dtype=torch.float64)
        self.means: Tensor | None = None

    def combine(self, loss: Tensor, terms: Sequence[Tensor]) -> Tensor:
        """Return (loss + Σ λ_i · (term_i − bound_i)) / (1 + Σ λ_i).

        Divided, it has the minimum of the Lagrangian at gradients that do not grow with the multipliers: else a
        constraint that cannot be met would in effect raise the learning rate without end.
        """
        total = loss
        for weight, term, bound in zip(self.values.tolist(), terms, self._bounds.tolist(), strict=True):
            total = total + weight * (term - bound)
        return total / (1 + float(self.values.sum()))

    def update(self, found: Tensor) -> None:
        """Move the multipliers by the values (terms,) of one step."""
        if len(self.values) == 0:
            return
        found = found.double().cpu()
        self.means = found if self.means is None else _MEMORY * self.means + (1 - _MEMORY) * found
        excess = (self.means / self._bounds - 1).clamp(-1, 1)
        self.values = (self.values + self._rate * excess).clamp_min(0)

    def state(self) -> dict[str, Tensor | None]:
        """Return what `restore` needs."""
        return {"values": self.values, "means": self.means}

    def restore(self, state: dict[str, Tensor | None]) -> None:
        """Go on from a state."""
        values = state["values"]
        assert values is not None
        self.values, self.means = values, state["means"]
