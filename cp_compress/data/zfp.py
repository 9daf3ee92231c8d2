"""ZFP, by zfpy: floating-point arrays of one to four dimensions, one stream an example, guarded on both ways.

zfpy trusts its input: it crashes on budgets below a block's header, returns numbers for NaN, garbage for blocks of
tiny values, and reads on past the end of a short stream. Each of these is met here before zfpy is called.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import zfpy
from torch import Tensor

from cp_compress.base.arguments import check_choice, check_integer, check_real, reject
from cp_compress.base.errors import CorruptStreamError
from cp_compress.data.codecs import StreamCodec, check_batch, check_range, open_streams
from cp_compress.data.container import Sealed, seal

_KIND = 2
_LARGEST_DIMENSION = {1: 2**48, 2: 2**24, 3: 2**16, 4: 2**12}
# sign bit of emptiness and exponent: what a block costs before its first coefficient
_BLOCK_HEADER_BITS = {torch.float32: 9, torch.float64: 12}
_PRECISION_BITS = {torch.float32: 32, torch.float64: 64}
# blocks whose largest magnitude lies below decode to garbage: zfp's scaling leaves the exponent range
_SMALLEST = {torch.float32: 2.0**-96, torch.float64: 2.0**-960}
# lossy decoding overshoots; beyond these it could leave the range of the dtype
_LARGEST = {torch.float32: 2.0**120, torch.float64: 2.0**1016}
_MOST_BITS_A_BLOCK = 16_658  # ZFP_MAX_BITS
_WORD = 64


@dataclass(frozen=True)
class ZFP(StreamCodec):
    """ZFP in exactly one of its modes: fixed rate, fixed precision, fixed accuracy, or reversible.

    `rate` is in bits a value, `precision` the number of bit planes kept (1..64), `tolerance` the largest absolute
    error, `reversible=True` keeps every bit. Batches are arrays (n, ...) of one to four dimensions an example,
    floating point or uint8 (which is stored as value / 255); float16 and bfloat16 are stored as float32. Decoding
    gives the dtype that was encoded.

    `layout="3d"` compresses an example with the dimensions it has, those of size 1 left out (an RGB image is one
    3-D array, a grey one 2-D); "2d" lays its channels below one another in one 2-D array. Lossy decoding leaves the
    range of the data: `clip` brings it back into a range that the data must lie in, None leaves it.

    In lossy modes magnitudes below 2⁻⁹⁶ (float64: 2⁻⁹⁶⁰) become 0, since zfp cannot hold blocks of them.

    >>> ZFP(tolerance=0.01).roundtrip(torch.full((1, 3, 8, 8), 0.3)).sub(0.3).abs().max().item() <= 0.01
    True
    """

    rate: float | None = None
    precision: int | None = None
    tolerance: float | None = None
    reversible: bool = False
    layout: str = "3d"
    clip: tuple[float, float] | None = (0.0, 1.0)

    expression_name: ClassVar[str] = "zfp"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.reversible, bool):
            reject("ZFP", "reversible", self.reversible, "must be True or False")
        given = [name for name in ("rate", "precision", "tolerance") if getattr(self, name) is not None]
        given += ["reversible"] if self.reversible else []
        if len(given) != 1:
            reject(
                "ZFP", "mode", " and ".join(given) or None, "give one of rate, precision, tolerance, reversible=True"
            )
        if self.rate is not None:
            rate = check_real("ZFP", "rate", self.rate, "rate must lie in (0, 64] bits a value", above=0, at_most=64)
            object.__setattr__(self, "rate", rate)
        if self.precision is not None:
            rule = "precision must be a whole number of bit planes in 1..64"
            precision = check_integer("ZFP", "precision", self.precision, rule, at_least=1, at_most=64)
            object.__setattr__(self, "precision", precision)
        if self.tolerance is not None:
            rule = "tolerance must be a finite number of 1e-28 or more"
            tolerance = check_real("ZFP", "tolerance", self.tolerance, rule, at_least=1e-28)
            object.__setattr__(self, "tolerance", tolerance)
        check_choice("ZFP", "layout", self.layout, ("2d", "3d"))
        object.__setattr__(self, "clip", _check_clip(self.clip))

    @property
    def lossless(self) -> bool:
        """Whether the mode is reversible."""
        return self.reversible

    def encode(self, batch: Tensor) -> list[bytes]:
        """Return one stream an example.

        Raises InvalidArgumentError for batches that cannot be stored: NaN, Inf, values outside `clip`, more than
        four dimensions, a rate too low for the dimensions.
        """
        values = check_batch("ZFP", batch)
        if self.clip is not None:
            check_range("ZFP", values, *self.clip, "for other data use clip=None or its own range")
        shape = tuple(values.shape[1:])
        stored = _stored_dtype(values.dtype)
        inner = self._inner_shape(shape)
        self._check_inner(inner, stored)
        wide = values.to(stored) / 255 if values.dtype == torch.uint8 else values.to(stored)
        if not self.reversible:
            limit, largest = _LARGEST[stored], float(wide.abs().max())
            if largest > limit:
                reject("ZFP", "batch", largest, f"lossy modes hold magnitudes up to {limit:.3g} of {stored}")
            wide = torch.where(wide.abs() < _SMALLEST[stored], torch.zeros_like(wide), wide)
        rows = wide.reshape(len(wide), *inner).contiguous().numpy()
        return [seal(_KIND, shape, values.dtype, zfpy.compress_numpy(row, **self._mode())) for row in rows]

    def decode(self, streams: Sequence[bytes]) -> Tensor:
        """Return examples (n, ...) in the shape and dtype that were encoded.

        Raises CorruptStreamError, naming the example, for damaged streams and streams of different shapes.
        """
        opened = open_streams(streams, _KIND, "ZFP")
        shape, dtype = opened[0].shape, opened[0].dtype
        stored, inner = _stored_dtype(dtype), self._inner_shape(shape)
        if len(inner) > 4 or not self._fits(inner, stored):
            raise CorruptStreamError(f"example #0: shape {shape} is not one that {self} stores", 0)
        rows = [self._decode_one(sealed, inner, stored, index) for index, sealed in enumerate(opened)]
        batch = torch.from_numpy(np.stack(rows)).reshape(len(rows), *shape)
        if self.clip is not None:
            batch = batch.clamp_(*self.clip)
        return (batch * 255).round_().clamp_(0, 255).to(dtype) if dtype == torch.uint8 else batch.to(dtype)

    def _decode_one(self, sealed: Sealed, inner: tuple[int, ...], stored: torch.dtype, index: int) -> Any:
        blocks = _count_blocks(inner)
        self._check_length(sealed.payload, blocks, inner, stored, index)
        values = 4 ** len(inner)
        most = min(_MOST_BITS_A_BLOCK, 2 * values * _PRECISION_BITS[stored] + _WORD)
        if self.rate is not None:
            most = max(most, self._budget(len(inner)))
        # zfp reads as far as the bits tell it to: zeros behind a short payload keep it inside the buffer
        padded = sealed.payload + bytes(max(0, blocks * most // 8 - len(sealed.payload)) + _WORD)
        kind = zfpy.dtype_to_ztype(np.float32 if stored == torch.float32 else np.float64)
        mode = {name: value for name, value in self._mode().items() if name != "write_header"}
        row = zfpy._decompress(padded, kind, inner, **mode)
        if not np.isfinite(row).all():
            raise CorruptStreamError(f"example #{index}: the ZFP payload decodes to NaN or Inf", index)
        return row

    def _check_length(
        self, payload: bytes, blocks: int, inner: tuple[int, ...], stored: torch.dtype, index: int
    ) -> None:
        """Refuse payloads that no such array can have; a block takes one bit or more, a budget exactly its own."""
        size = 8 * len(payload)
        wrong = blocks > size or size % _WORD != 0
        if self.rate is not None:
            bits = blocks * self._budget(len(inner))
            wrong = size != -(-bits // _WORD) * _WORD
        if wrong:
            raise CorruptStreamError(f"example #{index}: {len(payload)} bytes are no ZFP payload of {inner}", index)

    def _mode(self) -> dict[str, Any]:
        """Return zfpy's own arguments; without any it is reversible. Headers are left out: the envelope has all."""
        given = {"rate": self.rate, "precision": self.precision, "tolerance": self.tolerance}
        return {name: value for name, value in given.items() if value is not None} | {"write_header": False}

    def _inner_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape in which zfp sees an example of a shape."""
        inner = tuple(extent for extent in shape if extent > 1) or (1,)
        if self.layout == "2d" and len(inner) > 2:
            return math.prod(inner[:-1]), inner[-1]
        return inner

    def _check_inner(self, inner: tuple[int, ...], stored: torch.dtype) -> None:
        if len(inner) > 4:
            reject("ZFP", "batch", inner, "an example may have four dimensions larger than 1")
        if max(inner) > _LARGEST_DIMENSION[len(inner)]:
            limit = _LARGEST_DIMENSION[len(inner)]
            reject("ZFP", "batch", inner, f"in {len(inner)} dimensions each may be {limit} long at most")
        if not self._fits(inner, stored):
            values, needed = 4 ** len(inner), _BLOCK_HEADER_BITS[stored]
            rule = f"a block of {values} values needs {needed} bits, a rate of {(needed - 0.5) / values:.3g} or more"
            reject("ZFP", "rate", self.rate, f"{rule} for {len(inner)}-D {stored} data")

    def _fits(self, inner: tuple[int, ...], stored: torch.dtype) -> bool:
        return self.rate is None or self._budget(len(inner)) >= _BLOCK_HEADER_BITS[stored]

    def _budget(self, dimensions: int) -> int:
        """Return the bits of a block in fixed-rate mode, rounded as zfp rounds."""
        return math.floor(float(4**dimensions) * (self.rate or 0.0) + 0.5)


def _check_clip(clip: Any) -> tuple[float, float] | None:
    if clip is None:
        return None
    rule = "clip must be None or a pair of finite numbers (low, high) with low < high"
    if not isinstance(clip, (tuple, list)) or len(clip) != 2:
        reject("ZFP", "clip", clip, rule)
    low, high = (check_real("ZFP", "clip", bound, rule) for bound in clip)
    if not low < high:
        reject("ZFP", "clip", clip, rule)
    return low, high


def _stored_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _count_blocks(inner: tuple[int, ...]) -> int:
    return math.prod(-(-extent // 4) for extent in inner)
