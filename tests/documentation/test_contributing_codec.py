"""The codec of the page "Add a codec", added from outside the package by the public protocol."""

import doctest
import importlib.util
import pickle
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from snippets import read_snippets

from cp_compress.base.errors import CorruptStreamError, InvalidArgumentError
from cp_compress.base.extensions import extending
from cp_compress.data import Codec, CompressedDataset, parse_codec
from cp_compress.data.registry import known_codecs
from cp_compress.examples import digits

PAGE = Path(__file__).resolve().parents[2] / "docs" / "contributing" / "add-a-codec.md"
FILES = {one.title: one.body for one in read_snippets(PAGE.read_text(encoding="utf-8")) if one.title is not None}


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """The page's source file as a module of its own, which pickle finds by its name."""
    path = tmp_path_factory.mktemp("codec") / "posterize.py"
    path.write_text(FILES["posterize.py"], encoding="utf-8")
    specification = importlib.util.spec_from_file_location("posterize", path)
    loaded = importlib.util.module_from_spec(specification)
    sys.modules["posterize"] = loaded
    specification.loader.exec_module(loaded)
    yield loaded
    del sys.modules["posterize"]


@pytest.fixture(scope="module")
def posterize(module):
    return module.Posterize


def test_its_own_example_is_right(module):
    tried = doctest.testmod(module)
    assert tried.attempted > 0
    assert tried.failed == 0


def test_it_is_found_by_its_name(posterize):
    with extending("codec", {"posterize": posterize}, known_codecs()):
        codec = parse_codec("posterize(bits=3)")
        assert codec == posterize(3)
        assert isinstance(codec, Codec)
        assert parse_codec(str(codec)) == pickle.loads(pickle.dumps(codec)) == codec
        for wrong in ("posterize(bits=0)", "posterize(bits=9)", "posterize(bits=2.5)", "posterize()"):
            with pytest.raises(InvalidArgumentError, match="bits"):
                parse_codec(wrong)
    with pytest.raises(InvalidArgumentError, match="no codec is called 'posterize'"):
        parse_codec("posterize(bits=3)")


@given(
    st.integers(1, 8),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.sampled_from([torch.uint8, torch.float32, torch.float64, torch.float16]),
    st.integers(0, 2**32),
)
def test_the_laws_of_codecs(posterize, bits, shape, dtype, seed):
    pixels = torch.rand(3, *shape, generator=torch.Generator().manual_seed(seed))
    batch = (pixels * 255).byte() if dtype == torch.uint8 else pixels.to(dtype)
    codec, before = posterize(bits), batch.clone()
    streams = codec.encode(batch)
    decoded = codec.decode(streams)
    assert torch.equal(batch, before)
    assert (decoded.shape, decoded.dtype) == (batch.shape, batch.dtype)
    assert torch.equal(codec.roundtrip(batch), decoded)
    assert codec.encode(decoded) == streams
    assert streams == [codec.encode(example[None])[0] for example in batch]
    assert all(torch.equal(codec.decode([stream])[0], row) for stream, row in zip(streams, decoded, strict=True))
    scale = 255 if dtype != torch.uint8 else 1
    half_a_step = (256 >> bits) / 2 + 1  # rounding to 8 bits, and that of short floats
    assert ((decoded.double() - batch.double()) * scale).abs().max() <= half_a_step


def test_damaged_streams_and_those_of_other_settings_are_refused(module, posterize):
    codec, batch = posterize(4), torch.rand(2, 1, 6, 6)
    good, other = codec.encode(batch)
    flipped = other[:-1] + bytes([other[-1] ^ 1])
    for stream in (other[:-1], flipped, posterize(5).encode(batch)[1], b"", _bomb(module, codec)):
        with pytest.raises(CorruptStreamError, match="example #1"):
            codec.decode([good, stream])
    for wrong in (torch.full((1, 2), 1.5), torch.full((1, 2), torch.nan), torch.ones(1, 2, dtype=torch.int64)):
        with pytest.raises(InvalidArgumentError, match="Posterize"):
            codec.encode(wrong)


def _bomb(module, codec):
    """Return a stream of a valid envelope whose payload unpacks to more than its shape."""
    return module.seal(codec._kind(), (1, 6, 6), torch.float32, module.zlib.compress(bytes(10_000_000)))


def test_a_compressed_data_set_takes_it(posterize):
    data = digits()
    stored = CompressedDataset(data, posterize(3))
    assert len(stored) == len(data)
    assert 0 < stored.payload_bytes < stored.nbytes
    image, label = stored[5]
    original, expected = data[5]
    assert label == expected
    assert (image - original).abs().max() <= 17 / 255


def test_a_gate_takes_it_by_its_hook(project):
    for name in ("posterize.py", "conftest.py", "pytest.ini", "test_posterize.py"):
        (project.path / name).write_text(FILES[name], encoding="utf-8")
    outcome = project.run(subprocess=True)
    assert outcome.result.ret == 0, outcome.result.stdout.str()
    (check,) = outcome.report["checks"]
    assert check["subjects"]["compressed_data"]["name"] == "posterize(bits=3)"
    assert check["outcome"] == "pass"
    path = project.path / "test_posterize.py"
    path.write_text(path.read_text(encoding="utf-8").replace("bits=3", "bits=1"), encoding="utf-8")
    worse = project.run(subprocess=True)
    assert worse.failed_everywhere
