"""Argument checks accept every kind of number a user has, and say owner, name, value and rule."""

import math

import numpy as np
import pytest
import torch

from cp_compress.base.arguments import check_choice, check_integer, check_real
from cp_compress.base.batching import BatchSize
from cp_compress.base.errors import InvalidArgumentError


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), torch.tensor(0.5), np.array(0.5)])
def test_real_numbers(value):
    assert check_real("F", "x", value, "in (0, 1)", above=0, below=1) == 0.5


@pytest.mark.parametrize("value", [0, 1, -1, math.nan, math.inf, "0.5", True, None, [0.1, 0.2], torch.zeros(2)])
def test_numbers_outside(value):
    with pytest.raises(InvalidArgumentError, match=r"F\(x=.*\): in \(0, 1\)"):
        check_real("F", "x", value, "in (0, 1)", above=0, below=1)


@pytest.mark.parametrize("value", [1.0, "1", True, None, 0, 11, np.float64(3)])
def test_not_whole_or_outside(value):
    with pytest.raises(InvalidArgumentError, match="1 to 10"):
        check_integer("F", "n", value, "1 to 10", at_least=1, at_most=10)


def test_whole_numbers():
    assert check_integer("F", "n", np.int64(3), "1 to 10", at_least=1, at_most=10) == 3


def test_choices_are_listed():
    with pytest.raises(InvalidArgumentError, match="'global', 'layer'"):
        check_choice("Prune", "scope", "all", ("global", "layer"))


def test_batches_cover_everything_once_after_out_of_memory():
    done = []

    def work(part):
        if part.stop - part.start > 2:
            raise MemoryError
        done.extend(range(part.start, part.stop))

    size = BatchSize(9)
    size.run(11, work)
    assert done == list(range(11))
    assert size.limit == 2


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match="shape"):
        BatchSize(4).run(8, lambda part: (_ for _ in ()).throw(RuntimeError("shape")))
