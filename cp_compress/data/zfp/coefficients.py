"""The coefficients that zfp stores of arrays, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.base.batching import BatchSize
from cp_compress.base.showing.brief import Brief
from cp_compress.data.zfp.planes import Setting, cut_planes
from cp_compress.data.zfp.requantise import part_size, store_blocks
from cp_compress.data.zfp.transform import (
    NUMBERS,
    block_grid,
    decode_blocks,
    from_blocks,
    from_fixed_point,
    from_negabinary,
    to_blocks,
    to_fixed_point,
    to_negabinary,
)


@explains_keywords
@dataclass(frozen=True, eq=False, repr=False)
class BlockCoefficients(Brief):
    """The coefficients of arrays (n, channels, *shape) of one to four dimensions d, as a decoder reads them.

    `values` (n, channels, *grid, 4^d) holds a block in its last dimension, the mean of its values first and high
    frequencies last (`block_order.sequency_order`): int32 in units of 2^(exponent − 30), for float64 data int64 in
    units of 2^(exponent − 62), or floating-point numbers in the units of the data. `exponents` (n, channels, *grid),
    int32, are those of the blocks; a block of zeros has −127 (float64: −1023).
    """

    values: Tensor
    exponents: Tensor
    shape: tuple[int, ...]

    def scaled(self) -> BlockCoefficients:
        """Return the coefficients in the units of the data, float32 or float64.

        Beyond 24 bit planes (float64: 53) their last bits are rounded away.
        """
        if self.values.is_floating_point():
            return self
        return replace(self, values=from_fixed_point(self.values, self.exponents))

    def integers(self) -> BlockCoefficients:
        """Return the coefficients as integers: the inverse of `scaled`."""
        if not self.values.is_floating_point():
            return self
        return replace(self, values=to_fixed_point(self.values, self.exponents))

    def at_precision(self, precision: int) -> BlockCoefficients:
        """Return the coefficients with at most `precision` bit planes, in the same form.

        They are those that encoding at this precision would have stored, unless fewer planes were stored.
        """
        whole = self.integers()
        planes = NUMBERS[whole.values.dtype].planes
        rule = f"precision must be a whole number of bit planes in 1..{planes}"
        check_integer("BlockCoefficients", "precision", precision, rule, at_least=1, at_most=planes)
        lowest = torch.full_like(self.exponents, planes - precision)
        cut = replace(whole, values=from_negabinary(cut_planes(to_negabinary(whole.values), lowest)))
        return cut.scaled() if self.values.is_floating_point() else cut

    def invert(self) -> Tensor:
        """Return the values (n, channels, *shape) that zfp decodes from the coefficients, float32 or float64."""
        return from_blocks(decode_blocks(to_negabinary(self.integers().values), self.exponents), self.shape)


def coefficients_of_arrays(values: Tensor, setting: Setting) -> BlockCoefficients:
    """Return what zfp stores of arrays (n, channels, *shape) of values, as `requantise_arrays` takes them."""
    shape, numbers = tuple(values.shape[2:]), NUMBERS[values.dtype]
    grid = (*values.shape[:2], *block_grid(shape))
    found = torch.empty(*grid, 4 ** len(shape), dtype=numbers.integer, device=values.device)
    exponents = torch.empty(grid, dtype=torch.int32, device=values.device)

    def work(rows: slice) -> None:
        stored = store_blocks(to_blocks(values[rows], len(shape)), setting)
        found[rows], exponents[rows] = from_negabinary(stored.patterns), stored.exponents
        if stored.lowest is not None:  # of a block without planes not even the exponent is stored
            exponents[rows].masked_fill_(stored.lowest == numbers.planes, -numbers.bias)

    BatchSize(max(1, part_size(values.device) // values[0].numel())).run(len(values), work)
    return BlockCoefficients(found, exponents, shape)


def coefficients_of_blocks(
    values: Tensor, exponents: Tensor, channels: int, shape: tuple[int, ...]
) -> BlockCoefficients:
    """Return coefficients (n, blocks, 4^d) and exponents (n, blocks), blocks in zfp's order, as those of arrays."""
    grid = (len(values), channels, *block_grid(shape))
    return BlockCoefficients(values.reshape(*grid, -1), exponents.reshape(grid), shape)


def join_channels(parts: Sequence[BlockCoefficients]) -> BlockCoefficients:
    """Return the channels of several arrays side by side; raises InvalidArgumentError where their shapes differ."""
    shapes = [part.shape for part in parts]
    if len(set(shapes)) > 1:
        rule = "the arrays of an example must have one shape; use coefficient_arrays or coefficient_arrays_of_streams"
        reject("ZFP", "coefficients", shapes, rule)
    if len(parts) == 1:
        return parts[0]
    values = torch.cat([part.values for part in parts], dim=1)
    return BlockCoefficients(values, torch.cat([part.exponents for part in parts], dim=1), parts[0].shape)
