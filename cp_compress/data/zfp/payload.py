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

from cp_compress.base.errors import CorruptStreamError
from cp_compress.data.container import read_varint, varint
from cp_compress.data.zfp.arrays import ArrayPlan
from cp_compress.data.zfp.limits import block_budget, count_blocks
from cp_compress.data.zfp.planes import Setting

# zfp decodes a block from at most ZFP_MAX_BITS = 16,658 bits, and looks a few words ahead
READ_AHEAD = 16_658 // 8 + 64
_WORD = 64


def compress(rows: Sequence[np.ndarray[Any, Any]], plans: Sequence[ArrayPlan]) -> bytes:
    """Return the payload of one example from its arrays."""
    import zfpy  # here, so that codecs can be read and named where zfpy has no build

    coded = [
        zfpy.compress_numpy(row, write_header=False, **arguments(plan.setting))
        for row, plan in zip(rows, plans, strict=True)
    ]
    return b"".join([*(varint(8 * len(part) // _WORD) for part in coded[:-1]), *coded])


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
