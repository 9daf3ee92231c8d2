"""Errors, PSNR and SSIM against their definitions written out slowly; what cannot be compared is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.fidelity.judging.judgement import judge
from cp_compress.fidelity.judging.requirement import Requirement
from cp_compress.fidelity.reconstruction import compare_reconstruction
from cp_compress.fidelity.structural_similarity import structural_similarity
from cp_compress.inputs.reading import LabeledData


def images(count=5, shape=(3, 16, 14), noise=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    original = torch.rand(count, *shape, generator=generator)
    return (original + noise * torch.randn(original.shape, generator=generator)).clamp(0, 1), original


def slow_ssim(x, y, size, span=1.0):
    """Wang et al. 2004, equations 13 to 16, one window at a time."""
    offsets = np.arange(size) - size // 2
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    found = []
    for channel_x, channel_y in zip(x, y, strict=True):
        for i in range(x.shape[1] - size + 1):
            for j in range(x.shape[2] - size + 1):
                a, b = channel_x[i : i + size, j : j + size], channel_y[i : i + size, j : j + size]
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                variance_a, variance_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
                covariance = (window * (a - mean_a) * (b - mean_b)).sum()
                top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
                found.append(top / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)))
    return float(np.mean(found))


@pytest.mark.parametrize(("shape", "size"), [((3, 16, 14), 11), ((1, 11, 11), 11), ((1, 8, 8), 7), ((2, 3, 9), 3)])
def test_ssim_is_its_formula(shape, size):
    decoded, original = images(3, shape)
    expected = [slow_ssim(x, y, size) for x, y in zip(decoded.double().numpy(), original.double().numpy(), strict=True)]
    assert structural_similarity(decoded, original).tolist() == pytest.approx(expected, abs=1e-9)
    pixels = [(part * 255).round().to(torch.uint8) for part in (decoded, original)]
    in_bytes = structural_similarity(*pixels, data_range=255)
    assert in_bytes.tolist() == pytest.approx(expected, abs=0.01)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.01, 0.3, 3.0]))
def test_ssim_is_symmetric_bounded_and_one_for_equal_images(seed, noise):
    decoded, original = images(2, (1, 8, 8), noise, seed)
    index = structural_similarity(decoded, original)
    assert torch.allclose(index, structural_similarity(original, decoded), atol=1e-12)
    assert bool(((index >= -1) & (index <= 1 + 1e-12)).all())
    assert torch.allclose(structural_similarity(original, original), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_metrics_are_their_definitions(batch_size):
    decoded, original = images()
    found = compare_reconstruction(decoded, original, batch_size=batch_size)
    difference = (decoded.double() - original.double()).numpy()
    rmse = math.sqrt((difference**2).mean())
    assert found.metrics["max_error"] == pytest.approx(np.abs(difference).max())
    assert found.metrics["rmse"] == pytest.approx(rmse)
    assert found.metrics["psnr"] == pytest.approx(20 * math.log10(1 / rmse))
    assert found.metrics["ssim"] == pytest.approx(float(structural_similarity(decoded, original).mean()))
    assert "bytes_per_example" not in found.metrics
    for row in range(5):
        own = math.sqrt((difference[row] ** 2).mean())
        assert found.per_example["rmse"][row].item() == pytest.approx(own)
        assert found.per_example["psnr"][row].item() == pytest.approx(-20 * math.log10(own))
    worst = int(found.per_example["rmse"].argmax())
    assert found.examples[0].index == worst
    assert set(found.counts.values()) == {5}


def test_a_uniform_error_has_a_known_psnr():
    original = torch.full((2, 3, 12, 12), 0.5)
    assert compare_reconstruction(original + 0.01, original).metrics["psnr"] == pytest.approx(40, abs=1e-3)
    pixels = torch.full((2, 3, 12, 12), 100, dtype=torch.uint8)
    shifted = compare_reconstruction(pixels + 1, pixels, data_range=255)
    assert shifted.metrics["psnr"] == pytest.approx(48.13, abs=0.01)
    assert shifted.metrics["max_error"] == 1


def test_unsigned_differences_do_not_wrap():
    low, high = torch.zeros(1, 4, dtype=torch.uint8), torch.full((1, 4), 255, dtype=torch.uint8)
    for pair in ((low, high), (high, low)):
        assert compare_reconstruction(*pair, data_range=255).metrics["max_error"] == 255


def test_equal_data_has_infinite_psnr():
    _, original = images()
    found = compare_reconstruction(original.clone(), original)
    assert found.metrics["psnr"] == math.inf
    assert found.metrics["max_error"] == 0
    assert found.examples == ()
    assert any("equal" in note for note in found.notes)
    assert judge(found, [Requirement("psnr", "min", 60.0)]).outcome == "pass"


def test_what_are_no_images_has_no_ssim():
    found = compare_reconstruction(torch.rand(4, 9), torch.rand(4, 9))
    assert "ssim" not in found.metrics
    assert any("no SSIM" in note for note in found.notes)
    with pytest.raises(InvalidArgumentError, match="measured only"):
        judge(found, [Requirement("ssim", "min", 0.5)])


def test_small_images_say_so():
    found = compare_reconstruction(*images(2, (1, 8, 8)))
    assert any("7×7" in note for note in found.notes)


def test_data_wider_than_its_range_says_so():
    found = compare_reconstruction(torch.randn(4, 9), torch.randn(4, 9))
    assert any("more than data_range=1" in note for note in found.notes)
    assert found.details["original_range"][0] < 0


class Stored(torch.utils.data.Dataset):
    """A decoded data set that knows its size, as a compressed one does."""

    classes = ("cat", "dog")

    def __init__(self, inputs, size):
        self.inputs, self.bytes_per_example = inputs, size

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return self.inputs[index], index % 2


def test_bytes_come_from_the_data_set_or_the_call():
    decoded, original = images(4)
    labelled = (original, torch.arange(4) % 2)
    found = compare_reconstruction(Stored(decoded, 300.5), labelled)
    assert found.metrics["bytes_per_example"] == 300.5
    assert found.examples[0].label in ("0", "1")
    assert compare_reconstruction(LabeledData(Stored(decoded, 300)), labelled).metrics["bytes_per_example"] == 300
    assert compare_reconstruction(decoded, original, bytes_per_example=12).metrics["bytes_per_example"] == 12
    each = compare_reconstruction(decoded, original, bytes_per_example=[1, 2, 3, 6])
    assert each.metrics["bytes_per_example"] == 3
    assert each.per_example["bytes_per_example"].tolist() == [1, 2, 3, 6]
    for wrong in (0, -1, [1, 2], math.nan):
        with pytest.raises(InvalidArgumentError, match="bytes"):
            compare_reconstruction(decoded, original, bytes_per_example=wrong)


def test_class_names_of_the_original_label_the_examples():
    decoded, original = images(4)
    found = compare_reconstruction((decoded, torch.arange(4) % 2), Stored(original, None))
    assert found.examples[0].label in ("cat", "dog")


@pytest.mark.parametrize(
    ("decoded", "original", "message"),
    [
        (torch.rand(3, 4), torch.rand(2, 4), "holds 3 examples"),
        (torch.rand(2, 5), torch.rand(2, 4), r"shape \(5,\)"),
        (torch.full((2, 4), torch.nan), torch.rand(2, 4), "decoded example #0 holds NaN"),
        (torch.rand(2, 4), torch.tensor([[0.0], [torch.inf]]).expand(2, 4), "original example #1 holds NaN or inf"),
        (torch.zeros(2, 4, dtype=torch.uint8), torch.rand(2, 4), "one scale is needed"),
        (torch.zeros(2, 0), torch.zeros(2, 0), "no values"),
        ((torch.zeros(2, 4), torch.tensor([0, 1])), (torch.zeros(2, 4), torch.tensor([0, 2])), "first at example #1"),
        ([], torch.rand(2, 4), "empty"),
    ],
)
def test_what_cannot_be_compared(decoded, original, message):
    with pytest.raises(ObservationError, match=message):
        compare_reconstruction(decoded, original)


@pytest.mark.parametrize(
    ("decoded", "original", "options", "message"),
    [
        (torch.rand(4), torch.rand(4), {}, "at least one example"),
        (torch.rand(2, 4), torch.rand(2, 4), {"data_range": 0}, "data_range"),
        (torch.rand(2, 4), torch.rand(2, 4), {"batch_size": 0}, "batch_size"),
        (torch.zeros(2, 4).byte(), torch.zeros(2, 4).byte(), {}, "255 for uint8"),
    ],
)
def test_refusals(decoded, original, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        compare_reconstruction(decoded, original, **options)
