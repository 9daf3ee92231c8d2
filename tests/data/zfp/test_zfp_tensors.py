"""What ZFP computes on tensors is what its streams give: decoded batches, sizes and coefficients."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cp_compress.base.errors import CorruptStreamError, InvalidArgumentError
from cp_compress.data import ZFP
from cp_compress.data.container import payload_size, seal
from cp_compress.data.zfp import streams as block_streams

MODES = [{"rate": 3.3}, {"precision": 9}, {"tolerance": 0.02}, {"tolerance": (0.05, 0.1, 0.02)}, {"reversible": True}]
COLORS = [("rgb", "4:4:4"), ("ycbcr", "4:4:4"), ("ycbcr", "4:2:2"), ("ycbcr", "4:2:0")]
DTYPES = [torch.uint8, torch.float32, torch.float64, torch.float16, torch.bfloat16]


def images(count=3, side=(17, 15), dtype=torch.float32, seed=0):
    pixels = torch.rand(count, 3, *side, generator=torch.Generator().manual_seed(seed)).cumsum(-1)
    pixels = pixels / pixels.max()
    return (pixels * 255).byte() if dtype == torch.uint8 else pixels.to(dtype)


def bits_of(streams):
    return torch.tensor([8 * payload_size(stream) for stream in streams])


def outcome(action, batch):
    """Return what an action gives, or None and why it refuses."""
    try:
        return action(batch), None
    except InvalidArgumentError as error:
        return None, str(error)


@pytest.mark.parametrize("layout", ["2d", "3d"])
@pytest.mark.parametrize(
    ("mode", "color"),
    [(mode, color) for mode in MODES for color in COLORS if "reversible" not in mode or color[0] == "rgb"],
    ids=str,
)
def test_requantise_is_the_round_trip_and_sizes_are_those_of_streams(mode, layout, color):
    codec = ZFP(**mode, layout=layout, color=color[0], chroma=color[1])
    for dtype in DTYPES:
        for side in ((16, 16), (17, 15), (1, 9), (5, 1), (1, 1)):
            batch = images(side=side, dtype=dtype)
            streams, error = outcome(codec.encode, batch)
            if streams is None:  # a rate that a line of few values cannot have
                assert outcome(codec.requantise, batch) == (None, error)
                continue
            expected, found = codec.decode(streams), codec.requantise(batch)
            assert found.dtype == dtype
            assert torch.equal(found, expected)
            assert torch.equal(codec.size_bits(batch), bits_of(streams))


float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
any_shape = arrays.array_shapes(min_dims=2, max_dims=5, max_side=6)


@given(
    arrays.arrays(np.float32, any_shape, elements=float32s), st.integers(1, 32), st.floats(0.2, 40), st.integers(0, 2)
)
@settings(max_examples=300)
def test_any_floats_are_refused_or_the_same(array, precision, rate, kind):
    batch = torch.from_numpy(array)
    codec = ZFP(clip=None, **[{"precision": precision}, {"rate": rate}, {"tolerance": 2.0 ** (rate - 20)}][kind])
    expected, error = outcome(codec.roundtrip, batch)
    if expected is None:
        assert outcome(codec.requantise, batch) == (None, error)
    else:
        assert torch.equal(codec.requantise(batch).view(torch.int32), expected.view(torch.int32))
        assert torch.equal(codec.size_bits(batch), bits_of(codec.encode(batch)))


@pytest.mark.parametrize("exponent", [-149, -127, -97, -96, -95, 119, 120, 121, 127])
def test_tiny_and_huge_blocks_are_refused_or_the_same(exponent):
    batch = torch.randn(2, 9, 9, generator=torch.Generator().manual_seed(0)).clamp(-1, 1) * 2.0**exponent
    codec = ZFP(precision=30, clip=None)
    if exponent > 120:
        for action in (codec.requantise, codec.size_bits, codec.coefficients, codec.encode):
            with pytest.raises(InvalidArgumentError, match="lossy modes hold"):
                action(batch)
    else:
        assert torch.equal(codec.requantise(batch).view(torch.int32), codec.roundtrip(batch).view(torch.int32))


@pytest.mark.parametrize("exponent", [-149, -125, -100, -96, -92, -80])
@pytest.mark.parametrize("color", COLORS[1:], ids="-".join)
def test_tiny_chroma_is_the_same(exponent, color):
    """Of greys, chroma is what rounding leaves; zfp cannot hold blocks of it."""
    grey = torch.rand(2, 1, 8, 9, generator=torch.Generator().manual_seed(0)) * 2.0**exponent
    batch = torch.cat((grey, grey, grey * (1 + 2.0**-20)), dim=1)
    codec = ZFP(precision=20, color=color[0], chroma=color[1])
    assert torch.equal(codec.requantise(batch), codec.roundtrip(batch))
    assert (codec.roundtrip(batch) - batch).abs().max() <= 2.0**-94
    assert torch.equal(codec.size_bits(batch), bits_of(codec.encode(batch)))


def test_gradients_pass_straight_through():
    batch = images().requires_grad_()
    found = ZFP(precision=5).requantise(batch)
    gradient = torch.randn(batch.shape, generator=torch.Generator().manual_seed(1))
    found.backward(gradient)
    assert torch.equal(batch.grad, gradient)
    assert not ZFP(precision=5).requantise(batch.detach()).requires_grad


def test_idempotent_at_full_precision_of_whole_blocks():
    """Values with few bits are kept by every plane of a block: decoding gives them back, twice."""
    batch = (torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).round() / 256
    once = ZFP(precision=32).requantise(batch)
    assert (once - batch).abs().max() < 2**-24
    assert torch.equal(ZFP(precision=32).requantise(once), once)


@pytest.mark.parametrize("color", COLORS, ids="-".join)
@pytest.mark.parametrize("layout", ["2d", "3d"])
@pytest.mark.parametrize("mode", MODES[:4], ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_coefficients_of_streams_are_those_of_the_batch(mode, layout, color, dtype):
    codec = ZFP(**mode, layout=layout, color=color[0], chroma=color[1])
    batch = images(dtype=dtype)
    of_batch, of_streams = codec.coefficient_arrays(batch), codec.coefficient_arrays_of_streams(codec.encode(batch))
    assert len(of_batch) == len(of_streams)
    for one, other in zip(of_batch, of_streams, strict=True):
        assert torch.equal(one.values, other.values)
        assert torch.equal(one.exponents, other.exponents)
        assert one.shape == other.shape


@pytest.mark.parametrize("layout", ["2d", "3d"])
@pytest.mark.parametrize("mode", MODES[:3], ids=str)
def test_coefficients_invert_to_the_decoded_values(mode, layout):
    batch = images(side=(12, 15))
    codec = ZFP(**mode, layout=layout, clip=None)
    decoded = codec.requantise(batch)
    assert torch.equal(codec.coefficients(batch).invert().reshape(decoded.shape), decoded)
    assert torch.equal(codec.coefficients(batch, scaled=True).invert().reshape(decoded.shape), decoded)


def test_each_channel_has_blocks_of_its_own_in_layout_2d():
    batch = images(side=(32, 32))
    found = ZFP(precision=30, layout="2d").coefficients(batch, scaled=True)
    assert found.values.shape == (3, 3, 8, 8, 16)
    means = batch.unfold(2, 4, 4).unfold(3, 4, 4).mean(dim=(-2, -1))
    assert (found.values[..., 0] - means).abs().max() < 1e-6
    assert ZFP(precision=30).coefficients(batch).values.shape == (3, 1, 1, 8, 8, 64)
    assert ZFP(precision=30, layout="2d").coefficients(images(side=(18, 16))).values.shape == (3, 1, 14, 4, 16)
    per_channel = ZFP(tolerance=(0.1, 0.1, 0.1)).coefficients(images(side=(18, 16)))
    assert per_channel.values.shape == (3, 3, 5, 4, 16)


@pytest.mark.parametrize("stored", [7, 16, 32])
@pytest.mark.parametrize(("layout", "color", "chroma"), [("3d", "rgb", "4:4:4"), ("2d", "ycbcr", "4:2:0")])
def test_a_stream_can_be_read_at_every_lower_precision(stored, layout, color, chroma):
    batch = images()
    high = ZFP(precision=stored, layout=layout, color=color, chroma=chroma)
    streams = high.encode(batch)
    for precision in {1, 3, stored - 1, stored}:
        low = ZFP(precision=precision, layout=layout, color=color, chroma=chroma)
        assert torch.equal(high.decode(streams, precision=precision), low.roundtrip(batch))
        found = high.coefficient_arrays_of_streams(streams, precision=precision)
        for one, other in zip(found, low.coefficient_arrays(batch), strict=True):
            assert torch.equal(one.values, other.values)
    with pytest.raises(InvalidArgumentError, match="no more than were stored"):
        high.decode(streams, precision=stored + 1)


def test_wide_data_read_at_a_lower_precision():
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(4, 9, 10, 11, generator=generator) * torch.exp2(
        40 * torch.rand(4, 9, 10, 11, generator=generator)
    )
    streams = ZFP(precision=32, clip=None).encode(batch)
    for precision in range(1, 33):
        found = ZFP(precision=32, clip=None).decode(streams, precision=precision)
        assert torch.equal(found, ZFP(precision=precision, clip=None).roundtrip(batch))


def test_decoding_again_at_a_lower_precision_is_something_else():
    """Why planes are cut in the stream: what was decoded has other coefficients, in blocks of other exponents."""
    generator = torch.Generator().manual_seed(0)
    batch = torch.rand(64, 3, 16, 16, generator=generator)
    high, low = ZFP(precision=12, clip=None), ZFP(precision=6, clip=None)
    assert not torch.equal(low.requantise(high.requantise(batch)), low.requantise(batch))
    assert torch.equal(high.decode(high.encode(batch), precision=6), low.requantise(batch))


def test_streams_are_read_in_parts(monkeypatch):
    monkeypatch.setattr(block_streams, "find_compiled", lambda name: None)
    codec, batch = ZFP(precision=12), images(count=7)
    streams = codec.encode(batch)
    expected = codec.coefficients_of_streams(streams)
    monkeypatch.setattr(block_streams, "_BYTES", 2 * payload_size(streams[0]))
    found = codec.coefficients_of_streams(streams)
    assert torch.equal(found.values, expected.values)
    assert torch.equal(found.exponents, expected.exponents)


def test_payloads_that_do_not_end_with_their_last_block_are_damaged():
    codec, batch = ZFP(precision=12), images()
    streams = codec.encode(batch)
    payload = streams[1][-payload_size(streams[1]) :]
    for wrong in (payload[:-8], payload + bytes(8), bytes(len(payload)), b"\xff" * len(payload)):
        damaged = [streams[0], seal(codec._kind(), tuple(batch.shape[1:]), batch.dtype, wrong)]
        with pytest.raises(CorruptStreamError, match="example #1") as caught:
            codec.decode(damaged, precision=6)
        assert caught.value.index == 1


@given(st.data())
@settings(max_examples=150)
def test_any_payload_is_refused_or_read_as_zfpy_reads_it(data):
    """Payloads with a right checksum, of bytes drawn or changed at random."""
    codec = data.draw(st.sampled_from([ZFP(precision=9), ZFP(precision=32, layout="2d"), ZFP(precision=2)]))
    payload = bytearray(codec.encode(images(count=1))[0][-payload_size(codec.encode(images(count=1))[0]) :])
    for place, byte in data.draw(
        st.dictionaries(st.integers(0, len(payload) - 1), st.integers(0, 255), max_size=9)
    ).items():
        payload[place] = byte
    stream = seal(codec._kind(), (3, 17, 15), torch.float32, data.draw(st.just(bytes(payload)) | st.binary()))
    with contextlib.suppress(CorruptStreamError):  # any other error fails
        assert torch.equal(codec.decode([stream], precision=codec.precision), codec.decode([stream]))


@pytest.mark.parametrize("cut", [0, 1, 2, 9, 100])
def test_payloads_of_several_arrays_that_are_cut(cut):
    codec, batch = ZFP(tolerance=(0.125, 0.25), color="ycbcr", chroma="4:2:0"), images()
    payload = codec.encode(batch)[0][-payload_size(codec.encode(batch)[0]) :]
    for wrong in (payload[:cut], b"\xff" * 9 + payload, b"\x7f" + payload[1:], b"\x00" + payload[1:]):
        with pytest.raises(CorruptStreamError, match="example #0"):
            codec.decode([seal(codec._kind(), tuple(batch.shape[1:]), batch.dtype, wrong)])


@pytest.mark.parametrize(
    ("codec", "batch", "message"),
    [
        (ZFP(precision=8, color="ycbcr"), torch.rand(2, 1, 8, 8), "takes RGB images"),
        (ZFP(tolerance=(0.1, 0.2)), torch.rand(2, 3, 8, 8), "2 tolerances, one per channel"),
        (ZFP(tolerance=(0.1, 1e-9, 0.1)), torch.rand(2, 3, 8, 8), "needs a tolerance of"),
        (ZFP(precision=8), torch.rand(2, 3, 8, 8) + 1, "values must lie in"),
        (ZFP(rate=0.05), torch.rand(2, 3, 8, 8), "needs 9 bits"),
        (ZFP(precision=8), torch.full((2, 8), float("nan")), "NaN or Inf"),
    ],
)
def test_refused_batches(codec, batch, message):
    for action in (codec.encode, codec.requantise, codec.size_bits, codec.coefficients):
        with pytest.raises(InvalidArgumentError, match=message):
            action(batch)


def test_coefficients_that_are_not_there():
    halved = ZFP(precision=8, color="ycbcr", chroma="4:2:0")
    with pytest.raises(InvalidArgumentError, match="coefficient_arrays"):
        halved.coefficients(images())
    assert [part.shape for part in halved.coefficient_arrays(images())] == [(17, 15), (2, 9, 8)]
    with pytest.raises(InvalidArgumentError, match="lossy modes"):
        ZFP(reversible=True).coefficients(images())
    for precision in (0, 33, 2.5, True):
        with pytest.raises(InvalidArgumentError, match="precision must be"):
            ZFP(precision=8).coefficients(images()).at_precision(precision)
    with pytest.raises(InvalidArgumentError, match="precision must be"):
        ZFP(tolerance=0.1).decode(ZFP(tolerance=0.1).encode(images()), precision=0)


@pytest.mark.gpu
@pytest.mark.parametrize("color", COLORS, ids="-".join)
@pytest.mark.parametrize("mode", MODES[:4], ids=str)
def test_a_gpu_gives_what_the_streams_give(gpu, mode, color):
    codec, batch = ZFP(**mode, color=color[0], chroma=color[1]), images()
    found = codec.requantise(batch.to(gpu))
    assert found.device.type == gpu.type
    assert torch.equal(found.cpu(), codec.roundtrip(batch))
    assert torch.equal(codec.size_bits(batch.to(gpu)).cpu(), codec.size_bits(batch))
    for one, other in zip(codec.coefficient_arrays(batch.to(gpu)), codec.coefficient_arrays(batch), strict=True):
        assert torch.equal(one.values.cpu(), other.values)
