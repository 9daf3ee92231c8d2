"""How much two attribution maps have in common: the weighted Jaccard index, of positive and of signed maps."""

from __future__ import annotations

import torch
from torch import Tensor

from cp_compress.base.arguments import explains_keywords, reject


@explains_keywords
def weighted_jaccard(first: Tensor, second: Tensor) -> Tensor:
    """Return Σ min(a, b) / Σ max(a, b) of maps that are nowhere negative.

    `first` and `second` are maps (n, ...) of one shape and any real dtype; the result (n,) is float64 in [0, 1]: 1
    for equal maps, 0 for maps that are nowhere both positive. Two all-zero maps give 1, one all-zero map 0. The maps
    are taken as they are, without normalisation (Ružička 1958).

    Raises InvalidArgumentError for maps of different shapes, NaN, infinite and negative values: on signed maps
    this quotient is no similarity, because it leaves [0, 1]; use `split_jaccard` for those.

    >>> weighted_jaccard(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 3.0]])).tolist()
    [0.5]
    """
    a, b = as_map_rows("weighted_jaccard", first, second)
    for name, rows in (("first", a), ("second", b)):
        if bool((rows < 0).any()):
            reject("weighted_jaccard", name, float(rows.min()), "values must not be negative; use split_jaccard")
    largest = torch.maximum(a.amax(dim=1), b.amax(dim=1)).clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    # values near the limits of the dtype would overflow, or vanish, in the sums
    a, b = a / largest, b / largest
    union = torch.maximum(a, b).sum(dim=1)
    return torch.where(union > 0, torch.minimum(a, b).sum(dim=1) / union, torch.ones_like(union))


@explains_keywords
def split_jaccard(first: Tensor, second: Tensor) -> Tensor:
    """Return the weighted Jaccard index of signed maps, each split into its positive and its negative part.

    Each value v becomes (max(v, 0), max(−v, 0)), each map is scaled to an absolute sum of 1, and the index is
    Σ min / Σ max over both parts. `first` and `second` are maps (n, ...) of one shape; the result (n,) is float64
    in [0, 1] and does not depend on either map's scale: 1 for equal maps, 0 for maps that nowhere agree in place
    and sign. Two all-zero maps give 1, one all-zero map 0.

    Raises InvalidArgumentError for maps of different shapes, NaN and infinite values.

    >>> a, b = torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0, 2.0]])
    >>> split_jaccard(a, b).tolist(), split_jaccard(a, 3 * a).tolist()
    ([0.333...], [1.0])
    """
    a, b = as_map_rows("split_jaccard", first, second)
    return jaccard_of_units(unit_maps(a), unit_maps(b))


def unit_maps(maps: Tensor) -> Tensor:
    """Return maps (n, ...) as float64 rows (n, values) with an absolute sum of 1; all-zero maps stay zero."""
    return signed_units(maps.detach().to(torch.float64))


def signed_units(maps: Tensor) -> Tensor:
    """Return maps (n, ...) as rows (n, values) with an absolute sum of 1, in their dtype and with their gradients."""
    rows = maps.flatten(1)
    if rows.shape[1] == 0:
        return rows
    rows = rows / rows.detach().abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    total = rows.abs().sum(dim=1, keepdim=True)
    return rows / torch.where(total > 0, total, torch.ones_like(total))


def jaccard_of_units(a: Tensor, b: Tensor) -> Tensor:
    """Return the split Jaccard index (n,) of maps from `unit_maps`.

    Over both parts Σ min + Σ max = 2 and Σ max − Σ min = ‖a − b‖₁ = D, so the index is (2 − D) / (2 + D): one pass.
    """
    distance = (a - b).abs_().sum(dim=1).clamp_max_(2.0)
    zero_a, zero_b = ~a.any(dim=1), ~b.any(dim=1)
    index = (2 - distance) / (2 + distance)
    return torch.where(zero_a | zero_b, (zero_a & zero_b).to(index.dtype), index)


def as_map_rows(owner: str, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two sets of maps (n, ...) as float64 rows (n, values), on the device of the first.

    Raises InvalidArgumentError for maps of different shapes, without examples, complex, NaN or infinite.
    """
    for name, maps in (("first", first), ("second", second)):
        if not isinstance(maps, Tensor) or maps.ndim < 2 or maps[0:1].numel() == 0 or maps.is_complex():
            found = f"{maps.dtype} {tuple(maps.shape)}" if isinstance(maps, Tensor) else maps
            reject(owner, name, found, "maps are a real tensor (n, ...) of one example or more")
        if not bool(torch.isfinite(maps).all()):
            reject(owner, name, tuple(maps.shape), "maps hold NaN or infinite values")
    if first.shape != second.shape:
        reject(owner, "second", tuple(second.shape), f"maps must have one shape; first has {tuple(first.shape)}")
    a, b = (maps.detach().to(torch.float64).flatten(1) for maps in (first, second))
    return a, b.to(a.device)
