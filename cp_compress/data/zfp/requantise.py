"""The results of zfp for whole arrays: decoded values, sizes and coefficients, computed without any stream.

On a CPU machine code does it where it can be compiled, on CUDA one kernel; elsewhere the steps do, in parts that fit
the cache of a processor, or the memory of a GPU. Arrays are (n, shape) with a shape of one to four dimensions, float32
or float64, and magnitudes that are 0 or within the limits of `zfp.limits`; machine code takes those below them for 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cp_compress.base.batching import BatchSize, slices
from cp_compress.data.compiled.compiler import find_compiled, in_threads
from cp_compress.data.zfp.limits import block_budget
from cp_compress.data.zfp.order import sequency_order
from cp_compress.data.zfp.planes import (
    Setting,
    count_bits,
    cut_planes,
    fill_budget,
    kept_planes,
    tolerance_margin,
    top_bits,
)
from cp_compress.data.zfp.transform import (
    NUMBERS,
    block_dimensions,
    block_grid,
    decode_blocks,
    encode_blocks,
    from_blocks,
    to_blocks,
)

# values in one part: on a CPU its temporaries stay in the cache, on a GPU they fill it without filling the memory
_PART = {"cpu": 2**18, "other": 2**25}
# blocks that machine code works on together, by their dimensions: rows of fewer lose time, more leave the inner caches
_TOGETHER = {1: 256, 2: 128, 3: 128, 4: 64}
# values, which machine code takes a tenth of a millisecond for
_WORTH_A_THREAD = 2**15


class StoredBlocks(NamedTuple):
    """What zfp stores of blocks: `patterns` (..., 4^d) as of `encode_blocks`, and `exponents` (...), int32.

    `lowest` (...), int32, is the lowest plane stored whole; None where blocks were filled up to a budget.
    """

    patterns: Tensor
    exponents: Tensor
    lowest: Tensor | None


def part_size(device: torch.device) -> int:
    """Return how many values to work on at once."""
    return _PART["cpu" if device.type == "cpu" else "other"]


def store_blocks(blocks: Tensor, setting: Setting) -> StoredBlocks:
    """Return what zfp keeps of blocks (..., 4^d) of values."""
    numbers, dimensions = NUMBERS[blocks.dtype], block_dimensions(blocks)
    patterns, exponents = encode_blocks(blocks)
    if setting.rate is not None:
        budget = block_budget(dimensions, setting.rate) - numbers.header_bits
        return StoredBlocks(fill_budget(patterns, budget), exponents, None)
    lowest = numbers.planes - kept_planes(exponents, dimensions, numbers.planes, setting)
    return StoredBlocks(cut_planes(patterns, lowest), exponents, lowest)


def count_block_bits(blocks: Tensor, setting: Setting) -> Tensor:
    """Return the bits (...), int32, that zfp stores blocks (..., 4^d) of values in, without a fixed rate."""
    numbers = NUMBERS[blocks.dtype]
    patterns, exponents, lowest = store_blocks(blocks, setting)
    assert lowest is not None
    bits = count_bits(top_bits(patterns), lowest, numbers.planes) + numbers.header_bits
    return bits.masked_fill_((exponents == -numbers.bias) | (lowest == numbers.planes), 1)


def find_blocks(device: torch.device) -> Any:
    """Return the functions of `compiled.zfp_results`, or None where they are not to be had or of no use."""
    return find_compiled("zfp_results") if device.type == "cpu" else None


def requantise_arrays(values: Tensor, setting: Setting, clip: tuple[float, float] | None = None) -> Tensor:
    """Return what zfp decodes of arrays (n, shape), clipped to a range."""
    compiled = find_blocks(values.device)
    if compiled is not None:
        result = torch.empty_like(values, memory_format=torch.contiguous_format)
        name = "requantise" if setting.rate is None else "requantise_at_rate"
        _run_compiled(compiled, name, values, result, setting, clip)
        return result
    result = _requantise_on_device(values, setting)
    return result if clip is None else result.clamp_(*clip)


def _requantise_on_device(values: Tensor, setting: Setting) -> Tensor:
    fusible = values.dtype == torch.float32 and values.ndim <= 4 and setting.rate is None
    fused = find_fused(values.device) if fusible and values.is_cuda else None
    return requantise_stepwise(values, setting) if fused is None else fused(values.contiguous(), setting)


def _run_compiled(
    compiled: Any, name: str, values: Tensor, result: Tensor, setting: Setting, clip: tuple[float, float] | None = None
) -> None:
    """Call a function of `compiled.zfp_results` for all blocks of arrays (n, shape), in several threads."""
    call, function = compiled_call(values, setting), getattr(compiled, name)
    source, target = values.contiguous().reshape(-1).numpy(), result.reshape(-1).numpy()

    def work(first: int, stop: int) -> None:
        scratch = compiled.make_scratch(*call.scratch)
        function(
            source, target, call.order, call.geometry, call.form, clip or (-math.inf, math.inf), scratch, first, stop
        )

    in_threads(work, len(values) * call.blocks, _WORTH_A_THREAD // call.scratch[1])


class CompiledCall(NamedTuple):
    """What functions of `compiled` are told of arrays and a setting, as `compiled.zfp_results` says.

    `scratch` are the arguments of its `make_scratch`, `blocks` is how many there are in an array.
    """

    order: Any
    geometry: tuple[Any, ...]
    form: tuple[int, ...]
    scratch: tuple[Any, int, int]
    blocks: int


def compiled_call(values: Tensor, setting: Setting) -> CompiledCall:
    """Return what functions of `compiled` are told of arrays (n, shape)."""
    numbers, shape = NUMBERS[values.dtype], tuple(values.shape[1:])
    dimensions = len(shape)
    geometry = (*(1,) * (4 - dimensions), *shape, *(1,) * (4 - dimensions), *(4,) * (dimensions - 1))
    kept, margin, budget = min(setting.precision or numbers.planes, numbers.planes), 0, 0
    if setting.tolerance is not None:
        kept, margin = -1, tolerance_margin(dimensions, setting.tolerance)
    if setting.rate is not None:
        budget = block_budget(dimensions, setting.rate)
    together = _TOGETHER[dimensions]
    form = (
        *(numbers.bias, numbers.fraction, numbers.least_exponent, numbers.planes, numbers.negabinary_mask),
        *(kept, margin, budget, together),
    )
    order, scratch = sequency_order(dimensions).numpy(), (np.dtype(f"i{values.itemsize}"), 4**dimensions, together)
    return CompiledCall(order.view(np.uint64), tuple(map(np.uint64, geometry)), form, scratch, prod(block_grid(shape)))


def requantise_stepwise(values: Tensor, setting: Setting) -> Tensor:
    """Return what `requantise_arrays` does, by tensor operations on any device."""
    result = torch.empty_like(values, memory_format=torch.contiguous_format)

    def work(part: tuple[slice, ...]) -> None:
        stored = store_blocks(to_blocks(values[part], values.ndim - 1), setting)
        found = result[part]
        from_blocks(decode_blocks(stored.patterns, stored.exponents), found.shape[1:], out=found)

    _in_parts(values, work)
    return result


@cache
def find_fused(device: torch.device) -> Callable[[Tensor, Setting], Tensor] | None:
    """Return the kernel that does in one pass what `requantise_stepwise` does, or None where it is not to be had.

    It is tried once on a device, against the steps.
    """
    try:
        from cp_compress.data.zfp.kernel import requantise_fused

        trial = torch.linspace(-3, 5, 2 * 5 * 6 * 7, dtype=torch.float32, device=device).reshape(2, 5, 6, 7) ** 9
        for setting in (Setting(precision=3), Setting(precision=29), Setting(tolerance=0.7)):
            for values in (trial, trial.flatten(2), trial.flatten(1)):
                if not torch.equal(requantise_fused(values, setting), requantise_stepwise(values, setting)):
                    return None
    except Exception:  # no Triton, no compiler on this machine, a device it does not know: the steps do the same
        return None
    return requantise_fused


def count_array_bits(values: Tensor, setting: Setting) -> Tensor:
    """Return the bits (n,), int64, that zfp writes for arrays (n, shape), before it fills up the last word."""
    blocks = prod(block_grid(values.shape[1:]))
    if setting.rate is not None:
        return torch.full((len(values),), blocks * block_budget(values.ndim - 1, setting.rate), device=values.device)
    compiled = find_blocks(values.device)
    if compiled is not None:
        of_blocks = torch.empty(len(values), blocks, dtype=torch.int32)
        _run_compiled(compiled, "count_bits", values, of_blocks, setting)
        return of_blocks.sum(dim=1)
    return count_stepwise(values, setting)


def count_stepwise(values: Tensor, setting: Setting) -> Tensor:
    """Return what `count_array_bits` does without a fixed rate, by tensor operations on any device."""
    bits = torch.zeros(len(values), dtype=torch.int64, device=values.device)

    def work(part: tuple[slice, ...]) -> None:
        of_blocks = count_block_bits(to_blocks(values[part], values.ndim - 1), setting)
        bits[part[0]] += of_blocks.flatten(1).sum(dim=1)

    _in_parts(values, work)
    return bits


def _in_parts(values: Tensor, work: Callable[[tuple[slice, ...]], None]) -> None:
    """Call `work` with parts of arrays (n, shape) that are cut between blocks, smaller ones after out-of-memory.

    An array itself is cut only where one alone is larger than a part, and then along its longest dimension.
    """
    shape = values.shape[1:]
    size = part_size(values.device)
    longest = max(range(len(shape)), key=shape.__getitem__)
    thickness = max(4, size // (prod(shape) // shape[longest]) // 4 * 4)
    rows = BatchSize(max(1, size // prod(shape)))
    for cut in slices(shape[longest], thickness):
        window = tuple(cut if axis == longest else slice(None) for axis in range(len(shape)))
        rows.run(len(values), partial(_work_on, work, window))


def _work_on(work: Callable[[tuple[slice, ...]], None], window: tuple[slice, ...], rows: slice) -> None:
    work((rows, *window))
