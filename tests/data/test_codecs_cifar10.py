"""The codecs on real images: sizes and errors that were measured with Pillow and zfpy directly."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import zfpy

from cp_compress.data import JPEG, ZFP, CompressedDataset

pytestmark = pytest.mark.cifar10


@pytest.fixture(scope="module")
def images():
    folder = Path(os.environ.get("CP_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    path = folder / "cifar10_subset.npz"
    if not path.exists():
        pytest.skip(f"no {path.name}: set CP_DATA to the folder that holds it")
    with np.load(path) as data:
        return torch.from_numpy(data["test_images"]).float() / 255, torch.from_numpy(data["test_labels"]).long()


def psnr(decoded, original):
    return float(-10 * (decoded - original).double().square().mean().log10())


@pytest.mark.parametrize(
    ("codec", "expected"),
    [
        (ZFP(precision=8), 932),  # one 3-D array; the figure is that of another sample of test images
        (ZFP(precision=8, layout="2d"), 1_330),
        (ZFP(rate=2), 1_024),
        (ZFP(rate=2, layout="2d"), 768),
    ],
    ids=str,
)
def test_payload_bytes(images, codec, expected):
    stored = CompressedDataset(images, codec)
    assert stored.payload_bytes / len(stored) == pytest.approx(expected, rel=0.005)
    assert stored.nbytes - stored.payload_bytes == 12 * len(stored)


def test_payload_is_what_zfpy_gives_without_its_header(images):
    stored = CompressedDataset(images, ZFP(precision=8))
    direct = sum(len(zfpy.compress_numpy(image.numpy(), precision=8, write_header=False)) for image in images[0])
    assert stored.payload_bytes == direct


def test_jpeg_bytes(images):
    files = CompressedDataset(images, JPEG(75, tables="inline"))
    assert 880 < files.payload_bytes / len(files) < 960  # of which 625 are tables
    stored = CompressedDataset(images, JPEG(75))
    assert files.payload_bytes - stored.payload_bytes == 625 * len(stored)


def test_one_array_of_three_channels_beats_three_planes(images):
    pixels = images[0]
    three, planes = ZFP(rate=2.34), ZFP(rate=3.125, layout="2d")  # both give about 1,200 bytes an image
    assert abs(len(three.encode(pixels)[0]) - len(planes.encode(pixels)[0])) < 24
    assert psnr(three.roundtrip(pixels), pixels) > psnr(planes.roundtrip(pixels), pixels) + 1.5


def test_tolerance_on_real_images(images):
    for tolerance in (0.2, 0.02, 0.002):
        assert (ZFP(tolerance=tolerance).roundtrip(images[0]) - images[0]).abs().max() <= tolerance


def test_pixels_without_loss(images):
    pixels = (images[0][:50] * 255).round().byte()
    codec = ZFP(reversible=True)
    streams = codec.encode(pixels)
    assert torch.equal(codec.decode(streams), pixels)
    assert sum(map(len, streams)) < 0.4 * sum(map(len, codec.encode(pixels / 255)))
