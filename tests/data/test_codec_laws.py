"""What holds for every codec, drawn at random."""

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cp_compress.base.errors import CorruptStreamError, InvalidArgumentError
from cp_compress.data import CORRUPTION_NAMES, JPEG, ZFP, Codec, corrupt, parse_codec
from cp_compress.examples import digits, digits_cnn

jpegs = st.builds(JPEG, st.integers(1, 100), st.sampled_from(["4:2:0", "4:2:2", "4:4:4"]))
bounds = st.floats(-1e300, 1e300)
modes = st.one_of(
    st.fixed_dictionaries({"rate": st.floats(0, 64, exclude_min=True)}),
    st.fixed_dictionaries({"precision": st.integers(1, 64)}),
    st.fixed_dictionaries({"tolerance": st.floats(0, exclude_min=True, allow_infinity=False)}),
    st.just({"reversible": True}),
)
clips = st.none() | st.tuples(bounds, bounds).filter(lambda pair: pair[0] < pair[1])
zfps = st.builds(
    lambda mode, layout, clip: ZFP(**mode, layout=layout, clip=clip), modes, st.sampled_from(["2d", "3d"]), clips
)


@given(jpegs | zfps)
def test_text_pickle_and_hash(codec):
    assert isinstance(codec, Codec)
    for again in (parse_codec(str(codec)), parse_codec(repr(codec)), pickle.loads(pickle.dumps(codec))):
        assert again == codec
        assert hash(again) == hash(codec)
        assert str(again) == str(codec)


usable = st.one_of(
    jpegs,
    st.builds(ZFP, rate=st.floats(1, 20)),
    st.builds(ZFP, precision=st.integers(1, 32), layout=st.sampled_from(["2d", "3d"])),
    st.builds(ZFP, tolerance=st.floats(1e-6, 2)),
    st.just(ZFP(reversible=True)),
)
shapes = st.tuples(st.integers(1, 4), st.sampled_from([1, 3]), st.integers(2, 18), st.integers(2, 18))
dtypes = st.sampled_from([torch.uint8, torch.float32, torch.float64, torch.float16, torch.bfloat16])


def make_batch(shape, dtype, seed):
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return (pixels * 255).byte() if dtype == torch.uint8 else pixels.to(dtype)


@given(usable, shapes, dtypes, st.integers(0, 2**32))
def test_streams_stand_alone(codec, shape, dtype, seed):
    batch = make_batch(shape, dtype, seed)
    before = batch.clone()
    streams = codec.encode(batch)
    decoded = codec.roundtrip(batch)
    assert torch.equal(batch, before)
    assert streams == [codec.encode(example[None])[0] for example in batch]
    assert torch.equal(decoded, codec.decode(streams))
    assert torch.equal(decoded, torch.cat([codec.decode([stream]) for stream in streams]))
    assert (decoded.shape, decoded.dtype, decoded.device) == (batch.shape, batch.dtype, batch.device)
    assert codec.lossless <= torch.equal(decoded, batch)
    if dtype != torch.uint8:
        assert decoded.min() >= 0
        assert decoded.max() <= 1


@given(usable, st.data())
def test_any_flipped_bit_names_its_example(codec, data):
    streams = codec.encode(make_batch((3, 3, 8, 8), torch.float32, 0))
    index = data.draw(st.integers(0, 2))
    damaged = bytearray(streams[index])
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    streams[index] = bytes(damaged)
    with pytest.raises(CorruptStreamError) as caught:
        codec.decode(streams)
    assert caught.value.index == index


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "expanded", "gradient"])
@pytest.mark.parametrize("codec", [JPEG(80), ZFP(precision=12)], ids=str)
def test_how_a_batch_lies_in_memory_does_not_matter(codec, layout):
    batch = make_batch((2, 3, 8, 8), torch.float32, 1)
    views = {
        "channels_last": lambda: batch.to(memory_format=torch.channels_last),
        "transposed": lambda: batch.transpose(2, 3).contiguous().transpose(2, 3),
        "expanded": lambda: batch[:1].expand(2, -1, -1, -1),
        "gradient": lambda: batch.clone().requires_grad_(),
    }
    view = views[layout]()
    assert codec.encode(view) == codec.encode(view.detach().clone().contiguous())


@pytest.mark.parametrize("streams", [[], b"cp", "cp", None, 5, (stream for stream in ())])
@pytest.mark.parametrize("codec", [JPEG(80), ZFP(precision=12)], ids=str)
def test_refused_streams(codec, streams):
    with pytest.raises(InvalidArgumentError, match="must be a sequence"):
        codec.decode(streams)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "png(1)",
        "jpeg",
        "jpeg(quality=0)",
        "jpeg(75) | zfp(rate=4)",
        "zfp()",
        "zfp(rate=1, precision=2)",
        "zfp(",
        75,
    ],
)
def test_refused_texts(text):
    with pytest.raises(InvalidArgumentError):
        parse_codec(text)


@pytest.mark.gpu
@pytest.mark.parametrize("codec", [JPEG(80), ZFP(precision=12)], ids=str)
def test_a_batch_on_a_gpu_comes_back_there(gpu, codec):
    batch = make_batch((2, 3, 8, 8), torch.float32, 1)
    decoded = codec.roundtrip(batch.to(gpu))
    assert decoded.device.type == gpu.type
    assert torch.equal(decoded.cpu(), codec.roundtrip(batch))


@pytest.fixture(params=[torch.float16, torch.bfloat16, torch.float64], ids=str)
def other_default(request):
    kept = torch.get_default_dtype()
    yield lambda: torch.set_default_dtype(request.param)
    torch.set_default_dtype(kept)


def test_nothing_depends_on_the_default_dtype(other_default):
    pixels = make_batch((2, 3, 16, 12), torch.uint8, 0)
    whole = torch.rand(2, 3, 16, 12, generator=torch.Generator().manual_seed(1))
    codecs = [ZFP(tolerance=1e-4), ZFP(rate=4), ZFP(precision=9, color="ycbcr", chroma="4:2:0"), JPEG(50)]

    def found():
        streams = [codec.encode(batch) for codec in codecs for batch in (pixels, whole)]
        requantised = [codec.requantise(pixels) for codec in codecs]
        corrupted = [corrupt(whole, name, 3) for name in CORRUPTION_NAMES]
        with torch.no_grad():
            return streams, [*requantised, *corrupted, digits_cnn()(digits().tensors[0][:4])]

    expected = found()
    # the fractions of pixels, written out, lie within the tolerance
    assert (codecs[0].roundtrip(pixels).double() - pixels.double()).abs().max() <= 1
    other_default()
    streams, tensors = found()
    assert streams == expected[0]
    assert all(map(torch.equal, tensors, expected[1]))
