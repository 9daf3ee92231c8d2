"""What is compiled for JPEG gives the numbers of the steps, and refuses what they refuse with the same words."""

import io
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cp_compress.base.errors import CorruptStreamError
from cp_compress.data import JPEG
from cp_compress.data.compiled.compiler import find_compiled
from cp_compress.data.container import seal, unseal
from cp_compress.data.jpeg import coefficients, entropy

pytest.importorskip("numba", reason="numba is not installed (extra: kernels)")


def drawn(chance):
    """A codec and images of any size, grey or in colours, smooth or noisy."""
    channels, size = chance.choice([1, 3]), (chance.randrange(1, 36), chance.randrange(1, 36))
    generator = torch.Generator().manual_seed(chance.randrange(2**32))
    images = torch.rand(chance.randrange(1, 4), channels, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(images, size, mode="bilinear")
    images += chance.choice([0, 0.1, 1]) * torch.randn(images.shape, generator=generator)
    codec = JPEG(
        chance.randrange(1, 101), chance.choice(["4:4:4", "4:2:2", "4:2:0"]), chance.choice(["shared"] * 3 + ["inline"])
    )
    return codec, (255 * images.clamp(0, 1)).to(torch.uint8)


def outcome(codec, streams):
    try:
        return codec.coefficients_of_streams(streams), None
    except CorruptStreamError as error:
        return None, (str(error), error.index)


@given(st.integers(0, 2**64))
@settings(max_examples=50)
def test_streams_are_read_or_refused_as_by_steps(seed):
    chance = random.Random(seed)
    codec, images = drawn(chance)
    streams = codec.encode(images)
    if codec.tables == "shared" and chance.random() < 0.6:
        place = chance.randrange(len(streams))
        sealed = unseal(streams[place], codec._kind(), place)
        scan = bytearray(sealed.payload)
        for _ in range(chance.randrange(1, 4)):
            scan[chance.randrange(len(scan))] = chance.randrange(255)  # 255 alone would be a marker
        scan = bytes(scan)[: chance.randrange(1, len(scan) + 1)] + chance.choice([b"", b"", b"\0\1"])
        streams[place] = seal(codec._kind(), sealed.shape, sealed.dtype, scan)
    found = outcome(codec, streams)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entropy, "find_compiled", lambda name: None)
        expected = outcome(codec, streams)
    assert found[1] == expected[1]
    if expected[0] is not None:
        assert all(map(torch.equal, found[0].components, expected[0].components))


@given(st.integers(0, 2**64))
@settings(max_examples=30)
def test_results_are_those_of_the_steps(seed):
    codec, images = drawn(random.Random(seed))
    expected = coefficients.requantise_stepwise(images, codec.quality, codec.subsampling)
    assert torch.equal(codec.requantise(images), expected)


@pytest.mark.parametrize("options", [{"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 1}])
def test_files_that_the_codec_does_not_write_are_refused_by_their_tables(options):
    image = Image.effect_noise((24, 24), 60)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=75, **options)
    codec = JPEG(75, tables="inline")
    kind = unseal_kind(codec)
    stream = seal(kind, (1, 24, 24), torch.uint8, file.getvalue())
    assert codec.decode([stream]).shape == (1, 1, 24, 24)
    with pytest.raises(CorruptStreamError, match=r"#0.*(tables|markers)"):
        codec.coefficients_of_streams([stream])


def unseal_kind(codec):
    """The envelope of whole files, as the codec itself finds it."""
    (stream,) = codec.encode(torch.zeros(1, 1, 8, 8))
    return codec._stored_as([stream])


def test_it_is_compiled_here():
    assert find_compiled("jpeg_scans") is not None
    assert find_compiled("jpeg_pixels") is not None
