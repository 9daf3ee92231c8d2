"""What is compiled for ZFP gives the bits of the steps, and refuses what they refuse."""

import random

import pytest
import torch
import zfpy
from hypothesis import given, settings
from hypothesis import strategies as st

from cp_compress.base.errors import CorruptStreamError
from cp_compress.data.compiled.compiler import find_compiled
from cp_compress.data.zfp import streams
from cp_compress.data.zfp.arrays import ArrayPlan
from cp_compress.data.zfp.limits import count_blocks
from cp_compress.data.zfp.payload import compress
from cp_compress.data.zfp.planes import Setting
from cp_compress.data.zfp.requantise import (
    count_array_bits,
    count_stepwise,
    requantise_arrays,
    requantise_stepwise,
)
from cp_compress.data.zfp.transform import NUMBERS

pytest.importorskip("numba", reason="numba is not installed (extra: kernels)")
EXTENTS = [2, 3, 4, 5, 7, 8, 9, 12]


def drawn(chance):
    """Arrays of any shape, dtype and range of exponents, one of zeros among them, and a setting for them."""
    dimensions, dtype = chance.randrange(1, 5), chance.choice([torch.float32, torch.float64])
    numbers, shape = NUMBERS[dtype], tuple(chance.choice(EXTENTS) for _ in range(dimensions))
    generator = torch.Generator().manual_seed(chance.randrange(2**32))
    size = (chance.randrange(1, 4), *shape)
    exponents = (2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1) * chance.choice([0, 4, 20, 60])
    values = torch.randn(size, generator=generator, dtype=torch.float64) * torch.exp2(exponents)
    values *= torch.rand(size, generator=generator) < chance.choice([0.3, 1, 1])
    values[0] *= chance.choice([0, 1, 1])
    modes = [
        {"precision": chance.randrange(1, numbers.planes + 1)},
        {"tolerance": 1.3 * 2.0 ** chance.randrange(-40, 20)},
        {"rate": chance.randrange(numbers.header_bits, (numbers.planes + 2) * 4**dimensions) / 4**dimensions},
    ]
    return values.to(dtype), chance.choice(modes), numbers


def damage(payload, chance):
    """Change some bytes, and the length where the mode allows any."""
    content = bytearray(payload)
    for _ in range(chance.randrange(1, 6)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    whole, longer = bytes(content), bytes(content) + chance.randbytes(8)
    return chance.choice(
        [whole, whole, longer, whole[: 8 * chance.randrange(1, len(whole) // 8 + 1)], b"\xff" * len(whole)]
    )


def outcome(read, *arguments):
    try:
        return read(*arguments), None
    except CorruptStreamError as error:
        return None, (str(error), error.index)


@given(st.integers(0, 2**64))
@settings(max_examples=120)
def test_streams_are_read_or_refused_as_by_steps(seed):
    chance = random.Random(seed)
    values, mode, numbers = drawn(chance)
    payloads = [zfpy.compress_numpy(row.numpy(), write_header=False, **mode) for row in values]
    if chance.random() < 0.4:
        place = chance.randrange(len(payloads))
        wrong = damage(payloads[place], chance)
        payloads[place] = wrong[: len(payloads[place])].ljust(len(payloads[place])) if "rate" in mode else wrong
    shape, precision = tuple(values.shape[1:]), chance.choice([None, chance.randrange(1, numbers.planes + 1)])
    arguments = [memoryview(payload) for payload in payloads], count_blocks(shape), len(shape), Setting(**mode), numbers
    found, expected = (outcome(read, *arguments, precision) for read in (streams.read_blocks, streams.read_stepwise))
    assert found[1] == expected[1]
    if expected[0] is not None:
        assert all(map(torch.equal, found[0], expected[0]))


@given(st.integers(0, 2**64))
@settings(max_examples=120)
def test_results_are_those_of_the_steps(seed):
    values, mode, _ = drawn(random.Random(seed))
    setting = Setting(**mode)
    found, expected = requantise_arrays(values, setting), requantise_stepwise(values, setting)
    assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8))
    if "rate" not in mode:
        assert torch.equal(count_array_bits(values, setting), count_stepwise(values, setting))
    assert torch.equal(requantise_arrays(values, setting, (-0.5, 3.0)), expected.clamp(-0.5, 3.0))


@given(st.integers(0, 2**64))
@settings(max_examples=60)
def test_streams_are_written_as_zfp_writes_them(seed):
    values, mode, numbers = drawn(random.Random(seed))
    values = torch.nn.functional.hardshrink(values, 2.0 ** (numbers.least_exponent - 1))
    expected = [zfpy.compress_numpy(row.numpy(), write_header=False, **mode) for row in values]
    plan = ArrayPlan(slice(None), tuple(values.shape[1:]), tuple(values.shape[1:]), Setting(**mode))
    assert compress([values], [plan]) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("precision", [1, 2, 3, 4, 8, 64])
def test_the_longest_blocks_stay_within_their_example(dtype, precision):
    values = torch.tensor([1.999, -1.999, -1.999, 1.999, 1.5, -1.999, 1.999, -1.5], dtype=dtype).repeat(3, 500)
    expected = [zfpy.compress_numpy(row.numpy(), write_header=False, precision=precision) for row in values]
    plan = ArrayPlan(slice(None), (4000,), (4000,), Setting(precision=precision))
    assert compress([values], [plan]) == expected


def test_it_is_compiled_here():
    assert find_compiled("zfp_reading") is not None
    assert find_compiled("zfp_writing") is not None
    assert find_compiled("zfp_results") is not None
