"""JPEG against Pillow itself."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from cp_compress.base.errors import CorruptStreamError, InvalidArgumentError
from cp_compress.data import JPEG, parse_codec
from cp_compress.data.container import Kind, payload_size, seal

JPEG_KIND = Kind(1, "JPEG")


def images(channels=3, size=(24, 40), count=3, seed=0):
    noise = torch.rand(count, channels, 6, 10, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, size=size, mode="bilinear")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("quality", [1, 50, 95, 100])
def test_decoding_is_pillows(channels, subsampling, quality):
    batch = images(channels)
    decoded = JPEG(quality, subsampling).roundtrip(batch)
    for image, found in zip(batch, decoded, strict=True):
        pixels = (image.double() * 255).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(file, "JPEG", quality=quality, subsampling=subsampling)
        expected = np.asarray(Image.open(file), dtype=np.float32).reshape(pixels.shape) / 255
        np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_comes_back(dtype):
    batch = (images() * 255).to(dtype) if dtype == torch.uint8 else images().to(dtype)
    decoded = JPEG(90).roundtrip(batch)
    assert decoded.dtype == dtype
    assert decoded.shape == batch.shape
    scale = 255 if dtype == torch.uint8 else 1
    assert (decoded.double() - batch.double()).abs().mean() < 0.05 * scale


def test_large_noise_at_the_highest_quality():
    noise = torch.rand(1, 3, 500, 700, generator=torch.Generator().manual_seed(0))
    assert (JPEG(100, "4:4:4").roundtrip(noise) - noise).abs().max() < 0.02


def test_one_by_one_is_the_batch():
    batch = images()
    codec = JPEG(70)
    assert codec.encode(batch) == [codec.encode(image[None])[0] for image in batch]


def test_payload_is_a_jpeg_file():
    (stream,) = JPEG(75, tables="inline").encode(images(count=1))
    file = stream[-payload_size(stream) :]
    assert Image.open(io.BytesIO(file)).size == (40, 24)
    assert len(stream) - len(file) <= 16


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("quality", [1, 24, 75, 100])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (17, 33)])
def test_shared_tables_cost_nothing_an_image_and_change_nothing(channels, subsampling, quality, size):
    batch = images(channels, size)
    shared, inline = (JPEG(quality, subsampling, tables) for tables in ("shared", "inline"))
    assert torch.equal(shared.roundtrip(batch), inline.roundtrip(batch))
    for scan, file in zip(shared.encode(batch), inline.encode(batch), strict=True):
        assert file[-payload_size(file) :].endswith(scan[-payload_size(scan) :] + b"\xff\xd9")
        assert payload_size(file) - payload_size(scan) > 300
    # whole files are read whatever a codec writes
    assert torch.equal(shared.decode(inline.encode(batch)), inline.roundtrip(batch))


@pytest.mark.parametrize("other", [JPEG(74), JPEG(75, "4:4:4"), JPEG(74, tables="inline")], ids=str)
def test_images_without_tables_are_read_by_their_own_codec_only(other):
    with pytest.raises(CorruptStreamError, match=r"example #0.*(quality=74|4:4:4|does not begin)"):
        other.decode(JPEG(75).encode(images()))


@pytest.mark.parametrize("codec", [JPEG(1), JPEG(100, "4:4:4"), JPEG(75, "4:2:2", "inline")])
def test_text_and_back(codec):
    assert parse_codec(str(codec)) == codec
    assert hash(parse_codec(str(codec))) == hash(codec)


def test_text():
    assert str(JPEG(75)) == "jpeg(quality=75)"


@pytest.mark.parametrize(
    "arguments", [(0,), (101,), (75.5,), ("75",), (True,), (75, "4:1:1"), (75, None), (75, "4:2:0", "own")], ids=str
)
def test_refused_settings(arguments):
    with pytest.raises(InvalidArgumentError, match="JPEG"):
        JPEG(*arguments)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.rand(2, 3, 8), "images"),
        (torch.rand(2, 2, 8, 8), "1 or 3 channels"),
        (torch.rand(0, 3, 8, 8), "one example"),
        (torch.rand(1, 3, 8, 8) * 2, "normalise inside the model"),
        (torch.rand(1, 3, 8, 8) - 0.5, "normalise inside the model"),
        (torch.full((1, 3, 8, 8), float("nan")), "NaN or Inf in example #0"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "uint8 or"),
        (torch.zeros(1, 1, 1, 70_000), "65500"),
        ([[1.0]], "must be a tensor"),
    ],
)
def test_refused_batches(batch, message):
    with pytest.raises(InvalidArgumentError, match=message):
        JPEG(75).encode(batch)


def test_damage_names_the_example():
    streams = JPEG(75).encode(images(count=4))
    streams[2] = streams[2][:-5]
    with pytest.raises(CorruptStreamError, match="#2") as caught:
        JPEG(75).decode(streams)
    assert caught.value.index == 2


def test_mixed_shapes_name_the_example():
    streams = JPEG(75).encode(images()) + JPEG(75).encode(images(size=(8, 8), count=1))
    with pytest.raises(CorruptStreamError, match="#3"):
        JPEG(75).decode(streams)


def test_file_of_another_size_than_its_envelope_says():
    (stream,) = JPEG(75, tables="inline").encode(images(count=1))
    file = stream[-payload_size(stream) :]
    with pytest.raises(CorruptStreamError, match="its envelope states"):
        JPEG(75).decode([seal(JPEG_KIND, (3, 40, 24), torch.uint8, file)])
    with pytest.raises(CorruptStreamError, match="is larger than"):
        JPEG(75).decode([seal(JPEG_KIND, (3, 2**40, 2**40), torch.uint8, file)])
