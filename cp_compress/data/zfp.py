"""ZFP, by zfpy: floating-point arrays of one to four dimensions, one stream an example, guarded on both ways.

zfpy trusts its input: it crashes on budgets below a block's header, returns numbers for NaN, garbage for blocks of
tiny values, and reads on past the end of a short stream. Each of these is met here before zfpy is called.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cp_compress.base.arguments import check_choice, check_integer, check_real, reject
from cp_compress.base.errors import CorruptStreamError, InvalidArgumentError
from cp_compress.data.codecs import StreamCodec, check_batch, check_values, open_streams
from cp_compress.data.container import Kind, Sealed, seal
from cp_compress.data.zfp_limits import FORMATS, BlockFormat, block_budget, check_settings, check_shape, count_blocks

# zfp decodes a block from at most ZFP_MAX_BITS = 16,658 bits, and looks a few words ahead
_READ_AHEAD = 16_658 // 8 + 64
_WORD = 64


@dataclass(frozen=True)
class ZFP(StreamCodec):
    """ZFP in exactly one of its modes: fixed rate, fixed precision, fixed accuracy, or reversible.

    `rate` is in bits a value, in (0, 64]; `precision` the number of bit planes kept, 1..32 (float64: 1..64);
    `tolerance` the largest absolute error; `reversible=True` keeps every bit, the sign of zero and denormals too.
    Batches are arrays (n, ...) of one to four dimensions an example: float32, float64, float16 and bfloat16 (both
    stored as float32), or uint8 (value / 255, so that `tolerance` and `clip` mean the same for it; in reversible
    mode the whole number). Decoding gives the dtype that was encoded; rounding to a dtype other than float32 and
    float64 may add to the error as much as `tolerance` again.

    `layout="3d"` compresses an example with the dimensions it has, those of size 1 left out (an RGB image is one
    3-D array, a grey one 2-D); "2d" lays its channels below one another in one 2-D array. Lossy decoding leaves the
    range of the data: `clip` brings it back into a range (low, high) that the data must lie in, None leaves it.
    In lossy modes magnitudes up to 2⁻⁹⁶ (float64: 2⁻⁹⁶⁰) become 0, since zfp cannot hold blocks of them.

    Raises InvalidArgumentError unless exactly one mode is given, and for settings out of these ranges.

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
            rule = "give exactly one of rate, precision, tolerance, reversible=True"
            reject("ZFP", "mode", " and ".join(given) or None, rule)
        if self.rate is not None:
            rate = check_real("ZFP", "rate", self.rate, "rate must lie in (0, 64] bits a value", above=0, at_most=64)
            object.__setattr__(self, "rate", rate)
        if self.precision is not None:
            rule = "precision must be a whole number of bit planes in 1..64"
            precision = check_integer("ZFP", "precision", self.precision, rule, at_least=1, at_most=64)
            object.__setattr__(self, "precision", precision)
        if self.tolerance is not None:
            rule = "tolerance must be a finite number above 0"
            object.__setattr__(self, "tolerance", check_real("ZFP", "tolerance", self.tolerance, rule, above=0))
        check_choice("ZFP", "layout", self.layout, ("2d", "3d"))
        object.__setattr__(self, "clip", _check_clip(self.clip))

    @property
    def lossless(self) -> bool:
        """Whether the mode is reversible."""
        return self.reversible

    def encode(self, batch: Tensor) -> list[bytes]:
        """Return one stream an example.

        Raises InvalidArgumentError for batches that cannot be stored: NaN, Inf, values outside `clip`, more than
        four dimensions, a rate too low for the dimensions, a precision or tolerance beyond what the dtype holds.
        """
        import zfpy  # here, so that codecs can be read and named where zfpy has no build

        values = check_batch("ZFP", batch)
        shape, block_format = tuple(values.shape[1:]), _format(values.dtype)
        inner = self._inner_shape(shape)
        check_shape(inner)
        check_settings(inner, block_format, self.rate, self.precision)
        measured = values / 255 if values.dtype == torch.uint8 else values
        largest = check_values("ZFP", measured, self.clip, "for other data use clip=None or its own range")
        if self.reversible:
            wide = values.to(block_format.dtype)  # whole numbers of pixels: a third of the bytes of their fractions
        else:
            block_format.check_magnitude(largest, self.tolerance)
            wide = torch.nn.functional.hardshrink(measured.to(block_format.dtype), block_format.smallest)
        rows = wide.reshape(len(wide), *inner).contiguous().numpy()
        kind, mode = self._kind(), self._mode()
        return [seal(kind, shape, values.dtype, zfpy.compress_numpy(row, write_header=False, **mode)) for row in rows]

    def decode(self, streams: Sequence[bytes]) -> Tensor:
        """Return examples (n, ...) in the shape and dtype that were encoded.

        Raises CorruptStreamError, naming the example, for damaged streams, streams of different shapes and those
        of a codec in another mode or layout.
        """
        opened = open_streams(streams, self._kind())
        shape, dtype = opened[0].shape, opened[0].dtype
        block_format, inner = _format(dtype), self._inner_shape(shape)
        try:
            check_shape(inner)
            check_settings(inner, block_format, self.rate, self.precision)
        except InvalidArgumentError as error:
            raise CorruptStreamError(f"example #0: shape {shape} of {dtype} was never encoded: {error}", 0) from error
        for index, sealed in enumerate(opened):  # all of them, before memory is taken for the shape they state
            self._check_length(sealed, inner, index)
        batch = self._decompress(opened, inner, block_format)
        finite = batch.flatten(1).isfinite().all(dim=1)
        if not bool(finite.all()):
            index = int(finite.logical_not().nonzero()[0])
            raise CorruptStreamError(f"example #{index}: the ZFP payload decodes to NaN or Inf", index)
        batch = batch.reshape(len(opened), *shape)
        if self.clip is not None and not self.reversible:
            batch = batch.clamp_(*self.clip)
        if dtype == torch.uint8:
            return (batch if self.reversible else batch * 255).round_().clamp_(0, 255).to(dtype)
        if dtype != block_format.dtype:
            limits = torch.finfo(dtype)  # what overshoots the narrower range is its largest number, not Inf
            batch = batch.clamp_(limits.min, limits.max)
        return batch.to(dtype)

    def _decompress(self, opened: list[Sealed], inner: tuple[int, ...], block_format: BlockFormat) -> Tensor:
        import zfpy

        batch = torch.empty(len(opened), *inner, dtype=block_format.dtype)
        rows = batch.numpy()
        kind = zfpy.dtype_to_ztype(rows.dtype)
        # zfp reads as far as the bits tell it to. Zeros behind a short payload keep it inside the buffer: the block
        # in which the payload ends takes the read-ahead at most, and a zero bit is a whole block after it.
        padding = bytes(_READ_AHEAD + count_blocks(inner) // 8)
        for row, sealed in zip(rows, opened, strict=True):
            padded = b"".join((sealed.payload, padding))
            # private, but the only way to read a stream without zfp's header, whose shape zfpy would trust
            zfpy._decompress(padded, kind, inner, out=row, **self._mode())
        return batch

    def _check_length(self, sealed: Sealed, inner: tuple[int, ...], index: int) -> None:
        """Refuse payloads that no such array can have; a block takes one bit or more, a budget exactly its own."""
        blocks, size = count_blocks(inner), 8 * len(sealed.payload)
        wrong = blocks > size or size % _WORD != 0
        if self.rate is not None:
            bits = blocks * block_budget(len(inner), self.rate)
            wrong = size != -(-bits // _WORD) * _WORD
        if wrong:
            raise CorruptStreamError(f"example #{index}: {size // 8} bytes are no ZFP payload of {inner}", index)

    def _mode(self) -> dict[str, Any]:
        """Return zfpy's own arguments; without any it is reversible."""
        given = {"rate": self.rate, "precision": self.precision, "tolerance": self.tolerance}
        return {name: value for name, value in given.items() if value is not None}

    def _kind(self) -> Kind:
        """Return whose streams this codec reads; `clip` is left out, since any range can be applied afterwards."""
        mode = self._mode() or {"reversible": True}
        text = ", ".join(f"{name}={value!r}" for name, value in mode.items())
        return Kind(2, "ZFP", f"{text}, layout={self.layout!r}".encode())

    def _inner_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape in which zfp sees an example of a shape."""
        inner = tuple(extent for extent in shape if extent > 1) or (1,)
        if self.layout == "2d" and len(inner) > 2:
            return math.prod(inner[:-1]), inner[-1]
        return inner


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


def _format(dtype: torch.dtype) -> BlockFormat:
    return FORMATS[torch.float64 if dtype == torch.float64 else torch.float32]
