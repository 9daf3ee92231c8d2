"""ZFP's three lossy modes as tensor arithmetic: what decoding gives, how long a stream would be, and its coefficients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cp_compress.base.batching import BatchSize
from cp_compress.data import block_transform as transform
from cp_compress.data.block_coding import PLANES, CodedPlanes
from cp_compress.data.block_order import from_sequency, in_sequency
from cp_compress.data.zfp_limits import FORMATS, block_budget

_HEADER_BITS = FORMATS[torch.float32].header_bits
_WORD = 64
# values of one chunk: what a step reads and writes should stay in a cache (CPU), or fill the processor (GPU)
_CHUNK = {"cpu": 2**16, "cuda": 2**25}


@dataclass(frozen=True)
class Mode:
    """One of zfp's lossy modes: exactly one of the three is given."""

    rate: float | None = None
    precision: int | None = None
    tolerance: float | None = None


@dataclass(frozen=True, eq=False)
class BlockCoefficients:
    """The integer coefficients of arrays, block by block, as a decoder reads them.

    `values` (n, *grid, 4^d) are int32, the last dimension in sequency order (low frequencies first, the mean at 0);
    `exponents` (n, *grid) int32 are those of the blocks, `EMPTY` (−127) for blocks of zeros. `shape` is that of an
    array.
    """

    values: Tensor
    exponents: Tensor
    shape: tuple[int, ...]

    def scaled(self) -> Tensor:
        """Return the coefficients in the units of the data, float32: value · 2^(exponent − 30)."""
        return transform.from_fixed_point(self.values, self.exponents.clamp_min(-96).unsqueeze(-1))

    def invert(self) -> Tensor:
        """Return the arrays (n, *shape), float32, that a decoder makes of the coefficients."""
        rows = from_sequency(self.values.reshape(-1, self.values.shape[-1]).t(), len(self.shape))
        return _decode(rows, self.exponents.reshape(-1), self.shape)


def requantise(arrays: Tensor, mode: Mode, batch_size: int | None = None) -> Tensor:
    """Return arrays (n, *shape), float32, as zfp's decoder gives them after its encoder, equal to the last bit.

    `shape` has one to four dimensions. Magnitudes must be 0 or in [2⁻⁹⁶, 2¹²⁰], as `ZFP` makes sure. At most
    `batch_size` arrays are held as blocks at a time, by default as many as fit a cache.
    """
    shape, found = tuple(arrays.shape[1:]), torch.empty_like(arrays)

    def run(part: slice) -> None:
        exponents, bits = _analyse(arrays[part])
        kept, _ = _truncate(bits, exponents, mode, len(shape))
        found[part] = _decode(transform.from_negabinary(kept), exponents, shape)

    _in_chunks(arrays, batch_size, run)
    return found


def payload_bits(arrays: Tensor, mode: Mode, batch_size: int | None = None) -> Tensor:
    """Return the bits (n,), int64, of the streams that zfp would write, whole words of 64 bits; nothing is coded."""
    shape = tuple(arrays.shape[1:])
    if mode.rate is not None:
        bits = block_budget(len(shape), mode.rate) * math.prod(transform.block_grid(shape))
        return torch.full((len(arrays),), -(-bits // _WORD) * _WORD, device=arrays.device)
    found = torch.empty(len(arrays), dtype=torch.int64, device=arrays.device)

    def run(part: slice) -> None:
        exponents, bits = _analyse(arrays[part])
        planes = _kept_planes(exponents, mode, len(shape))
        cost = _HEADER_BITS + CodedPlanes(in_sequency(bits, len(shape))).cost(PLANES - planes)
        sizes = torch.where((exponents > transform.EMPTY) & (planes > 0), cost, 1)
        total = sizes.reshape(part.stop - part.start, -1).sum(1)
        found[part] = (total + _WORD - 1) // _WORD * _WORD

    _in_chunks(arrays, batch_size, run)
    return found


def coefficients(arrays: Tensor, mode: Mode, batch_size: int | None = None) -> BlockCoefficients:
    """Return the coefficients that zfp's decoder reads of arrays (n, *shape), float32."""
    shape = tuple(arrays.shape[1:])
    dimensions, grid = len(shape), transform.block_grid(shape)
    values = torch.empty(len(arrays), *grid, 4**dimensions, dtype=torch.int32, device=arrays.device)
    found = torch.empty(len(arrays), *grid, dtype=torch.int32, device=arrays.device)

    def run(part: slice) -> None:
        exponents, bits = _analyse(arrays[part])
        kept, coded = _truncate(bits, exponents, mode, dimensions)
        rows = transform.from_negabinary(in_sequency(kept, dimensions))
        values[part] = rows.t().reshape(values[part].shape)
        found[part] = torch.where(coded, exponents, transform.EMPTY).reshape(found[part].shape)

    _in_chunks(arrays, batch_size, run)
    return BlockCoefficients(values, found, shape)


def truncate(found: BlockCoefficients, precision: int) -> BlockCoefficients:
    """Return the coefficients with no more than `precision` bit planes: those of an encoder at that precision."""
    kept = transform.keep_planes(transform.to_negabinary(found.values), precision)
    return BlockCoefficients(transform.from_negabinary(kept), found.exponents, found.shape)


def _analyse(arrays: Tensor) -> tuple[Tensor, Tensor]:
    """Return the exponents (blocks,) and the coefficients in negabinary (4^d, blocks) of all blocks."""
    dimensions = arrays.ndim - 1
    blocks = transform.to_blocks(arrays, dimensions)
    exponents = transform.block_exponents(blocks)
    fixed = transform.to_fixed_point(blocks, exponents.clamp_min(-96))
    return exponents, transform.to_negabinary(transform.forward_transform(fixed, dimensions))


def _kept_planes(exponents: Tensor, mode: Mode, dimensions: int) -> Tensor:
    if mode.tolerance is not None:
        return transform.planes_of_tolerance(exponents, mode.tolerance, dimensions)
    return torch.full_like(exponents, PLANES if mode.precision is None else min(mode.precision, PLANES))


def _truncate(bits: Tensor, exponents: Tensor, mode: Mode, dimensions: int) -> tuple[Tensor, Tensor]:
    """Return the bits that a decoder reads, and which blocks (blocks,) it finds not empty."""
    if mode.rate is not None:
        coded = CodedPlanes(in_sequency(bits, dimensions))
        budget = block_budget(dimensions, mode.rate) - _HEADER_BITS
        return from_sequency(coded.cut(budget), dimensions), exponents > transform.EMPTY
    planes = _kept_planes(exponents, mode, dimensions)
    return transform.keep_planes(bits, planes), (exponents > transform.EMPTY) & (planes > 0)


def _decode(values: Tensor, exponents: Tensor, shape: tuple[int, ...]) -> Tensor:
    restored = transform.inverse_transform(values, len(shape))
    return transform.from_blocks(transform.from_fixed_point(restored, exponents.clamp_min(-96)), shape)


def _in_chunks(arrays: Tensor, batch_size: int | None, run: Callable[[slice], None]) -> None:
    size = batch_size or max(1, _CHUNK.get(arrays.device.type, _CHUNK["cpu"]) // math.prod(arrays.shape[1:]))
    BatchSize(size).run(len(arrays), run)
