"""Measures of embeddings against their definitions written out, SciPy, scikit-learn, and the laws that they obey."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.fidelity.embeddings.similarity import (
    angular_visual_hardness,
    linear_cka,
    minibatch_cka,
    nearest_neighbors,
    neighbor_overlap,
    paired_angles,
    procrustes_distance,
    unbiased_cka,
    unbiased_hsic,
)


def features(count, width, seed):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(count=120, first=8, second=5, seed=0):
    x = features(count, first, seed)
    return x, x @ features(first, second, seed + 1) + 0.5 * features(count, second, seed + 2)


@pytest.mark.parametrize(("count", "widths"), [(40, (6, 9)), (7, (20, 30)), (12, (3, 40))])
def test_linear_cka_is_that_of_centred_gram_matrices(count, widths):
    x, y = features(count, widths[0], 1), features(count, widths[1], 2)
    centring = np.eye(count) - np.ones((count, count)) / count
    k, m = (centring @ (f.numpy() @ f.numpy().T) @ centring for f in (x, y))
    expected = np.trace(k @ m) / math.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert float(linear_cka(x, y)) == pytest.approx(expected, rel=1e-10)


def test_unbiased_hsic_is_the_mean_over_all_quadruples():
    n = 7
    kernels = [f @ f.t() for f in (features(n, 3, 3), features(n, 4, 4))]
    k, m = (kernel.numpy() for kernel in kernels)
    total, count = 0.0, 0
    for i, j, q, r in itertools.permutations(range(n), 4):
        total += k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
        count += 1
    assert float(unbiased_hsic(*kernels)) == pytest.approx(total / count, rel=1e-9)


def test_one_minibatch_is_the_full_estimate():
    x, y = related(60)
    a, b = x @ x.t(), y @ y.t()
    expected = unbiased_hsic(a, b) / (unbiased_hsic(a, a) * unbiased_hsic(b, b)).sqrt()
    assert minibatch_cka(x, y, minibatch=100) == pytest.approx(float(expected), rel=1e-10)


def test_gaussian_kernel_is_as_defined():
    x, y = related(50)
    kernels = []
    for f in (x, y):
        distances = scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(f.numpy()))
        width = 0.8 * np.median(distances[~np.eye(50, dtype=bool)])
        kernels.append(torch.from_numpy(np.exp(-(distances**2) / (2 * width**2))))
    a, b = kernels
    expected = unbiased_hsic(a, b) / (unbiased_hsic(a, a) * unbiased_hsic(b, b)).sqrt()
    assert minibatch_cka(x, y, kernel="rbf") == pytest.approx(float(expected), rel=1e-9)


def test_minibatches_estimate_the_same_number_whatever_their_size():
    x, y = related(2000)
    whole = minibatch_cka(x, y, minibatch=2000)
    for size in (32, 128, 512):
        assert minibatch_cka(x, y, minibatch=size) == pytest.approx(whole, abs=0.03)
    # the biased form is far off on small minibatches of unrelated features, this one is not
    unrelated = features(2000, 64, 7), features(2000, 64, 8)
    biased = np.mean([float(linear_cka(*(f[rows : rows + 32] for f in unrelated))) for rows in range(0, 2000, 32)])
    assert biased > 0.5
    assert abs(minibatch_cka(*unrelated, minibatch=32)) < 0.05


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(0.1, 10), st.integers(2, 9))
def test_cka_ignores_rotation_and_scale(seed, scale, width):
    x, y = related(40, width, 6, seed)
    rotation = torch.linalg.qr(features(width, width, seed + 5)).Q
    turned = scale * x @ rotation + 3.0
    assert float(linear_cka(turned, y)) == pytest.approx(float(linear_cka(x, y)), rel=1e-8)
    for kernel in ("linear", "rbf"):
        assert minibatch_cka(turned, y, kernel=kernel) == pytest.approx(minibatch_cka(x, y, kernel=kernel), rel=1e-7)
        assert minibatch_cka(x, turned, kernel=kernel) == pytest.approx(1, rel=1e-7)
    assert procrustes_distance(x, turned) == pytest.approx(0, abs=1e-10)


def test_cka_has_a_gradient():
    x, y = related(20)
    x.requires_grad_()
    linear_cka(x, y).backward()
    step = 1e-3 * x.grad / x.grad.norm()
    assert float(linear_cka((x + step).detach(), y)) > float(linear_cka(x.detach(), y))


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(4, 40), st.integers(1, 90))
def test_unbiased_cka_is_that_of_one_minibatch_and_has_a_gradient(seed, count, width):
    x, y = related(count, width, 6, seed)
    x.requires_grad_()
    found = unbiased_cka(x, y)
    assert float(found.detach()) == pytest.approx(minibatch_cka(x.detach(), y), rel=1e-9, abs=1e-9)
    assert abs(float(found.detach())) <= 1 + 1e-12
    found.backward()
    step = 1e-4 * x.grad / x.grad.norm().clamp_min(1e-9) * x.detach().norm()
    assert float(unbiased_cka((x + step).detach(), y)) >= float(found.detach()) - 1e-12
    assert float(unbiased_cka(x.detach().float(), 2 * x.detach().float())) == pytest.approx(1, abs=1e-5)


def test_neighbours_are_those_of_scikit_learn():
    x = features(200, 6, 1)
    found = NearestNeighbors(n_neighbors=8, metric="cosine", algorithm="brute").fit(x.numpy())
    expected = found.kneighbors(return_distance=False)
    assert np.array_equal(nearest_neighbors(x, 8).numpy(), expected)


def test_overlap_is_the_share_of_common_neighbours():
    x, y = related(80)
    a, b = nearest_neighbors(x, 5).tolist(), nearest_neighbors(y, 5).tolist()
    expected = [len(set(one) & set(other)) / 5 for one, other in zip(a, b, strict=True)]
    assert neighbor_overlap(x, y, 5).tolist() == pytest.approx(expected)
    assert neighbor_overlap(x, 2 * x, 5).tolist() == [1.0] * 80


def test_overlap_of_unrelated_embeddings_is_at_chance():
    x, y = features(1500, 10, 1), features(1500, 10, 2)
    assert float(neighbor_overlap(x, y, 50).mean()) == pytest.approx(50 / 1499, rel=0.1)


@settings(max_examples=50)
@given(st.floats(0, math.pi), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_angles_are_exact(angle, first, second):
    a = first * torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    b = second * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    assert float(paired_angles(a, b)) == pytest.approx(angle, rel=1e-9, abs=1e-12)


def test_angles_of_zero_vectors():
    zero, one = torch.zeros(1, 3), torch.ones(1, 3)
    assert float(paired_angles(zero, zero)) == 0
    assert float(paired_angles(zero, one)) == pytest.approx(math.pi / 2)


def test_hardness_by_hand():
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = angular_visual_hardness(torch.tensor([[1.0, 1.0], [2.0, 0.0]]), weights, torch.tensor([0, 0]))
    assert found.tolist() == pytest.approx([0.5, 0.0])


def test_procrustes_is_what_scipy_leaves():
    x, y = features(30, 4, 1), features(30, 4, 2)
    _, _, disparity = scipy.spatial.procrustes(x.numpy(), y.numpy())
    # SciPy also scales the second set: its disparity is 1 − (sum of singular values)²
    assert 1 - (1 - procrustes_distance(x, y)) ** 2 == pytest.approx(disparity, rel=1e-9)
    a, b = ((f - f.mean(0)) / torch.linalg.norm(f - f.mean(0)) for f in (x, y))
    rotation, _ = scipy.linalg.orthogonal_procrustes(a.numpy(), b.numpy())
    left = np.linalg.norm(a.numpy() @ rotation - b.numpy()) ** 2
    assert procrustes_distance(x, y) == pytest.approx(left / 2, rel=1e-9)


def test_widths_may_differ():
    x, y = related(50, 8, 3)
    padded = torch.cat([y, torch.zeros(50, 5, dtype=y.dtype)], dim=1)
    assert procrustes_distance(x, y) == pytest.approx(procrustes_distance(x, padded), abs=1e-10)
    assert minibatch_cka(x, y) == pytest.approx(minibatch_cka(x, padded), abs=1e-10)


def test_what_cannot_be_measured():
    x = features(3, 2, 0)
    assert math.isnan(minibatch_cka(x, x))
    constant = torch.ones(10, 2)
    assert math.isnan(minibatch_cka(constant, features(10, 2, 0)))
    assert math.isnan(procrustes_distance(constant, features(10, 2, 0)))
    for call in (
        lambda: paired_angles(x, features(3, 4, 0)),
        lambda: neighbor_overlap(x, x, 2),
        lambda: minibatch_cka(x, features(4, 2, 0)),
        lambda: minibatch_cka(x, x, kernel="cubic"),
        lambda: unbiased_cka(x[:3], x[:3]),
        lambda: procrustes_distance(x, x[None]),
    ):
        with pytest.raises(InvalidArgumentError):
            call()


def test_procrustes_of_wide_features_is_that_of_their_singular_values():
    x, y = features(12, 40, 1), features(12, 70, 2)
    a, b = (f - f.mean(0) for f in (x, y))
    values = np.linalg.svd((a.T @ b).numpy(), compute_uv=False)
    expected = 1 - values.sum() / (np.linalg.norm(a) * np.linalg.norm(b))
    assert procrustes_distance(x, y) == pytest.approx(expected, rel=1e-10)
    assert procrustes_distance(x, y[:, :5]) == pytest.approx(procrustes_distance(y[:, :5], x), rel=1e-10)


def test_procrustes_of_very_wide_features_needs_no_matrix_of_their_width():
    x = torch.randn(16, 60_000, generator=torch.Generator().manual_seed(0))  # 29 GB otherwise
    assert procrustes_distance(x, x) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("offset", [1000, 10_000])
def test_a_large_mean_changes_nothing(kernel, offset):
    a = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))
    b = a + torch.randn(1000, 16, generator=torch.Generator().manual_seed(1))
    expected = minibatch_cka(a, b, kernel=kernel)
    assert minibatch_cka(a + offset, b + offset, kernel=kernel) == pytest.approx(expected, abs=1e-3)


def test_a_gaussian_kernel_of_features_that_mostly_coincide():
    a = torch.zeros(40, 5)
    a[:10] = torch.randn(10, 5, generator=torch.Generator().manual_seed(0))
    assert minibatch_cka(a, a, kernel="rbf") == pytest.approx(1)
    assert minibatch_cka(a, a + 3, kernel="rbf", minibatch=8) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("scale", [1e-14, 1e-5, 1e10])
def test_linear_cka_has_no_scale_in_single_precision(scale):
    x, y = (f.float() for f in related())
    expected = float(linear_cka(x, y))
    assert float(linear_cka(300 * scale * x, y)) == pytest.approx(expected, rel=1e-4)
    assert float(linear_cka(300 * scale * x, 300 * scale * x)) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_linear_cka_of_half_precision(dtype):
    x = (300 * features(300, 16, 0)).to(dtype)
    assert float(linear_cka(x, x)) == pytest.approx(1, rel=1e-5)


def test_constants_are_like_nothing_whatever_their_value():
    for value in (0.1, 1e6 / 3):
        constant = torch.full((50, 3), value)
        assert float(linear_cka(constant, features(50, 3, 0).float())) == 0
        assert math.isnan(minibatch_cka(constant, features(50, 3, 0)))
        assert math.isnan(minibatch_cka(constant, features(50, 3, 0), kernel="rbf"))
