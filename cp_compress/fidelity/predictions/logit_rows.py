"""What rows of logits of two models say of each other, found in one pass over many classes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cp_compress.base.batching import slices
from cp_compress.base.largest import largest_by_block

# tensors of this size stay in a CPU's caches, and their memory is used again instead of being asked for anew
_CPU_VALUES, _ACCELERATOR_VALUES = 2**18, 2**24
_LN2 = math.log(2)


@dataclass(frozen=True, eq=False)
class RowChanges:
    """What one pass over rows of logits of two models, `before` and `after`, finds.

    Attributes:
        kl: KL(before ‖ after), (rows,), in nats.
        log_totals: The logarithms (2, rows), float64, of the sums of the exponentials of the logits.
        heads: The largest (2, rows, blocks) of the logits of each block of `BLOCK` classes.
        distance: The L2 distance (rows,) of the logits, each row less its mean, where it was asked for.
    """

    kl: Tensor
    log_totals: Tensor
    heads: Tensor
    distance: Tensor | None = None


def pass_over(before: Tensor, after: Tensor, rows: Tensor, *, distance: bool = False) -> RowChanges:
    """Return what rows (k,) of logits (n, classes) say; each is read from memory once, all else happens in the cache.

    With a and b the logits less the largest of their row, and A and B the sums of their exponentials, KL is
    Σ eᵃ · (a − b) / A − log(A / B): the terms that weigh most are those with the least rounding.
    In float32 (float64 of float64 logits) it is within 2e-6 nats, or 2e-6 of itself.
    """
    size = before.shape[1]
    values = _CPU_VALUES if before.device.type == "cpu" else _ACCELERATOR_VALUES
    step = min(len(rows), max(1, values // size))
    dtype = torch.float64 if torch.float64 in (before.dtype, after.dtype) else torch.float32
    space = torch.empty(3, step, size, dtype=dtype, device=before.device)
    sums, totals, heads, distances = [], [], [], []
    for part in slices(len(rows), step):
        some = rows[part]
        *pair, moved = space[:, : len(some)].unbind()
        for logits, into in zip((before, after), pair, strict=True):
            read = _read(logits, some).to(dtype)
            heads.append(largest_by_block(read))
            # in units of ln 2, because powers of two take half the time of exponentials
            torch.sub(read, heads[-1].amax(dim=1, keepdim=True), out=into).mul_(1 / _LN2)
        torch.sub(*pair, out=moved)
        totals += [each.exp2_().sum(dim=1) for each in pair]
        sums.append(pair[0].mul_(moved).sum(dim=1))
        if distance:
            distances.append(torch.linalg.vector_norm(moved.sub_(moved.mean(dim=1, keepdim=True)), dim=1))
    total, largest = (torch.stack([torch.cat(each[::2]), torch.cat(each[1::2])]) for each in (totals, heads))
    kl = _LN2 * torch.cat(sums) / total[0] - (total[0] / total[1]).log()
    log_totals = total.double().log() + largest.amax(dim=2)
    return RowChanges(kl, log_totals, largest, _LN2 * torch.cat(distances) if distance else None)


def _read(logits: Tensor, rows: Tensor) -> Tensor:
    """Return rows (k,) of logits, without copying them where they follow each other."""
    first, last = int(rows[0]), int(rows[-1])
    return logits[first : last + 1] if last - first + 1 == len(rows) else logits[rows]
