"""How similar two sets of embeddings of the same examples are, whatever their widths and coordinates."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from cp_compress.base.arguments import check_choice, check_integer, check_real, explains_keywords, reject
from cp_compress.base.batching import slices

_BLOCK_VALUES = 2**21
_ROUNDINGS = 16  # by which a mean of equal numbers may differ from them


@explains_keywords
def linear_cka(first: Tensor, second: Tensor) -> Tensor:
    """Return the linear centred kernel alignment of features (n, d) and (n, e), a scalar in [0, 1] with a gradient.

    ‖YᵀX‖² / (‖XᵀX‖ · ‖YᵀY‖) of centred features, by the smaller of Gram and covariance matrices. Kornblith et al. 2019,
    "Similarity of neural network representations revisited", section 3. Constant features give 0. Half precision is
    computed in float32.

    >>> x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    >>> round(float(linear_cka(x, 3 * x @ torch.linalg.qr(torch.randn(5, 5)).Q)), 4)
    1.0
    """
    a, b = _centred_to_unit(first), _centred_to_unit(second)
    tiny = torch.finfo(a.dtype).tiny
    if len(a) <= max(a.shape[1], b.shape[1]):
        grams = [features @ features.t() for features in (a, b)]
        shared, lengths = (grams[0] * grams[1]).sum(), [(gram * gram).sum() for gram in grams]
    else:
        shared = (b.t() @ a).square().sum()
        lengths = [(features.t() @ features).square().sum() for features in (a, b)]
    # a norm of zero, as of a single example, has no gradient
    similarity: Tensor = shared / (lengths[0].clamp_min(tiny).sqrt() * lengths[1].clamp_min(tiny).sqrt())
    return similarity


def _centred_to_unit(features: Tensor) -> Tensor:
    """Return features less their means, the largest of them 1; all 0 where they are constant but for rounding."""
    values = features.float() if features.element_size() < 4 else features
    centred = values - values.mean(0)
    sizes = [part.detach().abs().amax() for part in (centred, values)]
    rounding = _ROUNDINGS * torch.finfo(values.dtype).eps * sizes[1]
    return centred / torch.where(sizes[0] > rounding, sizes[0], torch.inf)


def unbiased_hsic(first: Tensor, second: Tensor) -> Tensor:
    """Return the unbiased Hilbert–Schmidt independence criterion of kernel matrices (n, n), n of 4 or more, a scalar.

    Song et al. 2012, "Feature selection via dependence maximization", equation 5 (HSIC₁), as the inner product of
    U-centred matrices of Székely and Rizzo 2014, "Partial distance correlation with methods for dissimilarities": so it
    is 0 or more for equal matrices, and never more than the geometric mean of the two with themselves.
    """
    n = len(first)
    return (_u_centred(first) * _u_centred(second)).sum() / (n * (n - 3))


def _u_centred(kernel: Tensor) -> Tensor:
    n = len(kernel)
    off = 1 - torch.eye(n, dtype=kernel.dtype, device=kernel.device)
    hollow = kernel * off
    means = hollow.sum(0) / (n - 2)
    return (hollow - means[:, None] - means + means.sum() / (n - 1)) * off


@explains_keywords
def unbiased_cka(first: Tensor, second: Tensor) -> Tensor:
    """Return the linear CKA of features (n, d) and (n, e) with the unbiased estimator, a scalar with a gradient.

    It is what `minibatch_cka` computes for one minibatch, in [-1, 1]: about 0 for unrelated features of any width, with
    a standard deviation of about 1.4 / n for white ones. Constant features give 0. Half precision is computed in
    float32.

    Raises InvalidArgumentError for fewer than 4 examples, for which the estimator is not defined.
    """
    n = _count("unbiased_cka", first, second)
    if n < 4:
        reject("unbiased_cka", "features", f"{n} examples", "must be of 4 examples or more")
    kernels = [features @ features.t() for features in (_centred_to_unit(first), _centred_to_unit(second))]
    shared, left, right = _hsics(*kernels)
    tiny = torch.finfo(shared.dtype).tiny
    # a norm of zero, as of constant features, has no gradient
    similarity: Tensor = shared / (left.clamp_min(tiny).sqrt() * right.clamp_min(tiny).sqrt())
    return similarity


def _hsics(a: Tensor, b: Tensor) -> Tensor:
    """Return (3,): what kernel matrices share, and what each shares with itself."""
    return torch.stack([unbiased_hsic(a, b), unbiased_hsic(a, a), unbiased_hsic(b, b)])


@explains_keywords
def minibatch_cka(
    first: Tensor,
    second: Tensor,
    *,
    kernel: str = "linear",
    minibatch: int = 256,
    bandwidth: float = 0.8,
    seed: int = 0,
) -> float:
    """Return the centred kernel alignment of features (n, d) and (n, e) from minibatches.

    Σ HSIC(K, L) / √(Σ HSIC(K, K) · Σ HSIC(L, L)) over minibatches of nearly equal size, with the unbiased estimator:
    its expectation does not depend on the minibatch size, and no matrix is larger than a minibatch. Nguyen, Raghu and
    Kornblith 2021, "Do wide and deep networks learn the same things?", equation 3.

    Args:
        first: Features (n, d).
        second: Features (n, e) of the same examples.
        kernel: "linear", or "rbf" for exp(−‖x − y‖² / 2σ²).
        minibatch: The largest size of a minibatch, 4 or more.
        bandwidth: σ of the kernel "rbf", relative to the median distance in the first minibatch that has any distance
            above 0; distances of 0 are left out if they are half of all or more.
        seed: The seed of the minibatches.

    Returns:
        About 0 for unrelated features (it may be slightly negative), 1 for equal ones; NaN for fewer than 4 examples
        and for constant features.

    Raises:
        InvalidArgumentError: If the features are not of the same examples, or another argument is not as described.
    """
    owner = "minibatch_cka"
    check_choice(owner, "kernel", kernel, ("linear", "rbf"))
    size = check_integer(owner, "minibatch", minibatch, "must be a whole number of 4 or more", at_least=4)
    check_real(owner, "bandwidth", bandwidth, "must be a positive share of the median distance", above=0)
    n = _count(owner, first, second)
    if n < 4:
        return math.nan
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    widths: list[float | None] = [None, None]
    means = [features.mean(0, dtype=torch.float64) for features in (first, second)]
    sums = torch.zeros(3, dtype=torch.float64)
    for rows in order.tensor_split(min(math.ceil(n / size), n // 4)):
        kernels = []
        for side, features in enumerate((first, second)):
            part = _less_mean(features[rows].double(), means[side])
            if kernel == "linear":
                kernels.append(part @ part.t())
                continue
            # exact for rows that are equal, which a product of matrices is not
            distances = torch.cdist(part, part, compute_mode="donot_use_mm_for_euclid_dist")
            widths[side] = widths[side] or bandwidth * _median_distance(distances)
            width = widths[side]
            # of equal rows the kernel is constant, which is worth as much as none
            kernels.append(torch.exp(-(distances / width).square() / 2) if width else torch.zeros_like(distances))
        a, b = kernels
        sums += _hsics(a, b).cpu()
    shared, left, right = sums.tolist()
    return shared / (math.sqrt(left) * math.sqrt(right)) if left > 0 and right > 0 else math.nan


def _less_mean(part: Tensor, mean: Tensor) -> Tensor:
    """Return features less their means, 0 where they are constant but for rounding."""
    centred = part - mean
    rounding = _ROUNDINGS * torch.finfo(part.dtype).eps * float(mean.abs().amax())
    return centred if float(centred.abs().amax()) > rounding else torch.zeros_like(centred)


def _median_distance(distances: Tensor) -> float:
    """Return the median of a matrix's entries beside the diagonal, of those above 0 where it is 0 otherwise."""
    apart = distances[~torch.eye(len(distances), dtype=torch.bool)].cpu().numpy()
    median = float(np.median(apart))
    return median if median > 0 or not apart.any() else float(np.median(apart[apart > 0]))


def paired_angles(first: Tensor, second: Tensor) -> Tensor:
    """Return the angle (n,) between each pair of rows of (n, d), float64 radians in [0, π].

    Two zero vectors are at angle 0, one at π/2. By Kahan's formula, which is exact for small angles too.
    """
    _count("paired_angles", first, second)
    if first.shape != second.shape:
        reject(
            "paired_angles", "second", tuple(second.shape), f"rows must have one width; first is {tuple(first.shape)}"
        )
    a, b = first.double(), second.double()
    lengths = [torch.linalg.vector_norm(rows, dim=1, keepdim=True) for rows in (a, b)]
    u, v = (rows / length.clamp_min(1e-300) for rows, length in zip((a, b), lengths, strict=True))
    angles = 2 * torch.atan2(torch.linalg.vector_norm(u - v, dim=1), torch.linalg.vector_norm(u + v, dim=1))
    none = torch.cat(lengths, dim=1) == 0
    angles[none.any(dim=1)] = math.pi / 2
    angles[none.all(dim=1)] = 0.0
    return angles


def nearest_neighbors(features: Tensor, neighbors: int) -> Tensor:
    """Return the indices (n, neighbors) of the rows of (n, d) at the largest cosine to each row, itself left out.

    Equal cosines are ordered by index. The n × n matrix is made in blocks.
    """
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    found = []
    for part in slices(len(unit), max(1, _BLOCK_VALUES // len(unit))):
        cosines = unit[part] @ unit.t()
        rows = torch.arange(part.start, part.stop)
        cosines[rows - part.start, rows] = -torch.inf
        # a copy: a view would keep every block's whole order
        found.append(cosines.sort(dim=1, descending=True, stable=True).indices[:, :neighbors].clone())
    return torch.cat(found)


def neighbor_overlap(first: Tensor, second: Tensor, neighbors: int = 10) -> Tensor:
    """Return for each of n examples the share (n,) of its nearest neighbours, by cosine, that both embeddings have.

    `first` (n, d) and `second` (n, e) may differ in width. Chance level: neighbors / (n − 1). Raises
    InvalidArgumentError for `neighbors` outside 1 to n − 2: with all others as neighbours every overlap is 1.
    """
    n = _count("neighbor_overlap", first, second)
    rule = f"must be a whole number in 1..{n - 2}: with all {n} examples as neighbours every overlap is 1"
    check_integer("neighbor_overlap", "neighbors", neighbors, rule, at_least=1, at_most=n - 2)
    a, b = (nearest_neighbors(features, neighbors) for features in (first, second))
    return (a[:, :, None] == b[:, None, :]).any(dim=2).double().mean(dim=1)


def angular_visual_hardness(features: Tensor, class_weights: Tensor, labels: Tensor) -> Tensor:
    """Return the angle to the own class's weights over the sum of those to all classes' (n,), float64 in [0, 1].

    `features` (n, d), `class_weights` (classes, d), `labels` (n,). Chen et al. 2020, "Angular visual hardness",
    definition 1.
    """
    unit, weights = (torch.nn.functional.normalize(rows.double(), dim=1) for rows in (features, class_weights))
    angles = torch.acos((unit @ weights.t()).clamp(-1, 1))
    total = angles.sum(dim=1).clamp_min(1e-300)
    return angles.gather(1, labels[:, None]).squeeze(1) / total


def procrustes_distance(first: Tensor, second: Tensor) -> float:
    """Return 1 − ‖XᵀY‖₊ of centred features (n, d) and (n, e) of unit Frobenius norm, in [0, 1].

    ‖·‖₊ is the sum of singular values: half the squared distance that is left after the best rotation and reflection
    (Schönemann 1966; Ding et al. 2021, "Grounding representation similarity with statistical testing"). NaN for
    constant features.
    """
    _count("procrustes_distance", first, second)
    a, b = (features.double() - features.double().mean(0) for features in (first, second))
    lengths = float(torch.linalg.norm(a)) * float(torch.linalg.norm(b))
    if lengths == 0:
        return math.nan
    left, right = (_factor(features) for features in (a, b))
    distance = 1 - float(torch.linalg.svdvals(left @ right.t()).sum()) / lengths
    return min(1.0, max(0.0, distance))


def _factor(features: Tensor) -> Tensor:
    """Return a matrix (min(n, d), n) that is the transpose of features (n, d) but for a rotation."""
    if len(features) >= features.shape[1]:
        return features.t()
    triangle: Tensor = torch.linalg.qr(features.t(), mode="r").R
    return triangle


def _count(owner: str, first: Tensor, second: Tensor) -> int:
    for name, features in (("first", first), ("second", second)):
        if not isinstance(features, Tensor) or features.ndim != 2 or not features.is_floating_point():
            found = f"{features.dtype} {tuple(features.shape)}" if isinstance(features, Tensor) else features
            reject(owner, name, found, "features are a floating-point tensor (n, width)")
    if len(first) != len(second):
        reject(owner, "second", tuple(second.shape), f"both must be of the same {len(first)} examples")
    return len(first)
