"""The size of batches is chosen by how long calls take, within what is allowed, and is one for both models."""

import pytest
import torch

from cp_compress import compare_predictions, observe
from cp_compress.base.batching import Pace
from cp_compress.fidelity.observing import passes


def sizes_of(pace, seconds, calls):
    sizes = []
    for call in range(calls):
        sizes.append(pace.size(call))
        pace.took(call, seconds(sizes[-1]))
    return sizes


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (lambda rows: rows, [8, 8, 4, 4, 16, 16, 8, 8, 8]),
        (lambda rows: rows**2, [8, 8, 4, 4, 2, 2, 1, 1, 1]),
        (lambda rows: 1 + abs(rows - 4), [8, 8, 4, 4, 2, 2, 4, 4, 4]),
        (lambda rows: 1, [8, 8, 4, 4, 16, 16, 32, 32, 32]),
        (lambda rows: 10 + rows, [8, 8, 4, 4, 16, 16, 32, 32, 32]),
    ],
)
def test_sizes_are_tried_as_long_as_rows_take_a_tenth_less_time(seconds, expected):
    pace = Pace(8, 40)
    assert sizes_of(pace, seconds, 9) == expected
    assert pace.decided(8)
    # whoever comes later makes the same calls, however long they take
    assert sizes_of(pace, lambda rows: 1 / rows, 9) == expected
    assert pace.found(9) == expected[-1]
    assert pace.found(0) == 8


def test_both_models_are_run_in_the_calls_that_the_first_ones_time_chose(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(passes.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(passes, "_paces", {})
    monkeypatch.setattr(passes, "rows_in_cache", lambda values: 8)
    calls = {"slow": [], "quick": []}

    def model(name, power):
        def run(images):
            calls[name].append(len(images))
            clock[0] += len(images) ** power
            return images @ torch.arange(15.0).view(5, 3)

        return run

    data = torch.randn(70, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(70, dtype=torch.long)
    reference, candidate = observe(model("slow", 2), data), observe(model("quick", 0), data)
    assert torch.equal(reference.logits, candidate.logits)
    one, other = calls["slow"], calls["quick"]
    assert one[: len(other)] == other[: len(one)]
    assert one[:8] == [8, 8, 4, 4, 2, 2, 1, 1]
    assert reference.batch_size.limit == candidate.batch_size.limit == 1
    assert compare_predictions(candidate, reference).details["chosen_batch"] == 1
    few = observe(model("quick", 0), (data[0][:20], data[1][:20]), batch_size=10)
    assert few.chosen_batch is None
    assert few.batch_size.limit == 8
    held = observe(model("quick", 0), data, batch_size=16, deployed_batch_size=16)
    assert held.batches == (16, 6)
    assert held.chosen_batch is None


@pytest.mark.parametrize(("side", "expected"), [(8, 16), (160, 5), (300, 4)])
def test_fewer_of_large_examples_are_asked_about_again(side, expected):
    counts = []

    def model(images):
        counts.append(len(images))
        return images.mean(dim=(1, 2))[:, None] * torch.arange(3.0)

    data = torch.randn(20, side * 4, side, generator=torch.Generator().manual_seed(0)), torch.zeros(20).long()
    seen = observe(model, data, deployed_batch_size=20)
    assert len(seen.logits) == 20
    assert sum(counts) == 20 + expected
