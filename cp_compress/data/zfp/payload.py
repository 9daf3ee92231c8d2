"""The payload of a ZFP stream: one zfp array or several, without zfp's own headers, read safely from damaged input.

Several arrays follow one another; before them is, as a base-128 varint each, the number of 8-byte words of every array
but the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cp_compress.base.batching import slices
from cp_compress.base.errors import CorruptStreamError
from cp_compress.data.compiled.compiler import find_compiled, in_threads
from cp_compress.data.container import read_varint, varint
from cp_compress.data.zfp.arrays import ArrayPlan
from cp_compress.data.zfp.limits import block_budget, count_blocks
from cp_compress.data.zfp.planes import Setting
from cp_compress.data.zfp.requantise import compiled_call
from cp_compress.data.zfp.transform import NUMBERS

# zfp decodes a block from at most ZFP_MAX_BITS = 16,658 bits, and looks a few words ahead
READ_AHEAD = 16_658 // 8 + 64
_WORD = 64
# words of the examples that are written together
_TOGETHER = 2**20
# values, which machine code takes a tenth of a millisecond for
_WORTH_A_THREAD = 2**13


def compress(arrays: Sequence[Tensor], plans: Sequence[ArrayPlan]) -> list[bytes]:
    """Return the payload of each example from its arrays (n, *inner), contiguous."""
    coded = [_write(array, plan.setting) for array, plan in zip(arrays, plans, strict=True)]
    return [
        b"".join([*(varint(8 * len(part) // _WORD) for part in parts[:-1]), *parts])
        for parts in zip(*coded, strict=True)
    ]


def _write(values: Tensor, setting: Setting) -> list[bytes]:
    """Return what zfp writes for each of the arrays (n, shape)."""
    compiled = find_compiled("zfp_writing")
    if compiled is not None and any(part is not None for part in setting):  # what is reversible is coded otherwise
        return _write_compiled(compiled, values, setting)
    import zfpy  # here, so that codecs can be read and named where zfpy has no build

    given = arguments(setting)
    return [zfpy.compress_numpy(row, write_header=False, **given) for row in values.numpy()]


def _write_compiled(compiled: Any, values: Tensor, setting: Setting) -> list[bytes]:
    call, size, numbers = compiled_call(values, setting), 4 ** (values.ndim - 1), NUMBERS[values.dtype]
    planes = numbers.planes if setting.precision is None else min(setting.precision, numbers.planes)
    # of each plane a bit of every coefficient and a test that fails, and in all a test for every coefficient
    of_block = numbers.header_bits + (planes + 1) * (size + 1)
    if setting.rate is not None:
        of_block = block_budget(values.ndim - 1, setting.rate)
    each = (call.blocks * of_block + 2 * size) // _WORD + 3  # a budget is overrun by one plane, which is then cut off
    source, together = values.reshape(-1).numpy(), max(1, _TOGETHER // each)
    found: list[bytes] = []
    for part in slices(len(values), together):
        count = part.stop - part.start
        words, lengths = np.zeros(count * each, np.uint64), np.zeros(count, np.int64)
        content = source[part.start * values[0].numel() : part.stop * values[0].numel()]

        def work(first: int, stop: int) -> None:
            scratch, own = compiled.make_scratch(*call.scratch), compiled.make_planes(size)
            compiled.write_blocks(
                *(content, words, lengths, call.order, call.geometry, call.form),  # noqa: B023 -- called at once
                *(call.blocks, each, scratch, own, first, stop),
            )

        in_threads(work, count, _WORTH_A_THREAD // values[0].numel())
        found += [words[row * each :][:length].tobytes() for row, length in enumerate(lengths.tolist())]
    return found


def decompress(payloads: Sequence[memoryview], plan: ArrayPlan, dtype: torch.dtype) -> Tensor:
    """Return one array (n, *inner) of each example from its part of the payload, as `split_payload` gives it."""
    import zfpy

    batch = torch.empty(len(payloads), *plan.inner, dtype=dtype)
    rows = batch.numpy()
    kind = zfpy.dtype_to_ztype(rows.dtype)
    # zfp reads as far as the bits tell it to. Zeros behind a short payload keep it inside the buffer: the block
    # in which the payload ends takes the read-ahead at most, and a zero bit is a whole block after it.
    padding = bytes(READ_AHEAD + count_blocks(plan.inner) // 8)
    for row, payload in zip(rows, payloads, strict=True):
        padded = b"".join((payload, padding))
        # private, but the only way to read a stream without zfp's header, whose shape zfpy would trust
        zfpy._decompress(padded, kind, plan.inner, out=row, **arguments(plan.setting))
    return batch


def split_payload(payload: memoryview, plans: Sequence[ArrayPlan], index: int) -> list[memoryview]:
    """Return the part of each array; raises CorruptStreamError for lengths that no such arrays can have."""
    if len(plans) == 1:
        _check_length(plans[0], len(payload), index)
        return [payload]
    lengths, start = [], 0
    for _ in plans[:-1]:
        words, start = read_varint(payload, start, index)
        lengths.append(words * _WORD // 8)
    parts = []
    for plan, length in zip(plans, [*lengths, len(payload) - start - sum(lengths)], strict=True):
        part = payload[start : start + max(0, length)]
        _check_length(plan, len(part), index)
        parts.append(part)
        start += length
    return parts


def _check_length(plan: ArrayPlan, length: int, index: int) -> None:
    """Refuse what no such array can have; a block takes one bit or more, a budget exactly its own."""
    blocks, size = count_blocks(plan.inner), 8 * length
    wrong = blocks > size or size % _WORD != 0
    if plan.setting.rate is not None:
        bits = blocks * block_budget(len(plan.inner), plan.setting.rate)
        wrong = size != -(-bits // _WORD) * _WORD
    if wrong:
        raise CorruptStreamError(f"example #{index}: {length} bytes cannot be a ZFP payload of {plan.inner}", index)


def payload_bits(bits: Sequence[Tensor]) -> Tensor:
    """Return the size (n,), int64, of payloads in bits from the bits (n,) that zfp writes for each array."""
    words = [-(-of_array // _WORD) for of_array in bits]
    total = torch.stack(words).sum(dim=0) * _WORD
    for of_array in words[:-1]:
        for limit in range(0, 63, 7):  # one byte of the varint for each seven bits begun
            total += 8 * ((of_array >> limit > 0) | (limit == 0)).to(total.dtype)
    return total


def arguments(setting: Setting) -> dict[str, Any]:
    """Return zfpy's own arguments for a setting; without any it is reversible."""
    return {name: value for name, value in setting._asdict().items() if value is not None}
