"""Several processes that train one model: each computes its share of every batch, and all end with the same weights.

The gradients are summed by one call per step after the backward pass, not by `DistributedDataParallel`, whose hooks
allow neither second derivatives (attribution matching) nor weights that are exchanged for one step (rounding).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as distributed
from torch import Tensor, nn


def world() -> tuple[int, int]:
    """Return this process' rank and the number of processes: (0, 1) where no process group was started."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of all processes, in place, in one call for each dtype."""
    if world()[1] == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is None:  # another process may have one
                parameter.grad = torch.zeros_like(parameter)
            by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in by_dtype.values():
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def sum_values(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes."""
    if world()[1] > 1:
        values = values.clone()
        distributed.all_reduce(values)
    return values


def share_buffers(model: nn.Module) -> None:
    """Give every process the buffers of the first one, such as running statistics."""
    if world()[1] > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


def wait_for_all() -> None:
    """Wait until every process has come here."""
    if world()[1] > 1:
        distributed.barrier()
