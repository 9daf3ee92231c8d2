"""Corruptions: published formulas written out, severities, seeds, and what is refused."""

import itertools

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from PIL import Image

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.data import CORRUPTION_NAMES, JPEG, CorruptedDataset, corrupt
from cp_compress.data.corruptions.kinds import CORRUPTIONS, _gaussian_blur, _mirror, _poisson_quantiles
from cp_compress.examples import digits


def smooth_images(count=4, channels=3, height=32, width=32, seed=0):
    """Images with structure at several scales, in [0.1, 0.9]."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, channels, height, width)
    for cells in (2, 4, 8, 16):
        layer = torch.rand(count, channels, cells, cells, generator=generator)
        total += torch.nn.functional.interpolate(layer, size=[height, width], mode="bilinear") / cells
    total -= total.amin(dim=(1, 2, 3), keepdim=True)
    return 0.1 + 0.8 * total / total.amax(dim=(1, 2, 3), keepdim=True)


def test_there_are_fifteen():
    assert len(CORRUPTION_NAMES) == 15


@pytest.mark.parametrize("name", CORRUPTION_NAMES)
@pytest.mark.parametrize(("channels", "size"), [(3, (32, 32)), (1, (8, 8)), (3, (20, 33))])
def test_severities_grow_and_pixels_stay_in_range(name, channels, size):
    images = smooth_images(8, channels, *size)
    errors = []
    for severity in range(1, 6):
        found = corrupt(images, name, severity)
        assert found.shape == images.shape
        assert found.dtype == images.dtype
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
        errors.append(float((found - images).square().mean().sqrt()))
    if name == "elastic_transform":  # its published settings do not grow by this measure
        assert min(errors) > 0.005
        return
    assert errors[4] > errors[0]
    if size == (32, 32):
        assert errors[4] > 0.005
        # these random or stepwise ones may swap neighbours
        tolerance = {"glass_blur": 0.4, "motion_blur": 0.2, "snow": 0.5}.get(name, 0.05)
        assert all(later >= earlier * (1 - tolerance) for earlier, later in itertools.pairwise(errors))


@pytest.mark.parametrize("name", CORRUPTION_NAMES)
def test_an_example_is_corrupted_alike_in_any_batch(name):
    images = smooth_images(6)
    whole = corrupt(images, name, 3, seed=7)
    part = corrupt(images[[4, 1]], name, 3, seed=7, indices=[4, 1])
    torch.testing.assert_close(part, whole[[4, 1]], atol=1e-6, rtol=0)
    assert torch.equal(corrupt(images, name, 3, seed=7), whole)


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "fog", "snow"])
def test_seeds_and_examples_differ(name):
    images = smooth_images(1).expand(2, -1, -1, -1)
    found = corrupt(images, name, 4, seed=0)
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found, corrupt(images, name, 4, seed=1))


def test_gaussian_noise_has_its_deviation():
    gray = torch.full((64, 3, 32, 32), 0.5)
    for severity, scale in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), start=1):
        noise = corrupt(gray, "gaussian_noise", severity) - gray
        assert float(noise.std()) == pytest.approx(scale, rel=0.01)
        assert abs(float(noise.mean())) < 0.001


def test_shot_noise_is_that_of_photons():
    for level in (0.1, 0.5, 0.8):
        gray = torch.full((64, 3, 32, 32), level)
        for severity, photons in ((1, 500), (5, 50)):
            found = corrupt(gray, "shot_noise", severity).double() * photons
            torch.testing.assert_close(found, found.round(), atol=1e-3, rtol=0)
            assert float(found.mean()) == pytest.approx(level * photons, rel=0.01)
            if level < 0.8 or photons > 50:  # elsewhere white cuts the tail off
                assert float(found.var()) == pytest.approx(level * photons, rel=0.03)


@pytest.mark.parametrize("photons", [500, 50])
def test_shot_noise_follows_the_law_of_scipy(photons):
    generator = torch.Generator().manual_seed(photons)
    rates = photons * torch.rand(40, 50, generator=generator)
    rates[0], rates[1], rates[2] = 0, photons, 1e-3
    uniform = torch.rand(40, 50, generator=generator)
    uniform[:, 0], uniform[:, 1] = 2.0**-24, 1 - 2.0**-24
    expected = scipy.stats.poisson.ppf(uniform.double().numpy(), rates.double().numpy())
    assert _poisson_quantiles(uniform, rates).tolist() == expected.tolist()
    assert (_poisson_quantiles(torch.zeros(2), torch.tensor([0.0, 3.0])) == 0).all()


def test_shot_noise_costs_no_more_the_more_photons(monkeypatch):
    counted = []
    gammaincc = torch.special.gammaincc
    monkeypatch.setattr(torch.special, "gammaincc", lambda *parts: counted.append(len(parts[0])) or gammaincc(*parts))
    corrupt(smooth_images(4), "shot_noise", 1)
    assert sum(counted) < 2.1 * 4 * 3 * 32 * 32  # two values of the distribution function a pixel, and few again


def test_impulse_noise_flips_its_share():
    gray = torch.full((64, 3, 32, 32), 0.5)
    found = corrupt(gray, "impulse_noise", 5)
    assert set(found.unique().tolist()) == {0.0, 0.5, 1.0}
    assert float((found != 0.5).double().mean()) == pytest.approx(0.07, rel=0.03)
    assert float((found == 1).double().mean()) == pytest.approx(0.035, rel=0.05)


def test_contrast_is_its_formula():
    images = smooth_images()
    for severity, factor in enumerate((0.75, 0.5, 0.4, 0.3, 0.15), start=1):
        means = images.mean(dim=(2, 3), keepdim=True)
        expected = ((images - means) * factor + means).clamp(0, 1)
        torch.testing.assert_close(corrupt(images, "contrast", severity), expected)


def test_brightness_raises_the_value_of_hsv():
    import colorsys

    images = smooth_images(1, 3, 6, 6)
    found = corrupt(images, "brightness", 3)
    for row in range(6):
        for column in range(6):
            hue, saturation, value = colorsys.rgb_to_hsv(*images[0, :, row, column].tolist())
            expected = colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + 0.15))
            assert found[0, :, row, column].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (23, 30), (1, 7)])
def test_pixelate_is_that_of_pillow(height, width):
    images = smooth_images(2, 1, height, width)
    for severity, share in enumerate((0.95, 0.9, 0.85, 0.75, 0.65), start=1):
        small = max(1, int(width * share)), max(1, int(height * share))
        for image, ours in zip(images[:, 0], corrupt(images, "pixelate", severity)[:, 0], strict=True):
            picture = Image.fromarray(image.numpy()).resize(small, Image.Resampling.BOX)
            expected = np.asarray(picture.resize((width, height), Image.Resampling.BOX))
            np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)


def test_jpeg_is_the_codec():
    images = smooth_images()
    assert torch.equal(corrupt(images, "jpeg_compression", 5), JPEG(quality=40).roundtrip(images))


def test_gaussian_blur_is_that_of_scipy():
    images = smooth_images(1, 1, 20, 27).double()
    for sigma in (0.25, 0.4, 1.0, 6.0):
        expected = scipy.ndimage.gaussian_filter(images[0, 0].numpy(), sigma, mode="reflect", truncate=4.0)
        np.testing.assert_allclose(_gaussian_blur(images, sigma)[0, 0].numpy(), expected, atol=2e-6)
    assert _mirror(3, 4).tolist() == [2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0]


def clipped_zoom(image, factor):
    """The authors' function, as published; images (side, side)."""
    side = len(image)
    cut = int(np.ceil(side / float(factor)))
    top = (side - cut) // 2
    large = scipy.ndimage.zoom(image[top : top + cut, top : top + cut], (factor, factor), order=1)
    trim = (len(large) - side) // 2
    return large[trim : trim + side, trim : trim + side]


@pytest.mark.parametrize("side", [32, 45])
def test_zoom_blur_is_that_of_the_authors(side):
    images = smooth_images(1, 1, side, side).double()
    for severity, largest in enumerate((1.06, 1.11, 1.16, 1.21, 1.26), start=1):
        factors = np.arange(1, largest, 0.01)
        total = images[0, 0].numpy() + sum(clipped_zoom(images[0, 0].numpy(), factor) for factor in factors)
        found = corrupt(images, "zoom_blur", severity)[0, 0].numpy()
        np.testing.assert_allclose(found, total / (len(factors) + 1), atol=1e-12)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_glass_blur_is_that_of_the_authors(severity):
    images = smooth_images(1, 3, 12, 15).double()
    sigma, rounds = {1: (0.05, 1), 3: (0.4, 1), 5: (0.4, 2)}[severity]
    drawn = torch.rand(rounds, 1, 2, 12, 15, generator=torch.Generator().manual_seed(severity))

    def gaussian(image):
        return scipy.ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest", truncate=4.0)

    picture = gaussian(images[0].permute(1, 2, 0).numpy())
    for moves in drawn[:, 0]:
        for row in range(12 - 1, 1, -1):
            for column in range(15 - 1, 1, -1):
                down, right = (-int(value < 0.5) for value in moves[:, row, column])  # randint(-1, 1) gives −1 or 0
                other = row + down, column + right
                picture[row, column], picture[other] = picture[other], picture[row, column]
    rows = iter(drawn)
    found = CORRUPTIONS["glass_blur"](images, severity - 1, lambda kind, shape: next(rows))
    np.testing.assert_allclose(found[0].permute(1, 2, 0).numpy(), gaussian(picture), atol=1e-5)  # other borders


@pytest.mark.parametrize("name", ["pixelate", "zoom_blur"])
def test_flat_images_stay(name):
    flat = torch.full((1, 3, 16, 20), 0.3)
    torch.testing.assert_close(corrupt(flat, name, 5), flat)


def test_motion_moves_along_one_line():
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    found = corrupt(point, "motion_blur", 5, seed=3)[0, 0]
    rows, columns = (found > 0.005).nonzero(as_tuple=True)
    points = torch.stack([rows, columns], dim=1).double()
    spread = torch.linalg.svdvals(points - points.mean(0))
    assert float(spread[0]) > 3 * float(spread[1])


@pytest.mark.parametrize(
    ("images", "name", "severity"),
    [
        (torch.rand(1, 3, 8, 8), "frost", 1),
        (torch.rand(1, 3, 8, 8), "fog", 0),
        (torch.rand(1, 3, 8, 8), "fog", 6),
        (torch.rand(1, 2, 8, 8), "fog", 1),
        (torch.rand(3, 8, 8), "fog", 1),
        (torch.rand(1, 3, 8, 8) + 1, "fog", 1),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "fog", 1),
    ],
)
def test_refusals(images, name, severity):
    with pytest.raises(InvalidArgumentError):
        corrupt(images, name, severity)


def test_a_corrupted_data_set_reads_as_the_batch():
    data = CorruptedDataset(digits(), "fog", 3, seed=1)
    images = torch.stack([digits()[index][0] for index in range(5)])
    expected = corrupt(images, "fog", 3, seed=1)
    assert len(data) == len(digits())
    for index in (4, 0, 2):
        torch.testing.assert_close(data[index][0], expected[index], atol=1e-6, rtol=0)
        assert int(data[index][1]) == int(digits()[index][1])
    for index in (len(data), -len(data) - 1):
        with pytest.raises(IndexError):
            data.__getitems__([0, index])


def test_negative_indices_are_the_same_examples():
    data = CorruptedDataset(digits(), "gaussian_noise", 3)
    for found in (data[-1], data.__getitems__([0, -1])[1]):
        assert torch.equal(found[0], data[len(data) - 1][0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CORRUPTION_NAMES)
def test_half_precision_is_corrupted_as_full(name, dtype):
    images = smooth_images(2, 3, 16, 16).to(dtype)
    found = corrupt(images, name, 2)
    assert found.dtype == dtype
    assert torch.equal(found, corrupt(images.float(), name, 2).to(dtype))


def test_the_range_that_was_found_is_named():
    images = torch.linspace(-0.5, 2, 64).reshape(1, 1, 8, 8)
    with pytest.raises(InvalidArgumentError, match=r"images='from -0.5 to 2'\): floating-point images"):
        corrupt(images, "fog", 1)


def test_pixels_that_are_no_numbers_are_refused():
    images = torch.rand(1, 3, 8, 8)
    images[0, 0, 0, 0] = torch.nan
    with pytest.raises(InvalidArgumentError, match="images"):
        corrupt(images, "fog", 1)
