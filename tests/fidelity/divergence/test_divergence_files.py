"""Inputs on which models disagree, kept in files and asked about again."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from cp_compress.base.errors import CorruptStreamError, InvalidArgumentError
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import find_divergence, load_divergence, observe, replay_divergence, save_divergence
from cp_compress.fidelity.divergence.comparison import as_measurement
from cp_compress.model import parse_scheme


def digit_seeds(count=24):
    return observe(digits_cnn(), digits()).data.select(range(count))[0]


@pytest.fixture
def saved(tmp_path):
    model, data = digits_cnn(), digits()
    candidate = parse_scheme("prune(density=0.4)").compress(model)
    seeds = digit_seeds(12)
    found = find_divergence(candidate, model, seeds, epsilon=0.3)
    labels = observe(model, data).labels[:12]
    return save_divergence(tmp_path / "hits.npz", found, torch.arange(12), labels), found, candidate


def test_saved_inputs_come_back_and_are_replayed(saved):
    path, found, candidate = saved
    kept = load_divergence(path)
    assert torch.equal(kept.inputs, found.inputs[found.found])
    assert torch.equal(kept.examples, found.found.nonzero().flatten())
    model, data = digits_cnn(), digits()
    again, examples = replay_divergence(observe(candidate, data), observe(model, data), path)
    assert bool(again.found.all())
    assert torch.equal(examples, kept.examples)
    fixed, _ = replay_divergence(observe(copy.deepcopy(model), data), observe(model, data), path)
    assert not bool(fixed.found.any())


def test_a_replay_has_its_labels_in_the_file(saved):
    path, _, candidate = saved
    kept = load_divergence(path)
    model, (inputs, labels) = digits_cnn(), observe(digits_cnn(), digits()).data.select(range(2))
    seen = [observe(one, (inputs, labels)) for one in (candidate, model)]
    again, examples = replay_divergence(*seen, kept)
    measured = as_measurement(again, examples, seen[1], kept.labels)
    assert measured.metrics["divergence_rate"] == 1
    assert {change.index for change in measured.examples} == set(kept.examples.tolist())
    assert {change.label for change in measured.examples} == set(map(str, kept.labels.tolist()))


def test_images_are_saved_as_bytes(tmp_path):
    model = digits_cnn()
    seeds = (digit_seeds(6) * 255).round() / 255
    found = find_divergence(
        parse_scheme("prune(density=0.3)").compress(model), model, seeds, epsilon=0.2, lattice="uint8"
    )
    path = save_divergence(tmp_path, found, torch.arange(6), torch.zeros(6, dtype=torch.int64))
    assert path.parent == tmp_path
    with np.load(path) as content:
        assert content["inputs"].dtype == np.uint8
    assert torch.equal(load_divergence(path).inputs, found.inputs[found.found])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inputs_of_few_bits_are_saved_as_they_are(tmp_path, dtype):
    torch.manual_seed(0)
    model, other = nn.Linear(4, 3).to(dtype), nn.Linear(4, 3).to(dtype)
    seeds = torch.rand(8, 4).to(dtype)
    found = find_divergence(other, model, seeds, epsilon=0.3, restarts=0)
    assert bool(found.found.any())
    path = save_divergence(tmp_path, found, torch.arange(8), torch.zeros(8, dtype=torch.int64))
    kept = load_divergence(path).inputs
    assert kept.dtype == dtype
    assert torch.equal(kept, found.inputs[found.found])


def test_a_file_with_something_else_in_it_stays(tmp_path):
    torch.manual_seed(0)
    model, *candidates = (nn.Linear(4, 3) for _ in range(3))
    searches = [find_divergence(one, model, torch.rand(8, 4), epsilon=0.5, restarts=0) for one in candidates]
    nothing = torch.arange(8), torch.zeros(8, dtype=torch.int64)
    paths = [save_divergence(tmp_path / "same.npz", found, *nothing) for found in (*searches, searches[0])]
    assert paths[0] == paths[2] == tmp_path / "same.npz"
    assert paths[1].name.startswith("same-")
    for path, found in zip(paths, searches, strict=False):
        assert torch.equal(load_divergence(path).inputs, found.inputs[found.found])
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths}


def test_damaged_and_foreign_files_are_refused(saved, tmp_path):
    path, *_ = saved
    content = path.read_bytes()
    other = tmp_path / "other.npz"
    for damaged in (b"", b"PK\x03\x04", content[: len(content) // 2], b"x" * 100):
        other.write_bytes(damaged)
        with pytest.raises(CorruptStreamError, match=r"other\.npz"):
            load_divergence(other)
    np.savez(other, header=np.array([{"format": 1}], dtype=object))
    with pytest.raises(CorruptStreamError, match=r"other\.npz"):
        load_divergence(other)


def test_saved_inputs_of_another_shape_are_refused(saved):
    path, *_ = saved
    data = torch.rand(4, 5), torch.zeros(4, dtype=torch.int64)
    model = nn.Linear(5, 3)
    with pytest.raises(InvalidArgumentError, match="shape"):
        replay_divergence(observe(nn.Linear(5, 3), data), observe(model, data), path)
