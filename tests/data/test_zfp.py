"""ZFP against zfpy itself, and its laws."""

import numpy as np
import pytest
import torch
import zfpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cp_compress.base.errors import CorruptStreamError, InvalidArgumentError
from cp_compress.data import ZFP, parse_codec
from cp_compress.data.container import payload_size

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


def test_tiny_magnitudes_become_zero_and_not_garbage():
    batch = torch.full((1, 8, 8), 2.0**-110)
    for mode in MODES[:3]:
        assert not ZFP(**mode, clip=None).roundtrip(batch).any()


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
        (ZFP(rate=4), torch.rand(1, 3, 8, 8) + 1, "clip=None"),
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


def test_streams_of_another_mode_are_no_crash():
    batch = torch.rand(1, 3, 32, 32)
    (stream,) = ZFP(precision=20).encode(batch)
    with pytest.raises(CorruptStreamError, match="no ZFP payload"):
        ZFP(rate=3).decode([stream])
    with pytest.raises(CorruptStreamError, match="does not begin as"):
        ZFP(rate=3).decode([b"cp" + stream[:2][::-1] + stream[4:]])
