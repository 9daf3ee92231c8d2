"""Objectives against counts by hand; times only for what they must be whatever the machine."""

import pytest
import torch
from torch import nn

import cp_compress.search.objectives as objectives
from cp_compress import CompressionError, InvalidArgumentError, Prune, Quantize, footprint
from cp_compress.search import (
    ArtifactBytes,
    Flops,
    Latency,
    Parameters,
    ResidentBytes,
    Throughput,
    parse_objective,
)

BATCH = torch.ones(3, 8)


@pytest.fixture
def reference():
    return nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)).eval()


def test_counts_are_those_made_by_hand(reference):
    pruned = Prune(0.5, scope="layer").compress(reference)
    weights, biases = 8 * 4 + 4 * 2, 4 + 2
    assert Flops().measure(pruned, reference, BATCH) == 2 * 3 * weights
    assert Parameters().measure(pruned, reference, None) == weights / 2 + biases
    assert Parameters(count="total").measure(pruned, reference, None) == weights + biases
    assert ResidentBytes().measure(pruned, reference, None) == 4 * (weights + biases)
    assert ResidentBytes().measure(Quantize("float16").compress(reference), reference, None) == 2 * (weights + biases)
    assert ArtifactBytes().measure(pruned, reference, None) == footprint(pruned).artifact_bytes


class Counting(nn.Linear):
    """Counts the rows of its calls."""

    def forward(self, inputs):
        self.rows = [*getattr(self, "rows", []), len(inputs)]
        return super().forward(inputs)


def test_times_are_measured_in_turns_on_the_batch_asked_for():
    first, second = Counting(8, 2), Counting(8, 2)
    assert Latency(repeats=7).measure(first, second, BATCH) > 0
    assert first.rows == second.rows == [3] * 8  # one to warm up
    assert Throughput(batch_size=7, repeats=8).measure(first, second, BATCH) > 0
    assert first.rows[8:] == second.rows[8:] == [7] * 9


def test_a_share_of_time_is_a_bound_on_its_median(monkeypatch):
    ours, theirs = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0], [10.0] * 10
    monkeypatch.setattr(objectives, "time_in_turns", lambda *arguments: (ours, theirs))
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    # of 10 turns, two or more lie on each side of the median with a probability of 1 − 11/1024, one or more 1 − 1/1024
    assert Latency(10).measure(first, second, BATCH) == 1.0
    assert Latency(10).measure(first, first, BATCH) == 0.1


def test_pruning_that_saves_no_time_is_not_faster(reference):
    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    wins = 0
    for _ in range(20):
        candidate, objective = Prune(0.5).compress(reference), Latency(15)
        wins += objective.measure(candidate, reference, inputs) < objective.measure(reference, reference, inputs)
    assert wins <= 3  # each with a probability far below 1 %


def test_a_batch_is_filled_with_the_rows_that_there_are():
    filled = Throughput(batch_size=5)._fill({"x": torch.arange(3), "flag": True})
    assert filled["x"].tolist() == [0, 1, 2, 0, 1]
    assert filled["flag"] is True


@pytest.mark.parametrize(
    "objective",
    [Flops(), Parameters(), Parameters("total"), ArtifactBytes(), ResidentBytes(), Latency(9), Throughput(8, 9)],
)
def test_an_objective_is_its_text(objective):
    assert parse_objective(str(objective)) == objective


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("parameters(count=all)", "'nonzero', 'total'"),
        ("latency(repeats=6)", "7 or more"),
        ("throughput(batch_size=0)", "1 or more"),
        ("energy", "no objective is called 'energy'"),
        ("flops | latency", "give one"),
    ],
)
def test_bad_objectives_are_refused(text, rule):
    with pytest.raises(InvalidArgumentError, match=rule):
        parse_objective(text)


def test_operations_that_cannot_be_counted_are_an_error(reference):
    with pytest.raises(CompressionError, match="no floating-point operations"):
        Flops().measure(nn.ReLU(), reference, BATCH)
