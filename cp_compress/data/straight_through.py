"""Gradients through rounding, which has none: the backward pass treats it as the identity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, batch: Tensor, result: Tensor) -> Tensor:
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


def straight_through(batch: Tensor, result: Tensor) -> Tensor:
    """Return `result`, computed from a batch of its shape and dtype, with its gradient passed on to the batch.

    The straight-through estimator: Bengio et al., "Estimating or Propagating Gradients", 2013.

    >>> batch = torch.tensor([0.4, 1.7], requires_grad=True)
    >>> straight_through(batch, batch.detach().round()).sum().backward()
    >>> batch.grad
    tensor([1., 1.])
    """
    if not (batch.requires_grad and torch.is_grad_enabled()):
        return result
    found: Tensor = _StraightThrough.apply(batch, result)
    return found
