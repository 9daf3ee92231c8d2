"""The exact choice of the largest magnitudes among many tensors, without sorting anything.

The bit pattern of |x| grows with |x|. A histogram of its upper 16 bits finds the bucket that holds the smallest
survivor, a histogram of the next 16 bits inside that bucket narrows it down, and so on until the pattern is known:
two readings for float32, four for float64, in pieces that fit the cache. Ties at the threshold are kept first by
index: the order of the tensors, then the row-major order inside each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, explains_keywords, reject

_DIGIT = 16
_CPU_PIECE = 1 << 18
_DEVICE_PIECE = 1 << 24  # few, large launches; the extra memory stays below 0.3 GB


@dataclass(frozen=True)
class Threshold:
    """The smallest surviving magnitude, how many equal to it survive, and how many equal to it there are."""

    value: float
    kept_ties: int
    ties: int
    dtype: torch.dtype


@explains_keywords
def keep_largest(tensors: Sequence[Tensor], count: int) -> list[Tensor]:
    """Return a boolean mask for each floating-point tensor; together they mark the `count` largest magnitudes.

    Ties are kept first by index. Raises InvalidArgumentError unless 0 ≤ count ≤ the number of elements. NaN is
    not allowed and not looked for.

    >>> keep_largest([torch.tensor([3.0, -4.0]), torch.tensor([3.0])], 2)
    [tensor([True, True]), tensor([False])]
    """
    threshold = _find_threshold(tensors, count)
    masks = [torch.empty(tensor.shape, dtype=torch.bool, device=tensor.device) for tensor in tensors]
    left = threshold.kept_ties
    for tensor, mask in zip(tensors, masks, strict=True):
        flat = mask.view(-1)
        for start, piece in _pieces(tensor, threshold.dtype):
            kept, left = _survivors(piece, threshold, left)
            flat[start : start + len(piece)] = kept
    return masks


def zero_all_but_largest(tensors: Sequence[Tensor], count: int) -> None:
    """Set to zero, in place, everything but the `count` largest magnitudes; the rule is that of `keep_largest`."""
    threshold = _find_threshold(tensors, count)
    left = threshold.kept_ties
    with torch.no_grad():
        for tensor in tensors:
            flat = tensor.detach().contiguous().view(-1)
            for start, piece in _pieces(flat, threshold.dtype):
                target = flat[start : start + len(piece)]
                if threshold.kept_ties == threshold.ties and target.dtype == threshold.dtype:
                    _shrink(target, threshold)
                else:
                    kept, left = _survivors(piece, threshold, left)
                    target.masked_fill_(kept.logical_not_(), 0)
            if not tensor.is_contiguous():
                tensor.detach().copy_(flat.view(tensor.shape))


def _shrink(values: Tensor, threshold: Threshold) -> None:
    # one pass for both tests and the writing: hardshrink keeps what is strictly beyond its bound
    if threshold.value > 0:
        below = torch.nextafter(torch.tensor(threshold.value, dtype=values.dtype), torch.zeros((), dtype=values.dtype))
        torch.hardshrink(values, below.item(), out=values)


def _survivors(piece: Tensor, threshold: Threshold, left: int) -> tuple[Tensor, int]:
    magnitudes = piece.abs()
    kept = magnitudes > threshold.value
    equal = magnitudes == threshold.value
    found = int(equal.sum())
    if found <= left:
        return kept.logical_or_(equal), left - found
    kept[equal.nonzero()[:left, 0]] = True
    return kept, 0


def _find_threshold(tensors: Sequence[Tensor], count: int) -> Threshold:
    for tensor in tensors:
        if not tensor.is_floating_point() or tensor.element_size() == 1:
            reject(
                "keep_largest", "tensors", tensor.dtype, "magnitudes are compared in float16, bfloat16, 32 or 64 bits"
            )
    total = sum(tensor.numel() for tensor in tensors)
    rule = f"must be a whole number from 0 to the number of elements, {total}"
    left = check_integer("keep_largest", "count", count, rule, at_least=0, at_most=total)
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    if left == 0:
        return Threshold(torch.inf, 0, 0, dtype)
    prefix, ties = 0, 0
    for shift in range(torch.finfo(dtype).bits - _DIGIT, -1, -_DIGIT):
        histogram = _count_digits(tensors, dtype, shift, prefix)
        beyond = histogram.flip(0).cumsum(0)
        position = int(torch.searchsorted(beyond, left))
        digit = len(histogram) - 1 - position
        ties = int(histogram[digit])
        left -= int(beyond[position]) - ties
        prefix = prefix << _DIGIT | digit
    pattern = torch.tensor(prefix, dtype=_integers(dtype))
    return Threshold(pattern.view(dtype).item(), left, ties, dtype)


def _count_digits(tensors: Sequence[Tensor], dtype: torch.dtype, shift: int, prefix: int) -> Tensor:
    """Return how often each digit occurs at `shift` among the magnitudes whose bits above it are `prefix`."""
    histogram = torch.zeros(1 << _DIGIT, dtype=torch.int64)
    waiting: list[Tensor] = []
    for tensor in tensors:
        for _, piece in _pieces(tensor, dtype):
            digits = _digits(piece, shift, prefix)
            # counting costs as much as the table is long: wait until there is enough to count
            if waiting and (sum(map(len, waiting)) + len(digits) > _CPU_PIECE or digits.device != waiting[0].device):
                histogram += torch.bincount(torch.cat(waiting), minlength=1 << _DIGIT).cpu()
                waiting = []
            waiting.append(digits)
    if waiting:
        histogram += torch.bincount(torch.cat(waiting), minlength=1 << _DIGIT).cpu()
    return histogram


def _digits(piece: Tensor, shift: int, prefix: int) -> Tensor:
    top = torch.finfo(piece.dtype).bits - _DIGIT
    bits = piece.view(_integers(piece.dtype))
    mask = (1 << _DIGIT) - 1
    if shift == top:  # the sign bit is dropped here, and with it from every prefix
        return torch.bitwise_right_shift(bits, shift).bitwise_and_(mask >> 1)
    above = torch.bitwise_right_shift(bits, shift + _DIGIT).bitwise_and_((1 << (top - shift - 1)) - 1)
    return torch.bitwise_right_shift(bits[above == prefix], shift).bitwise_and_(mask)


def _pieces(tensor: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """Yield (start, piece) over the row-major elements of a tensor, each piece of the given, never narrower, dtype."""
    flat = tensor.detach().contiguous().view(-1)
    size = _CPU_PIECE if tensor.device.type == "cpu" else _DEVICE_PIECE
    for start in range(0, len(flat), size):
        yield start, flat[start : start + size].to(dtype)


def _integers(dtype: torch.dtype) -> torch.dtype:
    return torch.int32 if dtype == torch.float32 else torch.int64
