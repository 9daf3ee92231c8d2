"""Compressed models are made once for each content, shared between workers and runs, and never trusted blindly."""

import copy
import hashlib
import json

import pytest
import torch
from torch import nn

from cp_compress.model import parse_scheme, save
from pytest_cp.session.cache import CompressedModelCache

CPU = torch.device("cpu")


class CountingScheme:
    """A scheme that counts how often it works."""

    def __init__(self, text):
        self.scheme, self.calls = parse_scheme(text), 0

    def __str__(self):
        return str(self.scheme)

    def __eq__(self, other):
        return str(self) == str(other)

    __hash__ = None

    def compress(self, model):
        self.calls += 1
        return self.scheme.compress(model)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5)).eval()


@pytest.fixture
def scheme():
    return CountingScheme("prune(density=0.3) | quantize(int8)")


def test_made_once_in_memory(model, scheme):
    cache = CompressedModelCache(None)
    first = cache.compress(model, scheme, CPU)
    assert cache.compress(model, scheme, CPU) is first
    assert scheme.calls == 1


def test_other_content_is_made_anew(model, scheme):
    cache = CompressedModelCache(None)
    cache.compress(model, scheme, CPU)
    model[0].weight.data[0, 0] += 1
    cache.compress(model, scheme, CPU)
    assert scheme.calls == 2


@pytest.mark.parametrize(
    "text", ["prune(density=0.3)", "quantize(int8)", "quantize(float16)", "quantize(int8, mode=dynamic)"]
)
def test_from_disk_it_is_the_same_bit_for_bit(model, tmp_path, text):
    scheme = CountingScheme(text)
    made = CompressedModelCache(tmp_path).compress(model, scheme, CPU)
    loaded = CompressedModelCache(tmp_path).compress(model, scheme, CPU)
    assert scheme.calls == 1
    inputs = torch.randn(7, 20)
    assert torch.equal(made(inputs), loaded(inputs))


def test_schemes_of_the_users_own_are_not_kept_on_disk(model, tmp_path):
    class Scaled:
        def __init__(self, factor):
            self.factor = factor

        def __str__(self):
            return "scaled"

        def compress(self, model):
            scaled = copy.deepcopy(model)
            scaled[0].weight.data *= self.factor
            return scaled

    first = CompressedModelCache(tmp_path).compress(model, Scaled(2.0), CPU)
    second = CompressedModelCache(tmp_path).compress(model, Scaled(3.0), CPU)
    assert torch.equal(first[0].weight, 2 * model[0].weight)
    assert torch.equal(second[0].weight, 3 * model[0].weight)
    assert not list(tmp_path.glob("*.cp"))


def test_damaged_file_is_made_again(model, scheme, tmp_path):
    CompressedModelCache(tmp_path).compress(model, scheme, CPU)
    (stored,) = tmp_path.glob("*.cp")
    stored.write_bytes(stored.read_bytes()[:-7])
    cache = CompressedModelCache(tmp_path)
    cache.compress(model, scheme, CPU)
    assert scheme.calls == 2
    assert "created again" in cache.notes[0]
    CompressedModelCache(tmp_path).compress(model, scheme, CPU)
    assert scheme.calls == 2


def test_a_file_of_another_scheme_or_reference_is_not_taken(model, tmp_path):
    """Whatever lies under the name of a file: what is loaded is what was asked for, or it is made again."""
    asked = parse_scheme("prune(density=0.3)")
    made = CompressedModelCache(tmp_path).compress(model, asked, CPU)
    (stored,) = tmp_path.glob("*.cp")
    told = stored.with_suffix(".json")
    good, description = stored.read_bytes(), told.read_text()
    other = copy.deepcopy(model)
    other[0].weight.data.neg_()
    described = description.replace(digest(stored), "{}")
    another, unchanged = parse_scheme("quantize(float16)").compress(model), model
    # who forges both files with the right steps has another candidate: see the threat model
    for candidate, forged_too in (
        (another, False),
        (another, True),
        (unchanged, True),
        (asked.compress(other), False),
    ):
        save(candidate, stored)
        told.write_text(described.replace("{}", digest(stored)) if forged_too else description)
        cache = CompressedModelCache(tmp_path)
        found = cache.compress(model, asked, CPU)
        assert torch.equal(found[0].weight, made[0].weight)
        assert "created again" in cache.notes[0]
        assert stored.read_bytes() == good
    for change in ("reference", "scheme", "versions"):
        stored.write_bytes(good)
        told.write_text(json.dumps({**json.loads(description), change: "another"}))
        cache = CompressedModelCache(tmp_path)
        cache.compress(model, asked, CPU)
        assert f"was made with another {change} than was asked for" in cache.notes[0]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_record_says_that_its_candidate_is_from_the_cache(project):
    project.write_test("""
@pytest.mark.compress_model("prune(density=0.7)")
def test_gate(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)
""")
    (first,), (again,) = (project.run("--cp-cache-dir=kept").report["checks"] for _ in range(2))
    assert not any("cache" in note for note in first["notes"])
    assert again["notes"][-1].startswith("the candidate was read from the cache: ")
    assert again["subjects"]["candidate"]["cached"].endswith(".cp")
    assert again["subjects"]["candidate"]["digest"] == first["subjects"]["candidate"]["digest"]


def test_folder_that_cannot_be_written(model, scheme, tmp_path):
    (tmp_path / "file").write_text("")
    cache = CompressedModelCache(tmp_path / "file" / "folder")
    cache.compress(model, scheme, CPU)
    cache.compress(model, scheme, CPU)
    assert scheme.calls == 1
    assert len(cache.notes) == 1


def test_two_workers_at_once(project):
    """Both workers ask for one candidate; the lock lets one of them make it, and both see the same."""
    with (project.path / "conftest.py").open("a", encoding="utf-8") as file:
        file.write("""
from cp_compress import Prune

made = Prune.compress
def compress(self, model):
    import os, pathlib, time
    pathlib.Path("made-" + os.environ.get("PYTEST_XDIST_WORKER", "main")).touch()
    time.sleep(1)
    return made(self, model)
Prune.compress = compress
""")
    project.write_test("""
@pytest.mark.parametrize("number", range(6))
@pytest.mark.compress_model("prune(density=0.7)")
def test_gate(compressed_model, reference_model, dataset, number):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)
""")
    outcome = project.run("-n2", subprocess=True)
    assert outcome.result.ret == 0
    assert len(list(project.path.glob("made-*"))) == 1
    assert len({check["subjects"]["candidate"]["digest"] for check in outcome.report["checks"]}) == 1
