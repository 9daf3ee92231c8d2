"""The checkpoint of a training run: going on as if nothing had happened, and refusing what is of another run."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from training_subjects import equal, make_data, make_reference

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.examples import digits, digits_cnn
from cp_compress.model import LowRank, Prune, Quantize
from cp_compress.search import (
    LC,
    Direct,
    Gradual,
    PreserveAgreement,
    PreserveCost,
    train_compressed,
)


class Interrupted(Exception):
    """Stands for the end of the process."""


def counted(inputs, generator):
    """Leave the inputs alone, and give up after a number of batches, `left`."""
    if counted.left is not None:
        if counted.left == 0:
            raise Interrupted
        counted.left -= 1
    return inputs + 0.01 * torch.randn(inputs.shape, generator=generator)


counted.left = None  # an attribute of a function is no part of what it does


@pytest.fixture(scope="module")
def reference():
    return make_reference()


@pytest.fixture(scope="module")
def data():
    return make_data()


CASES = [
    (Prune(0.2), Direct()),
    (Prune(0.2), Gradual(every=2)),
    (Prune(0.2) | Quantize("int8"), LC(every=3)),
    (LowRank(rank=4), LC(every=3)),
]


@pytest.mark.parametrize(("scheme", "method"), CASES, ids=str)
@pytest.mark.parametrize("interrupted_after", [3, 12, 17])
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(reference, data, scheme, method, interrupted_after, tmp_path):
    options = {
        "epochs": 4,
        "batch_size": 32,
        "method": method,
        "augment": counted,
        "preserve": [PreserveAgreement(at_most=0.1)],
        "validation": data,
        "seed": 3,
    }
    counted.left = None
    before = torch.get_rng_state()
    whole = train_compressed(reference, scheme, data, checkpoint=tmp_path / "whole.pt", **options)
    assert torch.equal(torch.get_rng_state(), before)
    counted.left = interrupted_after
    with pytest.raises(Interrupted):
        train_compressed(reference, scheme, data, checkpoint=tmp_path / "part.pt", **options)
    counted.left = None
    resumed = train_compressed(reference, scheme, data, checkpoint=tmp_path / "part.pt", **options)
    assert equal(whole.model, resumed.model)
    assert whole.history == resumed.history
    assert len(whole.history) == 4
    again = train_compressed(reference, scheme, data, checkpoint=tmp_path / "part.pt", **options)
    assert equal(whole.model, again.model)


def test_the_checkpoint_of_another_run_and_a_damaged_one_are_refused(reference, data, tmp_path):
    path = tmp_path / "run.pt"
    options = {"steps": 5, "batch_size": 32, "checkpoint": path}
    train_compressed(reference, Prune(0.2), data, **options)
    with pytest.raises(InvalidArgumentError, match="another scheme"):
        train_compressed(reference, Prune(0.3), data, **options)
    with pytest.raises(InvalidArgumentError, match="another seed"):
        train_compressed(reference, Prune(0.2), data, seed=1, **options)
    options["steps"] = 6
    with pytest.raises(InvalidArgumentError, match="another steps"):
        train_compressed(reference, Prune(0.2), data, **options)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        train_compressed(reference, Prune(0.2), data, **options)
    assert path.read_bytes() == b"no checkpoint"


def sgd(rate):
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("optimizer", {"optimizer": sgd(0.02)}),
        ("validation", {"validation": (torch.ones(2, 1, 8, 8), torch.tensor([0, 1]))}),
        ("monitor", {"monitor": "loss"}),
        ("patience", {"patience": 3}),
        ("preserve", {"preserve": [PreserveCost(0.1, class_distance=100 * (1 - torch.eye(10)))]}),
        ("loss", {"loss": functools.partial(nn.functional.cross_entropy, label_smoothing=0.1)}),
    ],
)
def test_a_checkpoint_is_that_of_all_its_arguments(data, tmp_path, name, other):
    options = {
        "steps": 2,
        "batch_size": 32,
        "checkpoint": tmp_path / "run.pt",
        "optimizer": sgd(0.01),
        "validation": data,
        "preserve": [PreserveCost(0.1, class_distance=1 - torch.eye(10))],
        "loss": functools.partial(nn.functional.cross_entropy, label_smoothing=0.2),
    }
    first = train_compressed(digits_cnn(), Prune(0.2), digits(), **{**options, "validation": digits()})
    again = train_compressed(digits_cnn(), Prune(0.2), digits(), **{**options, "validation": digits()})
    assert equal(first.model, again.model)
    with pytest.raises(InvalidArgumentError, match=f"another {name};"):
        train_compressed(digits_cnn(), Prune(0.2), digits(), **{**options, "validation": digits(), **other})


@pytest.mark.parametrize(("checkpoint", "rule"), [("nowhere/run.pt", "folder does not exist"), (".", "it is a folder")])
def test_a_checkpoint_that_cannot_be_written_is_refused_at_once(data, reference, tmp_path, checkpoint, rule):
    def never(parameters):
        raise AssertionError

    with pytest.raises(InvalidArgumentError, match=rule):
        train_compressed(reference, Prune(0.2), data, steps=2, optimizer=never, checkpoint=tmp_path / checkpoint)
