"""What zfp can hold: the shapes, settings and magnitudes beyond which it crashes or returns wrong numbers."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch

from cp_compress.base.arguments import reject

# what zfp's own header can state; kept, so that every stream could be given one
_LARGEST_EXTENT = {1: 2**48, 2: 2**24, 3: 2**16, 4: 2**12}


@dataclass(frozen=True)
class BlockFormat:
    """The limits of blocks of one floating-point dtype.

    `header_bits` is what a block costs before its first coefficient: one bit for emptiness, then the exponent.
    """

    dtype: torch.dtype
    header_bits: int
    planes: int
    smallest: float
    largest: float
    least_relative_tolerance: float

    def check_magnitude(self, largest: float, tolerance: float | None) -> None:
        """Raise InvalidArgumentError when lossy modes cannot hold data of this largest magnitude."""
        if largest > self.largest:
            reject("ZFP", "batch", largest, f"lossy modes hold magnitudes up to {self.largest:.3g} of {self.dtype}")
        if tolerance is not None:
            least = max(largest * self.least_relative_tolerance, self.smallest)
            if tolerance < least:
                rule = f"{self.dtype} data of magnitudes up to {largest:.3g} needs a tolerance of {least:.3g} or more"
                reject("ZFP", "tolerance", tolerance, f"{rule}; to keep every bit use reversible=True")


# smallest: in blocks below, the scaling to integers leaves the exponent range, and garbage is decoded.
# largest: lossy decoding overshoots; beyond, it could leave the range of the dtype.
# least_relative_tolerance: measured, errors keep within tolerance down to 2^-23 and 2^-54 of the largest magnitude.
FORMATS = {
    torch.float32: BlockFormat(torch.float32, 9, 32, 2.0**-96, 2.0**120, 2.0**-22),
    torch.float64: BlockFormat(torch.float64, 12, 64, 2.0**-960, 2.0**1016, 2.0**-51),
}


def check_shape(inner: tuple[int, ...]) -> None:
    """Raise InvalidArgumentError for a shape that zfp cannot state."""
    if len(inner) > 4:
        reject("ZFP", "batch", inner, "an example may have at most four dimensions larger than 1")
    limit = _LARGEST_EXTENT[len(inner)]
    if max(inner) > limit:
        reject("ZFP", "batch", inner, f"in {len(inner)} dimensions each may have a size of at most {limit}")


def check_settings(
    inner: tuple[int, ...], block_format: BlockFormat, rate: float | None, precision: int | None
) -> None:
    """Raise InvalidArgumentError for a rate or precision that blocks of this shape and dtype cannot have."""
    if rate is not None and block_budget(len(inner), rate) < block_format.header_bits:
        values, needed = 4 ** len(inner), block_format.header_bits
        rule = f"a block of {values} values needs {needed} bits, a rate of {(needed - 0.5) / values:.3g} or more"
        reject("ZFP", "rate", rate, f"{rule} for {len(inner)}-D {block_format.dtype} data")
    if precision is not None and precision > block_format.planes:
        reject("ZFP", "precision", precision, f"{block_format.dtype} data has {block_format.planes} bit planes")


def block_budget(dimensions: int, rate: float) -> int:
    """Return the bits of a block in fixed-rate mode, rounded as zfp rounds.

    >>> block_budget(2, 0.53), block_budget(3, 2.0)
    (8, 128)
    """
    return math.floor(float(4**dimensions) * rate + 0.5)


@functools.lru_cache(maxsize=256)
def count_blocks(inner: tuple[int, ...]) -> int:
    """Return the number of blocks of an array: each dimension is cut into fours, the last one filled up.

    >>> count_blocks((3, 32, 32))
    64
    """
    return math.prod(-(-extent // 4) for extent in inner)
