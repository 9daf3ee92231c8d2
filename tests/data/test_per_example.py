"""A codec of several settings: streams read alone, in any order, and nothing that is not what was written."""

import json
import pickle
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cp_compress.base.errors import CorruptStreamError, InvalidArgumentError
from cp_compress.data import (
    JPEG,
    ZFP,
    CoefficientDataset,
    CompressedDataset,
    PerExample,
    StoredDataset,
    parse_codec,
    verify_store,
    write_store,
)

CODEC = PerExample("jpeg(quality={})", (5, 40, 95), "zfp(reversible=True)")
CODECS = (JPEG(5), JPEG(40), JPEG(95), ZFP(reversible=True))


def images(count, seed=0):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_each_example_is_that_of_its_own_codec_whatever_is_read_with_it(chosen, random):
    batch = images(len(chosen))
    streams = CODEC.encode_at(batch, chosen)
    expected = torch.cat([CODECS[one].roundtrip(row[None]) for one, row in zip(chosen, batch, strict=True)])
    order = random.sample(range(len(chosen)), len(chosen))
    assert torch.equal(CODEC.decode([streams[place] for place in order]), expected[order])
    assert [stream[:-1] for stream in streams] == [
        CODECS[one].encode(row[None])[0] for one, row in zip(chosen, batch, strict=True)
    ]


def test_it_is_written_and_read_as_text_and_sent_to_other_processes():
    assert parse_codec(str(CODEC)) == CODEC
    again = pickle.loads(pickle.dumps(CODEC))
    assert (again, again.codecs, hash(again)) == (CODEC, CODECS, hash(CODEC))
    assert not CODEC.lossless


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("jpeg(quality=5)", (1,)), "one {}"),
        (("jpeg(quality={q})", (1,)), "one {}"),
        (("jpeg(quality={})", ()), "one setting or more"),
        (("jpeg(quality={})", (5, 5)), "the same codec"),
        (("jpeg(quality={})", (101,)), "1..100"),
        (("zfp(rate={})", tuple(range(1, 65)) + tuple(place / 256 for place in range(1, 256))), "at most 256"),
    ],
)
def test_settings_that_are_none_are_refused(arguments, told):
    with pytest.raises(InvalidArgumentError, match=told):
        PerExample(*arguments)


def test_nothing_is_encoded_without_a_setting():
    for refused in (
        lambda: CODEC.encode(images(1)),
        lambda: CODEC.roundtrip(images(1)),
        lambda: CompressedDataset((images(2), torch.arange(2)), CODEC),
        lambda: write_store((images(2), torch.arange(2)), CODEC, "nowhere"),
    ):
        with pytest.raises(InvalidArgumentError, match=r"settings=…"):
            refused()
    for wrong in ((0,), (0, 4), (0, -1), (0, 1.5), 3):
        with pytest.raises(InvalidArgumentError, match="settings"):
            CODEC.encode_at(images(2), wrong)
    with pytest.raises(InvalidArgumentError, match="example #1, encoded alone"):
        CODEC.encode_at(torch.stack([images(1)[0], images(1)[0] + 2]), (1, 1))


@pytest.mark.parametrize(
    "change", [lambda one: one[:-1], lambda one: one[:-1] + b"\x09", lambda one: one[:-1] + b"\x00"]
)
def test_a_damaged_stream_is_named(change):
    streams = CODEC.encode_at(images(3), (1, 2, 1))
    streams[1] = change(streams[1])
    with pytest.raises(CorruptStreamError, match="example #1") as caught:
        CODEC.decode(streams)
    assert caught.value.index == 1


def test_a_store_of_many_settings_is_read_as_any_other(tmp_path):
    batch, labels = images(20), torch.arange(20) % 4
    chosen = [place % 3 for place in range(20)]
    write = {"settings": chosen, "record": {"told": [1, None]}, "shard_size": 8, "batch_size": 3}
    stored = write_store((batch, labels), CODEC, tmp_path / "store", **write)
    two = write_store((batch, labels), CODEC, tmp_path / "two", **write | {"batch_size": 20})
    assert stored.digest() == two.digest()
    assert (stored.codec, stored.record, verify_store(stored.path).intact) == (CODEC, {"told": [1, None]}, True)
    expected = torch.stack([CODECS[one].roundtrip(row[None])[0] for one, row in zip(chosen, batch, strict=True)])
    assert torch.equal(torch.stack([image for image, _ in stored.__getitems__(range(20))]), expected)
    before = {file.name: file.stat().st_mtime_ns for file in stored.path.iterdir()}
    assert write_store((batch, labels), CODEC, tmp_path / "store", **write).digest() == stored.digest()
    assert {file.name: file.stat().st_mtime_ns for file in stored.path.iterdir()} == before
    with pytest.raises(InvalidArgumentError, match="another store"):
        write_store((batch, labels), CODEC, tmp_path / "store", **write | {"settings": [2] * 20})
    (stored.path / "shard-00001.safetensors").unlink()
    assert verify_store(stored.path).lost == 8
    assert write_store((batch, labels), CODEC, tmp_path / "store", **write).digest() == two.digest()


def test_a_run_that_was_stopped_goes_on_with_the_same_settings_alone(tmp_path):
    data = images(8), torch.arange(8)
    write = {"settings": [0, 1, 2, 0, 1, 2, 0, 1], "shard_size": 4}
    whole = write_store(data, CODEC, tmp_path / "whole", **write)
    for name in ("same", "other"):
        shutil.copytree(whole.path, tmp_path / f"{name}.partial")
        (tmp_path / f"{name}.partial" / "manifest.json").unlink()
        plan = {"codec": str(CODEC), "examples": 8, "shard_size": 4, "classes": None, "choice": whole._manifest.choice}
        (tmp_path / f"{name}.partial" / "plan.json").write_text(json.dumps(plan))
    assert write_store(data, CODEC, tmp_path / "same", **write).digest() == whole.digest()
    with pytest.raises(InvalidArgumentError, match="another store was begun"):
        write_store(data, CODEC, tmp_path / "other", **write | {"settings": [1] * 8})


def test_manifests_of_other_stores_say_no_more_than_before(tmp_path):
    stored = write_store((images(3), torch.arange(3)), JPEG(50), tmp_path / "store")
    document = json.loads((stored.path / "manifest.json").read_text())
    assert {"choice", "record"}.isdisjoint(document)
    assert stored.record is None
    with pytest.raises(InvalidArgumentError, match="only a PerExample codec"):
        write_store((images(3), torch.arange(3)), JPEG(50), tmp_path / "other", settings=[0, 0, 0])
    for record in ([1], {"a": torch.ones(1)}, {"a": float("nan")}):
        with pytest.raises(InvalidArgumentError, match="plain JSON"):
            write_store((images(3), torch.arange(3)), JPEG(50), tmp_path / "other", record=record)


def test_coefficients_are_those_of_each_setting(tmp_path):
    codec = PerExample("jpeg(quality={}, subsampling='4:4:4')", (10, 90))
    batch, chosen = images(5), [0, 1, 1, 0, 1]
    stored = write_store((batch, torch.arange(5)), codec, tmp_path / "store", settings=chosen)
    found = torch.stack([row for row, _ in CoefficientDataset(stored).__getitems__(range(5))])
    for place, one in enumerate(chosen):
        alone = CoefficientDataset((batch[place : place + 1], torch.arange(1)), codec.codecs[one])[0][0]
        assert torch.equal(found[place], alone)
    with pytest.raises(InvalidArgumentError, match="encode"):
        StoredDataset(stored.path).remake(batch)
