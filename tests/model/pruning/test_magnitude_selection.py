"""The exact selection against a stable sort of everything."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.model import keep_largest
from cp_compress.model.pruning.largest import zero_all_but_largest

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1.0, 2.5, -2.5, 6e-8, -6e-8, 1e-45, 5e-324, -5e-324, 65504.0, 3e38, -3e38, 1.7e308]


def by_sorting(tensors, count):
    magnitudes = torch.cat([tensor.reshape(-1).double().abs() for tensor in tensors])
    order = torch.sort(magnitudes, descending=True, stable=True).indices
    kept = torch.zeros(len(magnitudes), dtype=torch.bool)
    kept[order[:count]] = True
    parts = kept.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


@st.composite
def weights_and_count(draw):
    tensors = []
    for _ in range(draw(st.integers(1, 3))):
        dtype = draw(st.sampled_from(DTYPES))
        shape = draw(st.sampled_from([(1,), (5,), (3, 4), (2, 3, 2)]))
        numel = torch.Size(shape).numel()
        values = draw(st.lists(st.sampled_from(SPECIAL) | st.floats(-4, 4), min_size=numel, max_size=numel))
        tensor = torch.tensor(values, dtype=torch.float64).to(dtype).nan_to_num(posinf=1.0, neginf=-1.0).view(shape)
        if draw(st.booleans()) and tensor.ndim > 1:
            tensor = tensor.transpose(0, 1)
        tensors.append(tensor)
    count = draw(st.integers(0, sum(tensor.numel() for tensor in tensors)))
    return tensors, count


@settings(max_examples=150)
@given(weights_and_count())
def test_masks_are_those_of_a_stable_sort(case):
    tensors, count = case
    for mask, expected in zip(keep_largest(tensors, count), by_sorting(tensors, count), strict=True):
        assert torch.equal(mask, expected)


@settings(max_examples=100)
@given(weights_and_count())
def test_zeroing_is_the_mask_applied(case):
    tensors, count = case
    expected = [tensor.masked_fill(~mask, 0) for tensor, mask in zip(tensors, by_sorting(tensors, count), strict=True)]
    zero_all_but_largest(tensors, count)
    for tensor, wanted in zip(tensors, expected, strict=True):
        assert torch.equal(tensor, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", [0.02, 0.5, 0.999])
def test_many_values_over_several_pieces(dtype, density):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(size, generator=generator).to(dtype) for size in (300_001, 7, 262_144)]
    count = round(density * sum(map(len, tensors)))
    expected = by_sorting(tensors, count)
    assert all(map(torch.equal, keep_largest(tensors, count), expected))
    zero_all_but_largest(tensors, count)
    assert all(torch.equal(tensor != 0, mask & (tensor != 0)) for tensor, mask in zip(tensors, expected, strict=True))
    assert sum(int(tensor.count_nonzero()) for tensor in tensors) == count


def test_every_value_equal():
    first, second = keep_largest([torch.full((400_000,), -3.0), torch.full((10,), 3.0)], 400_003)
    assert first.all()
    assert second.tolist() == [True] * 3 + [False] * 7


@pytest.mark.parametrize("count", [-1, 4, 1.5, True])
def test_a_count_out_of_range_is_refused(count):
    with pytest.raises(InvalidArgumentError, match="count"):
        keep_largest([torch.ones(3)], count)


def test_other_dtypes_are_refused():
    with pytest.raises(InvalidArgumentError, match="tensors"):
        keep_largest([torch.ones(3, dtype=torch.int32)], 2)


def test_a_channels_last_weight_is_counted_in_its_logical_order():
    weight = torch.ones(2, 3, 2, 2).to(memory_format=torch.channels_last)
    assert torch.equal(keep_largest([weight], 5)[0].view(-1).nonzero().view(-1), torch.arange(5))
