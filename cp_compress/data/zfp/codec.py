"""ZFP, by zfpy and on tensors: floating-point arrays of one to four dimensions, one stream per example, guarded.

zfpy trusts its input: it crashes on budgets below a block's header, returns numbers for NaN and garbage for blocks of
tiny values, and reads beyond the end of a short stream. Each of these is checked here before zfpy is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.base.errors import CorruptStreamError, InvalidArgumentError
from cp_compress.data.codec import StreamCodec, check_examples, check_values, open_streams
from cp_compress.data.container import Kind, Sealed, payload_size, seal
from cp_compress.data.straight_through import straight_through
from cp_compress.data.zfp.arrays import Arrangement, ArrayPlan
from cp_compress.data.zfp.coefficients import (
    BlockCoefficients,
    coefficients_of_arrays,
    coefficients_of_blocks,
    join_channels,
)
from cp_compress.data.zfp.limits import FORMATS, BlockFormat, check_settings, check_shape, count_blocks
from cp_compress.data.zfp.payload import compress, decompress, payload_bits, split_payload
from cp_compress.data.zfp.planes import Setting
from cp_compress.data.zfp.requantise import count_array_bits, find_blocks, requantise_arrays
from cp_compress.data.zfp.settings import ZFPSettings, tolerances
from cp_compress.data.zfp.streams import read_blocks
from cp_compress.data.zfp.transform import NUMBERS


@explains_keywords
@dataclass(frozen=True, repr=False)
class ZFP(StreamCodec, ZFPSettings):
    """ZFP in exactly one of its modes: fixed rate, fixed precision, fixed accuracy, or reversible.

    Batches are arrays (n, ...) of one to four dimensions per example: float32, float64, float16 and bfloat16 (both
    stored as float32), or uint8 (value / 255, so that `tolerance` and `clip` mean the same for it; in reversible mode
    the whole number). Decoding returns the dtype that was encoded; rounding to a dtype other than float32 and float64
    may add to the error as much as `tolerance` again. In lossy modes magnitudes up to 2⁻⁹⁶ (float64: 2⁻⁹⁶⁰) become 0,
    since zfp cannot hold blocks of them.

    Args:
        rate: The bits per value, in (0, 64].
        precision: The number of bit planes kept, 1..32 (float64: 1..64).
        tolerance: The largest absolute error, or two or more of them: with `color="ycbcr"` two are for luma and for
            chroma; otherwise there is one per channel. With several tolerances each channel is an array of its own.
            They bound the errors of luma and chroma as they are stored, not those of the RGB values.
        reversible: Whether to keep every bit, including the sign of zero and denormals.
        layout: "3d" compresses an example with its own dimensions, without those of size 1 (an RGB image is one 3-D
            array, a grey one 2-D); "2d" places its channels below one another in one 2-D array.
        color: "rgb" stores images as they are, "ycbcr" stores images (n, 3, height, width) as luma and chroma (ITU-T
            T.871).
        chroma: The resolution of chroma: "4:4:4" full, "4:2:2" half the width, "4:2:0" half the width and height. At
            half the resolution each channel is an array of its own.
        clip: The range (low, high) that the data must lie in, to which decoded values are clipped, because lossy
            decoding can leave the range of the data; None for neither.

    Raises:
        InvalidArgumentError: If not exactly one mode is given, or a setting is out of its range.

    >>> ZFP(tolerance=0.01).roundtrip(torch.full((1, 3, 8, 8), 0.3)).sub(0.3).abs().max().item() <= 0.01
    True
    """

    @property
    def lossless(self) -> bool:
        """Whether the mode is reversible."""
        return self.reversible

    def encode(self, batch: Tensor) -> list[bytes]:
        """Return one stream per example.

        Raises InvalidArgumentError for batches that cannot be stored: NaN, Inf, values outside `clip`, more than four
        dimensions, a rate too low for the dimensions, a precision or tolerance beyond what the dtype holds.
        """
        examples = check_examples("ZFP", batch).cpu()
        shape, kind = tuple(examples.shape[1:]), self._kind()
        plans = self._plan(shape, examples.dtype)
        payloads = compress(self._stored_arrays(examples, plans), plans)
        return [seal(kind, shape, examples.dtype, payload) for payload in payloads]

    def decode(self, streams: Sequence[bytes], *, precision: int | None = None) -> Tensor:
        """Return examples (n, ...) in the shape and dtype that were encoded.

        `precision` limits the number of bit planes of each block that are used. Decoding streams of a higher precision
        this way gives, bit for bit, what encoding at this precision would have given. It takes longer than without,
        and many times as long where the extra `kernels` is not installed.

        Raises CorruptStreamError, naming the example, for damaged streams, streams of different shapes and those of a
        codec in another mode, layout or colour; InvalidArgumentError for a precision above the stored one.
        """
        if precision is not None:
            return self._decode_at(streams, precision)
        opened, plans = self._open(streams)
        shape, dtype = opened[0].shape, opened[0].dtype
        # all of them, before memory is taken for the shape they state
        parts = [split_payload(sealed.payload, plans, index) for index, sealed in enumerate(opened)]
        stored = _format(dtype).dtype
        arrays = [decompress(part, plan, stored) for part, plan in zip(zip(*parts, strict=True), plans, strict=True)]
        return self._joined(arrays, plans, shape, dtype)

    def _decode_at(self, streams: Sequence[bytes], precision: int) -> Tensor:
        found = self.coefficient_arrays_of_streams(streams, precision=precision)
        opened, plans = self._open(streams)
        arrays = [part.invert().reshape(len(opened), *plan.inner) for part, plan in zip(found, plans, strict=True)]
        return self._joined(arrays, plans, opened[0].shape, opened[0].dtype)

    def _open(self, streams: Sequence[bytes]) -> tuple[list[Sealed], list[ArrayPlan]]:
        opened = open_streams(streams, self._kind())
        shape, dtype = opened[0].shape, opened[0].dtype
        try:
            return opened, self._plan(shape, dtype)
        except InvalidArgumentError as error:
            raise CorruptStreamError(f"example #0: shape {shape} of {dtype} is never encoded: {error}", 0) from error

    def _joined(
        self, arrays: Sequence[Tensor], plans: list[ArrayPlan], shape: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        for array in arrays:
            finite = array.flatten(1).isfinite().all(dim=1)
            if not bool(finite.all()):
                index = int(finite.logical_not().nonzero()[0])
                raise CorruptStreamError(f"example #{index}: the ZFP payload decodes to NaN or Inf", index)
        return self._finished(self._arrangement().join(arrays, plans, shape), dtype)

    def requantise(self, batch: Tensor) -> Tensor:
        """Return what `roundtrip` returns, bit for bit, by tensor arithmetic on the device of the batch.

        Gradients pass through unchanged (straight-through estimator). Accepts the batches and raises the errors of
        `encode`; in reversible mode the result is a copy.

        >>> batch = torch.rand(2, 3, 8, 8)
        >>> torch.equal(ZFP(rate=4).requantise(batch), ZFP(rate=4).roundtrip(batch))
        True
        """
        examples = check_examples("ZFP", batch)
        shape, dtype = tuple(examples.shape[1:]), examples.dtype
        plans = self._plan(shape, dtype)
        arrays = self._stored_arrays(examples, plans, shrunk=find_blocks(examples.device) is None)
        if self.reversible:
            result = examples.clone(memory_format=torch.contiguous_format)
        else:
            clip = self.clip if len(plans) == 1 and self.color == "rgb" else None
            found = [requantise_arrays(array, plan.setting, clip) for array, plan in zip(arrays, plans, strict=True)]
            result = self._finished(self._arrangement().join(found, plans, shape), dtype, clipped=clip is not None)
        return straight_through(batch, result)

    def size_bits(self, batch: Tensor) -> Tensor:
        """Return the exact size of each example's payload in bits, (n,), int64, without coding it.

        It is 8 · `payload_size` of the stream, including the padding of zfp's last words. Accepts the batches and
        raises the errors of `encode`; in reversible mode, which is coded differently, the examples are encoded.
        """
        if self.reversible:
            sizes = [8 * payload_size(stream) for stream in self.encode(batch)]
            return torch.tensor(sizes, device=batch.device)
        examples = check_examples("ZFP", batch)
        plans = self._plan(tuple(examples.shape[1:]), examples.dtype)
        arrays = self._stored_arrays(examples, plans, shrunk=find_blocks(examples.device) is None)
        return payload_bits([count_array_bits(array, plan.setting) for array, plan in zip(arrays, plans, strict=True)])

    def coefficients(self, batch: Tensor, *, scaled: bool = False) -> BlockCoefficients:
        """Return the block coefficients that a decoder reads of a batch, on its device.

        `values` are (n, channels, *grid, 4^d). An example is one array with one channel, except in layout "2d" and with
        one tolerance per channel, where each channel has its own. In layout "2d" an image (3, 32, 32) gives (3, 8, 8,
        16); if the height is not a multiple of four, channels share blocks, and there is one channel. With `scaled` the
        values are floating-point numbers in the units of the data (pixels: of value / 255).

        Accepts the batches and raises the errors of `encode`; InvalidArgumentError also in reversible mode, and if
        arrays have different shapes, as with chroma at half the resolution: `coefficient_arrays` returns each array.

        >>> ZFP(precision=8, layout="2d").coefficients(torch.rand(5, 3, 32, 32)).values.shape
        torch.Size([5, 3, 8, 8, 16])
        """
        return join_channels(self.coefficient_arrays(batch, scaled=scaled))

    def coefficient_arrays(self, batch: Tensor, *, scaled: bool = False) -> tuple[BlockCoefficients, ...]:
        """Return the block coefficients of each array of a batch, for example luma, then chroma."""
        if self.reversible:
            reject("ZFP", "reversible", True, "coefficients are those of the lossy modes")
        examples = check_examples("ZFP", batch)
        plans = self._plan(tuple(examples.shape[1:]), examples.dtype)
        found = []
        for array, plan in zip(self._stored_arrays(examples, plans), plans, strict=True):
            channels, shape = plan.planes
            found.append(coefficients_of_arrays(array.reshape(len(array), channels, *shape), plan.setting))
        return tuple(part.scaled() if scaled else part for part in found)

    def coefficients_of_streams(
        self, streams: Sequence[bytes], *, precision: int | None = None, scaled: bool = False
    ) -> BlockCoefficients:
        """Return the block coefficients that streams hold, on the CPU: those that `coefficients` returned for the
        batch.

        `precision` limits the number of bit planes: streams of a higher precision give the coefficients of that
        precision. Raises the errors of `decode` and `coefficients`.
        """
        return join_channels(self.coefficient_arrays_of_streams(streams, precision=precision, scaled=scaled))

    def coefficient_arrays_of_streams(
        self, streams: Sequence[bytes], *, precision: int | None = None, scaled: bool = False
    ) -> tuple[BlockCoefficients, ...]:
        """Return the block coefficients of each of the arrays that streams hold, as `coefficients_of_streams` does."""
        if self.reversible:
            reject("ZFP", "reversible", True, "coefficients are those of the lossy modes")
        if precision is not None:
            rule = "precision must be a whole number of bit planes in 1..64, and no more than were stored"
            check_integer("ZFP", "precision", precision, rule, at_least=1, at_most=self.precision or 64)
        opened, plans = self._open(streams)
        parts = [split_payload(sealed.payload, plans, index) for index, sealed in enumerate(opened)]
        numbers, found = NUMBERS[_format(opened[0].dtype).dtype], []
        if precision is not None:
            rule = f"values of {opened[0].dtype} have {numbers.planes} bit planes"
            check_integer("ZFP", "precision", precision, rule, at_least=1, at_most=numbers.planes)
        for part, plan in zip(zip(*parts, strict=True), plans, strict=True):
            stored = read_blocks(part, count_blocks(plan.inner), len(plan.inner), plan.setting, numbers, precision)
            found.append(coefficients_of_blocks(stored.coefficients, stored.exponents, *plan.planes))
        return tuple(part.scaled() if scaled else part for part in found)

    def _plan(self, shape: tuple[int, ...], dtype: torch.dtype) -> list[ArrayPlan]:
        """Return the arrays of examples; raises InvalidArgumentError for those that zfp cannot hold."""
        plans = self._arrangement().plan(shape)
        for plan in plans:
            check_shape(plan.inner)
            check_settings(plan.inner, _format(dtype), self.rate, self.precision)
        return plans

    def _stored_arrays(self, examples: Tensor, plans: Sequence[ArrayPlan], *, shrunk: bool = True) -> list[Tensor]:
        """Return the arrays of examples as they are stored; raises InvalidArgumentError for values that cannot be.

        Unless they are `shrunk`, values too small for zfp are still what they were.
        """
        block_format, arrangement = _format(examples.dtype), self._arrangement()
        measured = examples.float() / 255 if examples.dtype == torch.uint8 else examples
        largest = check_values("ZFP", measured, self.clip, "for other data use clip=None or the range of the data")
        if self.reversible:  # whole numbers of pixels take a third of the bytes of their fractions
            return arrangement.split(examples.to(block_format.dtype), plans)
        block_format.check_magnitude(largest, min(tolerances(self.tolerance), default=None))
        arrays = arrangement.split(measured.to(block_format.dtype), plans)
        if not shrunk:
            return arrays
        # last, since chroma can be tiny where colours are not
        return [torch.nn.functional.hardshrink(array, block_format.smallest) for array in arrays]

    def _finished(self, values: Tensor, dtype: torch.dtype, *, clipped: bool = False) -> Tensor:
        """Return decoded values in the range and the dtype of what was encoded."""
        if self.clip is not None and not self.reversible and not clipped:
            values = values.clamp_(*self.clip)
        if dtype == torch.uint8:
            return (values if self.reversible else values * 255).round_().clamp_(0, 255).to(dtype)
        if dtype != values.dtype:
            limits = torch.finfo(dtype)  # what overshoots the narrower range is its largest number, not Inf
            values = values.clamp_(limits.min, limits.max)
        return values.to(dtype)

    def _arrangement(self) -> Arrangement:
        settings = [Setting(self.rate, self.precision, tolerance) for tolerance in tolerances(self.tolerance)]
        return Arrangement(
            self.layout, self.color, self.chroma, tuple(settings) or (Setting(self.rate, self.precision),)
        )

    def _kind(self) -> Kind:
        """Return whose streams this codec reads; `clip` is left out, since any range can be applied afterwards."""
        given = {"rate": self.rate, "precision": self.precision, "tolerance": self.tolerance}
        mode: dict[str, Any] = {name: value for name, value in given.items() if value is not None} or {
            "reversible": True
        }
        mode["layout"] = self.layout
        if self.color != "rgb":
            mode |= {"color": self.color, "chroma": self.chroma}
        return Kind(2, "ZFP", ", ".join(f"{name}={value!r}" for name, value in mode.items()).encode())


def _format(dtype: torch.dtype) -> BlockFormat:
    return FORMATS[torch.float64 if dtype == torch.float64 else torch.float32]
