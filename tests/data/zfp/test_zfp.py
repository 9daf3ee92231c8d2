"""ZFP against zfpy itself, and its laws."""

import numpy as np
import pytest
import torch
import zfpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cp_compress.base.errors import CorruptStreamError, InvalidArgumentError
from cp_compress.data import JPEG, ZFP, parse_codec
from cp_compress.data.container import payload_size, seal

MODES = [{"rate": 6.0}, {"precision": 13}, {"tolerance": 0.003}, {"reversible": True}]


def smooth(shape, seed=0):
    generator = np.random.default_rng(seed)
    return torch.from_numpy(np.cumsum(generator.standard_normal((3, *shape)), axis=-1).astype(np.float32))


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("shape", [(50,), (13, 9), (3, 32, 32), (2, 3, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decoding_is_zfpys(mode, shape, dtype):
    batch = smooth(shape).to(dtype)
    found = ZFP(**mode, clip=None).roundtrip(batch)
    settings = {} if "reversible" in mode else mode
    for row, decoded in zip(batch, found, strict=True):
        expected = zfpy.decompress_numpy(zfpy.compress_numpy(row.numpy(), **settings))
        np.testing.assert_array_equal(decoded.numpy(), expected)


float32s = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)
any_array = arrays.arrays(np.float32, st.tuples(st.just(2), st.integers(1, 9), st.integers(1, 9)), elements=float32s)


@given(any_array)
def test_reversible_keeps_every_bit(array):
    batch = torch.from_numpy(array)
    found = ZFP(reversible=True, clip=None).roundtrip(batch)
    assert torch.equal(found.view(torch.int32), batch.view(torch.int32))


def test_reversible_keeps_denormals_and_signs_of_zero():
    batch = torch.tensor([[0.0, -0.0, 1e-45, -1e-40, 3e38, -3e38, 1.0, 2.0] * 4])
    found = ZFP(reversible=True, clip=None).roundtrip(batch)
    assert torch.equal(found.view(torch.int32), batch.view(torch.int32))


@given(
    arrays.arrays(np.float32, (2, 3, 6, 5), elements=st.floats(-100, 100, width=32)),
    st.floats(1e-3, 10),
)
def test_tolerance_bounds_the_error(array, tolerance):
    batch = torch.from_numpy(array)
    error = (ZFP(tolerance=tolerance, clip=None).roundtrip(batch) - batch).abs().max()
    assert error <= tolerance


def test_reversible_keeps_blocks_of_zeros_with_signs():
    batch = torch.stack([torch.full((8, 8), -0.0), torch.tensor([[0.0, -0.0] * 4] * 8), torch.zeros(8, 8)])
    found = ZFP(reversible=True).roundtrip(batch)
    assert torch.equal(found.view(torch.int32), batch.view(torch.int32))


@pytest.mark.parametrize(("dtype", "exponent"), [(torch.float32, -96), (torch.float64, -960)])
@pytest.mark.parametrize("shape", [(8,), (8, 8), (3, 8, 8), (2, 3, 4, 8)])
def test_tiny_magnitudes_are_kept_or_become_zero_but_never_garbage(dtype, exponent, shape):
    batch = 1 + torch.rand(2, *shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    kept, lost = batch * 2.0**exponent, batch * 2.0 ** (exponent - 1)
    for mode in ({"rate": 16}, {"precision": 24}):
        found = ZFP(**mode, clip=None).roundtrip(kept)
        assert ((found - kept) / 2.0**exponent).abs().max() < 0.1
        assert not ZFP(**mode, clip=None).roundtrip(lost).any()
    assert not ZFP(tolerance=1e-3, clip=None).roundtrip(lost).any()


@pytest.mark.parametrize("shape", [(8,), (8, 8), (3, 8, 8), (2, 3, 4, 8)])
@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 22), (torch.float64, 51)])
def test_tolerance_holds_down_to_the_least_that_is_taken(shape, dtype, bits):
    generator = torch.Generator().manual_seed(0)
    for scale in (1.0, 3e-9, 7e20):
        batch = torch.randn(64, *shape, dtype=dtype, generator=generator) * scale
        least = float(batch.abs().max()) * 2.0**-bits
        found = ZFP(tolerance=least, clip=None).roundtrip(batch)
        assert (found.double() - batch.double()).abs().max() <= least
        with pytest.raises(InvalidArgumentError, match=r"tolerance=.*reversible=True"):
            ZFP(tolerance=least * 0.99, clip=None).encode(batch)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16])
def test_rounding_to_a_narrow_dtype_at_most_doubles_the_error(dtype):
    batch = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = (batch * 255).to(dtype) if dtype == torch.uint8 else batch.to(dtype)
    scale = 255 if dtype == torch.uint8 else 1
    for tolerance in (0.1, 0.01, 0.001):
        error = (ZFP(tolerance=tolerance).roundtrip(batch).double() - batch.double()).abs().max() / scale
        assert error <= 2 * tolerance


def test_overshoot_stays_in_the_range_of_float16():
    batch = (torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0)).round() * 65504).half()
    free = ZFP(precision=3, clip=None).roundtrip(batch.float())
    assert free.max() > 65520
    assert torch.equal(ZFP(precision=3, clip=None).roundtrip(batch), free.clamp(-65504, 65504).half())


def test_pixels_are_their_fractions():
    pixels = (torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).byte()
    for mode in MODES[:3]:
        streams, of_floats = ZFP(**mode).encode(pixels), ZFP(**mode).encode(pixels / 255)
        assert [stream[12:] for stream in streams] == [stream[12:] for stream in of_floats]
    for mode in MODES:
        with pytest.raises(InvalidArgumentError, match=r"values must lie in \[0.4, 0.6\]"):
            ZFP(**mode, clip=(0.4, 0.6)).encode(pixels)


def test_bounds_of_clip_count_in_the_dtype_of_the_data():
    batch = torch.full((1, 4, 4), 0.3)  # a little above the double 0.3
    assert torch.equal(ZFP(reversible=True, clip=(0.0, 0.3)).roundtrip(batch), batch)


def test_clip_brings_values_back():
    batch = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).round()
    free, clipped = (ZFP(precision=4, clip=clip).roundtrip(batch) for clip in (None, (0.0, 1.0)))
    assert free.min() < 0 < 1 < free.max()
    assert torch.equal(clipped, free.clamp(0, 1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_comes_back(dtype):
    batch = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = (batch * 255).to(dtype) if dtype == torch.uint8 else batch.to(dtype)
    found = ZFP(reversible=True).roundtrip(batch)
    assert found.dtype == dtype
    assert torch.equal(found, batch)


def test_layouts():
    batch = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    by_plane = [zfpy.compress_numpy(plane.numpy(), precision=8, write_header=False) for plane in batch[0]]
    (stream,) = ZFP(precision=8, layout="2d").encode(batch)
    assert abs(payload_size(stream) - sum(map(len, by_plane))) < 24  # three paddings to whole words against one
    expected = np.stack(
        [zfpy.decompress_numpy(zfpy.compress_numpy(plane.numpy(), precision=8)).clip(0, 1) for plane in batch[0]]
    )
    np.testing.assert_array_equal(ZFP(precision=8, layout="2d").roundtrip(batch)[0].numpy(), expected)
    grey = batch[:, :1]
    assert torch.equal(ZFP(precision=8).roundtrip(grey)[:, 0], ZFP(precision=8).roundtrip(grey[:, 0]))


def test_one_by_one_is_the_batch():
    batch = smooth((3, 8, 8))
    codec = ZFP(precision=12, clip=None)
    streams = codec.encode(batch)
    assert streams == [codec.encode(row[None])[0] for row in batch]
    assert torch.equal(codec.decode(streams[1:2])[0], codec.decode(streams)[1])


@pytest.mark.parametrize(
    "codec",
    [ZFP(rate=2), ZFP(precision=8), ZFP(tolerance=1e-9, clip=None), ZFP(reversible=True, layout="2d", clip=(-1, 3))],
)
def test_text_and_back(codec):
    assert parse_codec(str(codec)) == codec
    assert hash(parse_codec(str(codec))) == hash(codec)


def test_text():
    assert str(ZFP(rate=2)) == "zfp(rate=2.0)"
    assert str(ZFP(precision=8, clip=None)) == "zfp(precision=8, clip=None)"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rate": 2, "precision": 3},
        {"rate": 0},
        {"rate": 65},
        {"rate": float("nan")},
        {"precision": 0},
        {"precision": 65},
        {"precision": 7.5},
        {"tolerance": 0},
        {"tolerance": -1},
        {"tolerance": float("inf")},
        {"reversible": 1},
        {"rate": 2, "layout": "4d"},
        {"rate": 2, "clip": (1, 0)},
        {"rate": 2, "clip": 3},
    ],
    ids=str,
)
def test_refused_settings(settings):
    with pytest.raises(InvalidArgumentError, match="ZFP"):
        ZFP(**settings)


@pytest.mark.parametrize(
    ("codec", "batch", "message"),
    [
        (ZFP(rate=0.5), torch.rand(1, 8, 8), "needs 9 bits"),
        (ZFP(rate=0.13), torch.rand(1, 3, 8, 8), "needs 9 bits"),
        (ZFP(rate=2), torch.rand(1, 8), "needs 9 bits"),
        (ZFP(rate=0.7), torch.rand(1, 8, 8).double(), "needs 12 bits"),
        (ZFP(precision=33), torch.rand(1, 8, 8), "has 32 bit planes"),
        (ZFP(rate=4), torch.rand(1, 3, 8, 8) + 1, "example #0 the first.*clip=None"),
        (ZFP(rate=4), torch.full((2, 8, 8), float("inf")), "NaN or Inf in example #0"),
        (ZFP(rate=4), torch.rand(1, 2, 2, 2, 2, 2), "four dimensions"),
        (ZFP(rate=4), torch.zeros(1, 2, 2, 70_000), "65536"),
        (ZFP(rate=4, clip=None), torch.full((1, 8, 8), 1e37), "lossy modes hold"),
        (ZFP(rate=4), torch.rand(0, 8, 8), "one example"),
        (ZFP(rate=4), torch.zeros(1, 8, 8, dtype=torch.int32), "uint8 or"),
    ],
)
def test_refused_batches(codec, batch, message):
    with pytest.raises(InvalidArgumentError, match=message):
        codec.encode(batch)


@pytest.mark.parametrize(
    "other", [ZFP(precision=19), ZFP(rate=3), ZFP(reversible=True), ZFP(precision=20, layout="2d")], ids=str
)
def test_streams_of_another_mode_are_refused(other):
    streams = ZFP(precision=20).encode(torch.rand(2, 3, 32, 32))
    with pytest.raises(CorruptStreamError, match=r"example #0.*settings"):
        other.decode(streams)


def test_streams_of_another_codec_are_refused():
    streams = JPEG(75).encode(torch.rand(1, 3, 32, 32))
    with pytest.raises(CorruptStreamError, match="does not begin like a ZFP stream"):
        ZFP(rate=3).decode(streams)


def test_any_range_can_be_applied_to_a_stream():
    batch = torch.rand(2, 3, 8, 8)
    streams = ZFP(precision=3, clip=None).encode(batch)
    assert torch.equal(ZFP(precision=3).decode(streams), ZFP(precision=3).roundtrip(batch))


@pytest.mark.parametrize("shape", [(2**40,), (2**24, 2**24), (3, 60_000, 60_000)])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_shapes_that_no_payload_can_fill_take_no_memory(mode, shape):
    codec = ZFP(**mode)
    hostile = seal(codec._kind(), shape, torch.float32, bytes(64))
    with pytest.raises(CorruptStreamError, match="example #0: 64 bytes"):
        codec.decode([hostile])


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_payload_of_another_length_is_refused(mode):
    codec = ZFP(**mode)
    (stream,) = codec.encode(torch.rand(1, 3, 8, 8))
    payload = stream[-payload_size(stream) :]
    for wrong in (payload[:-1], payload + b"0", *([payload[:-8], payload + bytes(8)] if codec.rate else [])):
        with pytest.raises(CorruptStreamError, match="cannot be a ZFP payload"):
            codec.decode([seal(codec._kind(), (3, 8, 8), torch.float32, wrong)])
