"""JPEG as tensor arithmetic: pixels against Pillow, coefficients against the coded images themselves."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cp_compress.base.errors import CorruptStreamError, InvalidArgumentError
from cp_compress.data import JPEG
from cp_compress.data.container import Kind, payload_size, seal
from cp_compress.data.jpeg import coefficients as jpeg_coefficients
from cp_compress.data.jpeg.settings import FACTORS
from cp_compress.data.jpeg.tables import quantization_tables, zigzag_order
from cp_compress.data.jpeg.transform import forward_dct, inverse_dct

SUBSAMPLINGS = sorted(FACTORS)
SIZES = [(1, 1), (8, 8), (2, 50), (5, 3), (17, 23), (33, 31), (16, 40)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def kinds_of_images(channels, size):
    """Return noise, two colours only, and something smooth: each goes other ways through the rounding."""
    noise = torch.randint(0, 256, (2, channels, *size), generator=generator(), dtype=torch.uint8)
    hard = torch.randint(0, 2, (1, channels, *size), generator=generator(1), dtype=torch.uint8) * 255
    small = torch.rand(1, channels, 4, 4, generator=generator(2))
    smooth = torch.nn.functional.interpolate(small, size, mode="bicubic").clamp(0, 1).mul(255).byte()
    return torch.cat([noise, hard, smooth])


def decoded_by_pillow(images, quality, subsampling):
    found = []
    for image in images:
        pixels = image.permute(1, 2, 0).numpy()
        file = io.BytesIO()
        grey = pixels.shape[2] == 1
        Image.fromarray(pixels[:, :, 0] if grey else pixels).save(
            file, "JPEG", quality=quality, subsampling=subsampling
        )
        found.append(torch.from_numpy(np.array(Image.open(file)).reshape(pixels.shape)).permute(2, 0, 1))
    return torch.stack(found)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("quality", [1, 10, 25, 49, 50, 75, 90, 96, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_that_pillow_decodes(channels, quality, subsampling):
    for size in SIZES:
        images = kinds_of_images(channels, size)
        found = JPEG(quality, subsampling).requantise(images)
        assert torch.equal(found, decoded_by_pillow(images, quality, subsampling)), size


@settings(max_examples=60)
@given(
    quality=st.integers(1, 100),
    subsampling=st.sampled_from(SUBSAMPLINGS),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**16),
)
def test_any_image_at_any_quality(quality, subsampling, height, width, seed):
    images = torch.randint(0, 256, (1, 3, height, width), generator=generator(seed), dtype=torch.uint8)
    codec = JPEG(quality, subsampling)
    assert torch.equal(codec.requantise(images), decoded_by_pillow(images, quality, subsampling))
    stored, computed = codec.coefficients_of_streams(codec.encode(images)), codec.coefficients(images)
    for first, second in zip(stored.components, computed.components, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("tables", ["shared", "inline"])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("channels", [1, 3])
def test_coefficients_are_those_in_the_streams(channels, subsampling, tables):
    for quality, size in [(1, (17, 23)), (50, (33, 31)), (75, (16, 40)), (100, (24, 8))]:
        images = kinds_of_images(channels, size)
        codec = JPEG(quality, subsampling, tables)
        streams = codec.encode(images)
        stored, computed = codec.coefficients_of_streams(streams), codec.coefficients(images)
        assert len(stored.components) == channels
        for first, second in zip(stored.components, computed.components, strict=True):
            assert torch.equal(first, second)
        assert torch.equal(stored.invert(), codec.decode(streams))


def test_coefficients_have_the_shapes_of_their_components():
    found = JPEG(75).coefficients(torch.zeros(2, 3, 20, 34, dtype=torch.uint8))
    assert [tuple(part.shape) for part in found.components] == [(2, 3, 5, 64), (2, 2, 3, 64), (2, 2, 3, 64)]
    # black: a luma of −128 with the gain of the orthonormal transform, in steps
    luma = found.components[0]
    assert (luma[..., 0] * found.steps[0][0] == -128 * 8).all()
    assert not luma[..., 1:].any()
    assert found.scaled()[0][0, 0, 0, 0] == -1024.0


def test_the_transform_is_the_orthonormal_dct():
    blocks = torch.randint(0, 256, (500, 8, 8), generator=generator(), dtype=torch.int32)
    place = torch.arange(8, dtype=torch.float64)
    basis = torch.cos((2 * place + 1) * place.unsqueeze(1) * torch.pi / 16) / 2
    basis[0] /= 2**0.5
    exact = basis @ (blocks.double() - 128) @ basis.t()
    assert (forward_dct(blocks).double() / 8 - exact).abs().max() < 0.2
    back = inverse_dct(exact.round().to(torch.int32))
    assert (back - blocks).abs().max() <= 3


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 51, 75, 95, 100])
def test_steps_are_those_in_the_files(quality):
    (stream,) = JPEG(quality, tables="inline").encode(torch.zeros(1, 3, 8, 8))
    image = Image.open(io.BytesIO(stream[-payload_size(stream) :]))
    for number, steps in enumerate(quantization_tables(quality)):
        assert list(image.quantization[number]) == steps.tolist()


def test_the_order_of_frequencies_is_that_of_the_standard():
    expected = [0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5]
    order = zigzag_order().tolist()
    assert order[:16] == expected
    assert order == [63 - place for place in reversed(order)]
    assert sorted(order) == list(range(64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.uint8])
def test_requantising_is_a_round_trip_in_every_dtype(dtype):
    images = torch.rand(3, 3, 13, 18, generator=generator())
    batch = (images * 255).to(dtype) if dtype == torch.uint8 else images.to(dtype)
    for codec in (JPEG(30), JPEG(80, "4:4:4", "inline")):
        found = codec.requantise(batch)
        assert found.dtype == dtype
        assert torch.equal(found, codec.roundtrip(batch))


def test_gradients_go_straight_through():
    images = torch.rand(2, 3, 8, 8, generator=generator(), requires_grad=True)
    found = JPEG(20).requantise(images)
    weights = torch.rand(found.shape, generator=generator(1))
    (found * weights).sum().backward()
    assert torch.equal(images.grad, weights)
    assert torch.allclose(found.detach(), JPEG(20).roundtrip(images.detach()))


@pytest.mark.parametrize("method", ["requantise", "coefficients"])
@pytest.mark.parametrize("batch", [torch.rand(2, 3, 8), torch.rand(1, 2, 8, 8), torch.rand(1, 3, 8, 8) + 1])
def test_what_cannot_be_encoded_is_refused(method, batch):
    with pytest.raises(InvalidArgumentError, match="JPEG"):
        getattr(JPEG(75), method)(batch)


def test_damaged_images_are_named():
    codec = JPEG(60)
    images = kinds_of_images(3, (24, 24))
    streams = codec.encode(images)
    payload = streams[1][-payload_size(streams[1]) :]
    kind, chance = codec._kind(), np.random.default_rng(0)
    blamed = []
    for _ in range(200):
        content = bytearray(payload[: int(chance.integers(1, len(payload) + 1))])
        for place in chance.integers(0, len(content), 3):
            content[place] = int(chance.integers(256))
        streams[1] = seal(kind, (3, 24, 24), torch.uint8, bytes(content))
        try:
            codec.coefficients_of_streams(streams)
        except CorruptStreamError as error:
            blamed.append(error.index)
    assert len(blamed) > 150
    assert set(blamed) == {1}
    other = JPEG(61, tables="inline").encode(images)
    with pytest.raises(CorruptStreamError, match="tables of the JPEG file"):
        codec.coefficients_of_streams(other)
    with pytest.raises(CorruptStreamError, match="is larger than"):
        codec.coefficients_of_streams([seal(Kind(1, "JPEG"), (3, 2**40, 2**40), torch.uint8, b"x")])


def test_a_coded_image_must_end_where_its_bytes_end():
    codec = JPEG(60)
    streams = codec.encode(kinds_of_images(3, (17, 23)))
    payload = streams[2][-payload_size(streams[2]) :]

    def stored(content):
        return [*streams[:2], seal(codec._kind(), (3, 17, 23), torch.uint8, content), streams[3]]

    for length in {*range(0, len(payload), 29), len(payload) - 1}:
        with pytest.raises(CorruptStreamError, match=r"example #2.*damaged"):
            codec.coefficients_of_streams(stored(payload[:length]))
    for behind in (b"\0", b"\xff\0", payload):
        with pytest.raises(CorruptStreamError, match=r"example #2.*more bytes follow it"):
            codec.coefficients_of_streams(stored(payload + behind))
    assert torch.equal(codec.coefficients_of_streams(stored(payload)).invert(), codec.decode(streams))


@pytest.mark.parametrize("marker", [b"\xff\xd9", b"\xff\xc4\0\2", b"\xff\xda", b"\xff"])
@pytest.mark.parametrize("method", ["decode", "coefficients_of_streams"])
def test_nothing_but_a_coded_image_reaches_a_decoder(method, marker):
    codec = JPEG(60)
    streams = codec.encode(kinds_of_images(3, (17, 23)))
    payload = streams[1][-payload_size(streams[1]) :]
    for content in (payload + marker, marker + payload, payload[:40] + marker + b"\1" + payload[40:]):
        streams[1] = seal(codec._kind(), (3, 17, 23), torch.uint8, bytes(content))
        with pytest.raises(CorruptStreamError, match=r"example #1.*markers"):
            getattr(codec, method)(streams)


def test_large_batches_are_worked_on_in_parts(monkeypatch):
    images = kinds_of_images(3, (17, 23))
    codec = JPEG(70)
    whole, coded = codec.requantise(images), codec.coefficients_of_streams(codec.encode(images))
    monkeypatch.setattr(jpeg_coefficients, "_PART", {"cpu": 1, "other": 1})
    assert torch.equal(codec.requantise(images), whole)
    for part, expected in zip(codec.coefficients(images).components, coded.components, strict=True):
        assert torch.equal(part, expected)


@pytest.mark.gpu
def test_the_arithmetic_is_the_same_on_a_gpu(gpu):
    images = kinds_of_images(3, (33, 31))
    for subsampling in SUBSAMPLINGS:
        codec = JPEG(75, subsampling)
        assert torch.equal(codec.requantise(images.to(gpu)).cpu(), codec.roundtrip(images))
        found = codec.decode_on(gpu, codec.encode(images))
        assert found.device.type == gpu.type
        # nvJPEG is free to round and to fill in chroma in another way
        assert (found.cpu().int() - codec.roundtrip(images).int()).float().abs().mean() < 4


def test_decoding_for_the_processor_is_decoding():
    images = kinds_of_images(3, (33, 31))
    streams = JPEG(75).encode(images)
    assert torch.equal(JPEG(75).decode_on("cpu", streams), JPEG(75).decode(streams))
