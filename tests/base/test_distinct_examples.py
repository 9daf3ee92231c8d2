"""Identical examples are found by their values, whatever the form of the data, and claims count each once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cp_compress import Requirement, judge, observe
from cp_compress.fidelity import Measurement
from cp_compress.fidelity.judging.intervals import Proportion
from cp_compress.fidelity.judging.repeats import count_once
from cp_compress.inputs.distinct import effective_count, identical_groups


@given(
    st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.0]), min_size=1, max_size=30),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8]),
    st.integers(1, 7),
)
@settings(max_examples=40, deadline=None)
def test_groups_are_those_of_a_dictionary(values, dtype, width):
    inputs = torch.tensor(values).repeat_interleave(width).reshape(-1, width)
    inputs[:, 0] += 3
    data = inputs.to(dtype), torch.arange(len(values))
    numbers: dict[tuple, int] = {}
    expected = [numbers.setdefault(tuple(row), len(numbers)) for row in inputs.tolist()]
    for batch_size in (3, 1024):
        assert identical_groups(data, batch_size).tolist() == expected
    sizes = np.bincount(expected)
    assert effective_count(torch.tensor(expected)) == pytest.approx(sizes.sum() ** 2 / (sizes**2).sum())


def test_one_changed_bit_anywhere_makes_another_example():
    rows = torch.zeros(2049, 256, dtype=torch.uint8)
    rows[torch.arange(2048), torch.arange(2048) // 8] = (1 << (torch.arange(2048) % 8)).to(torch.uint8)
    assert identical_groups((rows, torch.zeros(2049, dtype=torch.int64))).tolist() == list(range(2049))
    wide = torch.eye(300)  # words that differ in their highest bits only
    assert len(set(identical_groups((wide, torch.zeros(300, dtype=torch.int64))).tolist())) == 300


def test_a_claim_counts_each_example_once():
    inputs = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).repeat(50, 1)
    seen = observe(torch.nn.Identity(), (inputs, torch.zeros(1000, dtype=torch.int64)))
    found = Measurement("predictions", {"agreement": 1.0}, {"agreement": 1000}, {"agreement": Proportion(1000, 1000)})
    claims = [Requirement("agreement", "min", 0.99, confidence=0.95)]
    once = count_once(found, seen, claims)
    assert judge(found, claims).outcome == "pass"
    assert judge(once, claims).outcome == "inconclusive"
    assert once.evidence["agreement"].interval(0.95).low == pytest.approx(Proportion(20, 20).interval(0.95).low)
    assert once.notes == ("20 of 1000 examples are distinct: claims at a confidence count each once",)
    assert count_once(found, seen, [Requirement("agreement", "min", 0.99)]) is found
