"""ZFP on tensors against zfpy: no bit of a decoded value differs, no bit of a size is missing."""

import math

import numpy as np
import pytest
import torch
import zfpy
from hypothesis import given, settings
from hypothesis import strategies as st

from cp_compress.data.zfp import requantise as block_requantise
from cp_compress.data.zfp import transform as block_transform
from cp_compress.data.zfp.order import natural_order, sequency_order
from cp_compress.data.zfp.planes import Setting, count_bits, cut_planes, top_bits
from cp_compress.data.zfp.requantise import count_array_bits, count_stepwise, requantise_arrays, requantise_stepwise
from cp_compress.data.zfp.transform import (
    NUMBERS,
    encode_blocks,
    forward_transform,
    from_blocks,
    from_negabinary,
    inverse_transform,
    to_blocks,
    to_negabinary,
)

SHAPES = [(37,), (13, 10), (5, 9, 11), (3, 16, 16), (2, 5, 6, 7)]
DTYPES = [torch.float32, torch.float64]


def wide_range(count, shape, dtype, seed):
    """Values of both signs over up to 120 powers of two: dense, with zeros, or smooth, by example."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.tensor([0, 4, 20, 60]).repeat(-(-count // 4))[:count].reshape(-1, *(1,) * len(shape))
    exponents = (torch.rand(count, *shape, generator=generator, dtype=torch.float64) * 2 - 1) * spread
    values = torch.randn(count, *shape, generator=generator, dtype=torch.float64) * torch.exp2(exponents)
    values[1::5] *= torch.rand(values[1::5].shape, generator=generator) < 0.4
    values[2::7] = values[2::7].cumsum(-1)
    return values.to(dtype)


def zfpys(row, **mode):
    payload = zfpy.compress_numpy(row.numpy(), write_header=False, **mode)
    kind = zfpy.dtype_to_ztype(row.numpy().dtype)
    return torch.from_numpy(np.asarray(zfpy._decompress(payload + bytes(20_000), kind, row.shape, **mode))), payload


def differing(batch, **mode):
    """Return how many bytes of decoded values differ from zfpy's, and how many sizes."""
    setting = Setting(**mode)
    found, bits = requantise_arrays(batch, setting), count_array_bits(batch, setting)
    values = sizes = 0
    for row, ours, size in zip(batch, found, bits, strict=True):
        theirs, payload = zfpys(row, **mode)
        values += int((theirs.contiguous().view(torch.uint8) != ours.view(torch.uint8)).sum())
        sizes += -(-int(size) // 64) * 64 != 8 * len(payload)
    return values, sizes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_precision_is_zfpys(shape, dtype):
    for precision in range(1, NUMBERS[dtype].planes + 1):
        assert differing(wide_range(3, shape, dtype, precision), precision=precision) == (0, 0), precision


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_tolerances_are_zfpys(shape, dtype):
    for exponent in range(-30, 24):
        for factor in (1.0, 1.37, np.nextafter(2.0, 0.0)):
            batch = wide_range(2, shape, dtype, exponent + 100)
            assert differing(batch, tolerance=factor * 2.0**exponent) == (0, 0), (exponent, factor)


@pytest.mark.parametrize(
    ("shape", "dtype", "budgets"),
    [
        ((37,), torch.float32, range(9, 160)),
        ((13, 10), torch.float32, range(9, 580)),
        ((5, 9, 11), torch.float32, range(9, 2220, 3)),
        ((3, 16, 16), torch.float32, range(10, 2220, 7)),
        ((2, 5, 6, 7), torch.float32, range(9, 8800, 53)),
        ((37,), torch.float64, range(12, 300, 2)),
        ((13, 10), torch.float64, range(12, 1120, 5)),
        ((5, 9, 11), torch.float64, range(12, 4300, 29)),
        ((2, 5, 6, 7), torch.float64, range(12, 17_000, 331)),
    ],
)
def test_every_budget_is_zfpys(shape, dtype, budgets):
    for budget in budgets:
        assert differing(wide_range(2, shape, dtype, budget), rate=budget / 4 ** len(shape)) == (0, 0), budget


@pytest.mark.parametrize("mode", [{"precision": 21}, {"tolerance": 2.0**-110}, {"rate": 11}], ids=str)
@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(2, 8, 9),
        torch.full((2, 8, 9), -0.0),
        torch.full((2, 8, 9), 2.0**120),
        torch.tensor([[1.0, -1.0] * 8] * 9).mul(2.0**120)[None],
        torch.tensor([2.0**-95, -(2.0**-96) * 1.0001, 2.0**120, 0.0]).repeat(4, 1)[None],
        torch.eye(8)[None] * 2.0**-95,
        torch.ones(1, 8, 8) * torch.exp2(torch.arange(-26.0, 38.0)).reshape(8, 8),
        torch.tensor([1.0, 1e-40, -1e-45, 2.0**-126]).repeat(4, 1)[None],
    ],
)
def test_extremes_are_zfpys(values, mode):
    assert differing(values.contiguous(), **mode) == (0, 0)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 2))
@settings(max_examples=150)
def test_any_shape_is_zfpys(seed, shape, kind):
    batch = wide_range(2, tuple(shape), torch.float32, seed)
    mode = [{"precision": 1 + seed % 32}, {"tolerance": 2.0 ** (seed % 40 - 20)}, {"rate": 2.3 + seed % 30}][kind]
    assert differing(batch, **mode) == (0, 0)


@pytest.mark.parametrize("part", [16, 100, 10_000])
def test_parts_change_nothing(part, monkeypatch):
    batch = wide_range(5, (3, 21, 18), torch.float32, 0)
    expected = requantise_stepwise(batch, Setting(rate=5)), count_stepwise(batch, Setting(precision=9))
    monkeypatch.setitem(block_requantise._PART, "cpu", part)
    assert torch.equal(requantise_stepwise(batch, Setting(rate=5)), expected[0])
    assert torch.equal(count_stepwise(batch, Setting(precision=9)), expected[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_the_size_of_one_block_is_exact(dimensions, dtype):
    """64 equal blocks fill whole words, so that zfpy's stream tells the bits of one."""
    numbers = NUMBERS[dtype]
    blocks = wide_range(4, (4,) * dimensions, dtype, dimensions)
    for precision in range(1, numbers.planes + 1, 3):
        for block in blocks:
            array = block.repeat(64, *(1,) * (dimensions - 1)).contiguous()
            payload = zfpy.compress_numpy(array.numpy(), precision=precision, write_header=False)
            assert count_array_bits(array[None], Setting(precision=precision)).tolist() == [8 * len(payload)]
            assert count_array_bits(block[None], Setting(precision=precision)).tolist() == [len(payload) // 8]


def code_planes(numbers, lowest, planes):
    """Count the bits that zfp's coder writes, one at a time, as its documentation describes it."""
    bits = reached = 0
    for plane in reversed(range(lowest, planes)):
        ones = [number >> plane & 1 for number in numbers]
        bits += reached
        while reached < len(ones):
            bits += 1
            if not any(ones[reached:]):
                break
            while reached < len(ones) - 1:
                bits, reached = bits + 1, reached + 1
                if ones[reached - 1]:
                    break
            else:
                reached += 1
    return bits


@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 9), min_size=4, max_size=4), st.integers(0, 32))
@settings(max_examples=200)
def test_bits_of_planes_by_counting(numbers, lowest):
    patterns = torch.from_numpy(np.array([numbers], dtype=np.uint32).view(np.int32))
    found = count_bits(top_bits(patterns), torch.tensor([lowest], dtype=torch.int32), 32)
    assert found.tolist() == [code_planes(numbers, lowest, 32)]


@given(st.integers(0, 2**32), st.sampled_from(SHAPES))
@settings(max_examples=25)
def test_more_planes_take_more_bits_and_bring_less_error(seed, shape):
    batch = wide_range(2, shape, torch.float32, seed)
    sizes = torch.stack([count_array_bits(batch, Setting(precision=precision)) for precision in range(1, 33)])
    assert (sizes.diff(dim=0) >= 0).all()
    for row in batch:
        errors = [
            (requantise_arrays(row[None], Setting(precision=precision)) - row).abs().max() for precision in (2, 12, 30)
        ]
        assert errors[0] >= errors[1] >= errors[2]


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_orders_are_permutations_of_growing_frequency(dimensions):
    order = sequency_order(dimensions)
    assert torch.equal(order[natural_order(dimensions)], torch.arange(4**dimensions))
    frequencies = [[place // 4**axis % 4 for axis in range(dimensions)] for place in order.tolist()]
    keys = [(sum(each), sum(one * one for one in each)) for each in frequencies]
    assert keys == sorted(keys)


@pytest.mark.parametrize("integer", [torch.int32, torch.int64])
def test_negabinary(integer):
    numbers = torch.tensor([0, 1, -1, 2, -2, 12_345, -54_321, 2**30 - 1, -(2**30)], dtype=integer)
    planes = NUMBERS[integer].planes
    patterns = to_negabinary(numbers)
    assert [sum((-2) ** k * (pattern >> k & 1) for k in range(planes)) for pattern in patterns.tolist()] == (
        numbers.tolist()
    )
    assert torch.equal(from_negabinary(patterns), numbers)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_transform_is_its_matrix_but_for_rounding(dimensions):
    matrix = torch.tensor([[4, 4, 4, 4], [5, 1, -1, -5], [-4, 4, 4, -4], [-2, 6, -6, 2]]).double() / 16
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(-(2**28), 2**28, (50, 4**dimensions), generator=generator, dtype=torch.int32)
    expected = blocks.double().reshape(50, *(4,) * dimensions)
    for axis in range(1, dimensions + 1):
        expected = torch.tensordot(expected, matrix, ([axis], [1])).movedim(-1, axis)
    found = forward_transform(blocks)
    assert (found - expected.flatten(1)).abs().max() < 4 * dimensions
    assert torch.equal(forward_transform(inverse_transform(found)), found)


@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_and_back(shape):
    values = wide_range(4, shape, torch.float32, 0).reshape(2, 2, *shape)
    blocks = to_blocks(values, len(shape))
    assert blocks.shape == (2, 2, *(math.ceil(extent / 4) for extent in shape), 4 ** len(shape))
    assert torch.equal(from_blocks(blocks, shape), values)
    assert torch.equal(from_blocks(blocks.contiguous(), shape), values)


def test_steps_leave_their_arguments_alone():
    values = wide_range(2, (8, 8), torch.float32, 0)
    blocks = to_blocks(values, 2)
    patterns, exponents = encode_blocks(blocks)
    kept = [each.clone() for each in (values, blocks, patterns, exponents)]
    integers = from_negabinary(patterns)
    before = integers.clone()
    forward_transform(integers), inverse_transform(integers), to_negabinary(integers)
    block_transform.decode_blocks(patterns, exponents)
    cut_planes(patterns, torch.full_like(exponents, 20))
    requantise_arrays(values, Setting(rate=4)), requantise_stepwise(values, Setting(rate=4))
    for after, original in zip((values, blocks, patterns, exponents), kept, strict=True):
        assert torch.equal(after, original)
    assert torch.equal(integers, before)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", [{"precision": 13}, {"tolerance": 0.01}, {"rate": 6.3}], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gpu_gives_the_same_bits(gpu, shape, mode):
    batch, setting = wide_range(4, shape, torch.float32, 0), Setting(**mode)
    assert torch.equal(requantise_arrays(batch.to(gpu), setting).cpu(), requantise_arrays(batch, setting))
    assert torch.equal(count_array_bits(batch.to(gpu), setting).cpu(), count_array_bits(batch, setting))
