"""Files that an earlier version wrote are still read, and written again they are the same."""

from __future__ import annotations

import dataclasses
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from saved_models import SCHEMES, small_images, small_network

from cp_compress.base.digests import digest_model
from cp_compress.base.errors import CompressionError
from cp_compress.model import LowRank, compression_report, compression_steps, footprint, load, save
from cp_compress.model.record import read_steps

FOLDER = Path(__file__).parent / "saved_files"
DIGESTS = {
    "channels": "8cb6f93dfca8b6cfa32ba9afd6c90c944518284cbf4ee1637910c3092ac5ced5",
    "dynamic_integers": "2779ce5dc70069746972acdcdbaca240b248f8e55812059dbdb2d27ccbc774dc",
    "factors_of_integers": "dd9367b96212dfd50a16e75d7464640b05251d5f96149d06fa65fe30759132ba",
    "fixed_point": "1a2473d0ccbce5a333f70dfe06ce3ce22c364a2a8e275f2dd8ca2448f86c32c0",
    "half_computed": "4302fbba39feefddcb92d4dfd4916e877d0b7aac5ae8055622397073defbb3fa",
    "half_stored": "d713f451bacbe0313da46649f7a8558628785c79ca1a9453e7ca42ce55d00d60",
    "own_scheme": "429181b9eb339503d6d77d11f2d97c9867fb46eb6078e6fcc176e4879935a283",
    "static_integers": "3b27c213a8428102682ecedf23b3bef7afef1c7f2a9eeccf4e8e6d62830f3415",
}


def content(path):
    """The arrays of a file and the text of its table: compressed bytes may differ from one zlib to another."""
    arrays = safetensors.numpy.load(path.read_bytes())
    arrays.pop("sha256")
    table = json.loads(zlib.decompress(arrays.pop("table").tobytes()))
    table.pop("kinds", None)  # which older files do not have
    return json.dumps(table), arrays


def as_written_now(text):
    """Return a text of an earlier version, which left out what a scheme does where that is the default."""
    return text.replace("nm_prune()", "nm_prune(n=2, m=4)")


@pytest.mark.parametrize("name", SCHEMES)
def test_a_file_of_an_earlier_version_is_read_and_written_as_it_was(name, tmp_path):
    loaded = load(FOLDER / f"{name}.cp", small_network())
    assert digest_model(loaded) == DIGESTS[name]
    assert as_written_now(" | ".join(compression_steps(loaded))) == str(SCHEMES[name])
    assert loaded[0].training
    assert not loaded[1].training
    save(loaded, tmp_path / "again.cp")
    output = loaded.eval()(small_images())
    assert output.dtype == torch.float32
    assert bool(torch.isfinite(output).all())
    (before, arrays), (after, again) = content(FOLDER / f"{name}.cp"), content(tmp_path / "again.cp")
    assert after == before
    assert arrays.keys() == again.keys()
    assert all(np.array_equal(arrays[key], again[key]) for key in arrays)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_makes_the_same_file_as_an_earlier_version(name, tmp_path):
    model = SCHEMES[name].compress(small_network())
    model[0].train()
    save(model, tmp_path / "model.cp")
    tables = [json.loads(as_written_now(content(path)[0])) for path in (FOLDER / f"{name}.cp", tmp_path / "model.cp")]
    for table in tables:
        table["arrangement"].pop("made_from", None)  # which earlier versions did not write
    assert tables[0]["arrangement"] == tables[1]["arrangement"]
    assert list(tables[0]["arrangement"]) == list(tables[1]["arrangement"])
    assert [names for names, _ in tables[0]["tensors"]] == [names for names, _ in tables[1]["tensors"]]


SIZES = {
    "channels": (270, 147, 1112),
    "dynamic_integers": (705, 495, 976),
    "factors_of_integers": (649, 616, 1336),
    "fixed_point": (705, 704, 2488),
    "half_computed": (705, 705, 1442),
    "half_stored": (705, 235, 1466),
    "own_scheme": (705, 302, 2876),
    "static_integers": (705, 705, 996),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_sizes_are_those_that_an_earlier_version_found(name):
    found = footprint(load(FOLDER / f"{name}.cp", small_network()))
    assert (found.parameters, found.nonzero, found.resident_bytes) == SIZES[name]


def test_the_order_of_schemes_is_judged_on_a_model_that_was_read():
    for name, first in (("half_stored", "prune"), ("own_scheme", "prune")):
        loaded = load(FOLDER / f"{name}.cp", small_network())
        assert any(step.leaves for step in read_steps(loaded))
        with pytest.raises(CompressionError, match=rf"low_rank.* cannot follow {first}"):
            LowRank(rank=1).compress(loaded)


def test_what_a_read_model_reports_is_what_the_compressed_model_reports():
    for name, scheme in SCHEMES.items():
        loaded, model = load(FOLDER / f"{name}.cp", small_network()), small_network()
        report = compression_report(model, loaded)
        made = compression_report(model, scheme.compress(model))
        assert [(layer.name, layer.dtype_after, layer.actions) for layer in report.layers] == [
            (layer.name, layer.dtype_after, layer.actions) for layer in made.layers
        ]
        skipped = [dataclasses.replace(one, scheme=as_written_now(one.scheme)) for one in report.skipped]
        assert skipped == list(made.skipped)
