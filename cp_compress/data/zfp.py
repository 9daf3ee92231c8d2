"""ZFP, by zfpy and on tensors: floating-point arrays of one to four dimensions, one stream an example, guarded.

zfpy trusts its input: it crashes on budgets below a block's header, returns numbers for NaN, garbage for blocks of
tiny values, and reads on past the end of a short stream. Each of these is met here before zfpy is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cp_compress.base.arguments import check_choice, check_integer, check_real, reject
from cp_compress.base.errors import CorruptStreamError, InvalidArgumentError
from cp_compress.data.block_planes import Setting
from cp_compress.data.block_requantise import count_array_bits, requantise_arrays
from cp_compress.data.codecs import StreamCodec, check_examples, check_values, open_streams
from cp_compress.data.container import Kind, payload_size, seal
from cp_compress.data.zfp_arrays import ArrayPlan, Arrangement
from cp_compress.data.zfp_color import HALVED
from cp_compress.data.zfp_limits import FORMATS, BlockFormat, check_settings, check_shape
from cp_compress.data.zfp_payload import arguments, compress, decompress, payload_bits, split_payload

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
    tolerance: float | tuple[float, ...] | None = None
    reversible: bool = False
    layout: str = "3d"
    color: str = "rgb"
    chroma: str = "4:4:4"
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
        object.__setattr__(self, "tolerance", _check_tolerance(self.tolerance))
        check_choice("ZFP", "layout", self.layout, ("2d", "3d"))
        self._check_color()
        object.__setattr__(self, "clip", _check_clip(self.clip))

    def _check_color(self) -> None:
        check_choice("ZFP", "color", self.color, ("rgb", "ycbcr"))
        check_choice("ZFP", "chroma", self.chroma, tuple(HALVED))
        if self.color == "rgb" and self.chroma != "4:4:4":
            reject("ZFP", "chroma", self.chroma, "chroma can be halved with color='ycbcr' only")
        if self.color == "ycbcr" and self.reversible:
            reject("ZFP", "color", self.color, "the colour transform rounds: reversible mode keeps color='rgb'")
        if self.color == "ycbcr" and len(_tolerances(self.tolerance)) > 3:
            rule = "with color='ycbcr' it is one for all, one for luma and one for chroma, or one for each of three"
            reject("ZFP", "tolerance", self.tolerance, rule)

    @property
    def lossless(self) -> bool:
        """Whether the mode is reversible."""
        return self.reversible

    def encode(self, batch: Tensor) -> list[bytes]:
        """Return one stream an example.

        Raises InvalidArgumentError for batches that cannot be stored: NaN, Inf, values outside `clip`, more than
        four dimensions, a rate too low for the dimensions, a precision or tolerance beyond what the dtype holds.
        """
        examples = check_examples("ZFP", batch).cpu()
        shape, kind = tuple(examples.shape[1:]), self._kind()
        plans = self._plan(shape, examples.dtype)
        arrays = self._arrangement().split(self._stored_values(examples), plans)
        rows = zip(*(array.numpy() for array in arrays), strict=True)
        return [seal(kind, shape, examples.dtype, compress(parts, plans)) for parts in rows]

    def decode(self, streams: Sequence[bytes]) -> Tensor:
        """Return examples (n, ...) in the shape and dtype that were encoded.

        Raises CorruptStreamError, naming the example, for damaged streams, streams of different shapes and those
        of a codec in another mode, layout or colour.
        """
        opened = open_streams(streams, self._kind())
        shape, dtype = opened[0].shape, opened[0].dtype
        try:
            plans = self._plan(shape, dtype)
        except InvalidArgumentError as error:
            raise CorruptStreamError(f"example #0: shape {shape} of {dtype} was never encoded: {error}", 0) from error
        # all of them, before memory is taken for the shape they state
        parts = [split_payload(sealed.payload, plans, index) for index, sealed in enumerate(opened)]
        stored = _format(dtype).dtype
        arrays = [decompress(part, plan, stored) for part, plan in zip(zip(*parts, strict=True), plans, strict=True)]
        for array in arrays:
            finite = array.flatten(1).isfinite().all(dim=1)
            if not bool(finite.all()):
                index = int(finite.logical_not().nonzero()[0])
                raise CorruptStreamError(f"example #{index}: the ZFP payload decodes to NaN or Inf", index)
        return self._finished(self._arrangement().join(arrays, plans, shape), dtype)

    def requantise(self, batch: Tensor) -> Tensor:
        """Return what `roundtrip` gives, bit for bit, as tensor arithmetic on the device of the batch.

        Gradients pass straight through: that of the batch is that of the result. Takes and raises what `encode`
        does; in reversible mode the result is a copy.

        >>> batch = torch.rand(2, 3, 8, 8)
        >>> torch.equal(ZFP(rate=4).requantise(batch), ZFP(rate=4).roundtrip(batch))
        True
        """
        examples = check_examples("ZFP", batch)
        shape, dtype = tuple(examples.shape[1:]), examples.dtype
        plans = self._plan(shape, dtype)
        values = self._stored_values(examples)
        if self.reversible:
            result = examples.clone(memory_format=torch.contiguous_format)
        else:
            arrays = self._arrangement().split(values, plans)
            found = [requantise_arrays(array, plan.setting) for array, plan in zip(arrays, plans, strict=True)]
            result = self._finished(self._arrangement().join(found, plans, shape), dtype)
        straight: Tensor = _StraightThrough.apply(batch, result) if batch.requires_grad else result
        return straight

    def size_bits(self, batch: Tensor) -> Tensor:
        """Return the exact size of each example's payload in bits, (n,), int64, without coding it.

        It is 8 · `payload_size` of the stream, words that zfp fills up included. Takes and raises what `encode`
        does; in reversible mode, which codes differently, the examples are encoded.
        """
        if self.reversible:
            sizes = [8 * payload_size(stream) for stream in self.encode(batch)]
            return torch.tensor(sizes, device=batch.device)
        examples = check_examples("ZFP", batch)
        plans = self._plan(tuple(examples.shape[1:]), examples.dtype)
        arrays = self._arrangement().split(self._stored_values(examples), plans)
        return payload_bits([count_array_bits(array, plan.setting) for array, plan in zip(arrays, plans, strict=True)])

    def _plan(self, shape: tuple[int, ...], dtype: torch.dtype) -> list[ArrayPlan]:
        """Return the arrays of examples; raises InvalidArgumentError for those that zfp cannot hold."""
        plans = self._arrangement().plan(shape)
        for plan in plans:
            check_shape(plan.inner)
            check_settings(plan.inner, _format(dtype), self.rate, self.precision)
        return plans

    def _stored_values(self, examples: Tensor) -> Tensor:
        """Return examples as the floating-point values that are stored; raises InvalidArgumentError for wrong ones."""
        block_format = _format(examples.dtype)
        measured = examples / 255 if examples.dtype == torch.uint8 else examples
        largest = check_values("ZFP", measured, self.clip, "for other data use clip=None or its own range")
        if self.reversible:
            return examples.to(block_format.dtype)  # whole numbers of pixels: a third of the bytes of their fractions
        block_format.check_magnitude(largest, min(_tolerances(self.tolerance), default=None))
        return torch.nn.functional.hardshrink(measured.to(block_format.dtype), block_format.smallest)

    def _finished(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Return decoded values in the range and the dtype of what was encoded."""
        if self.clip is not None and not self.reversible:
            values = values.clamp_(*self.clip)
        if dtype == torch.uint8:
            return (values if self.reversible else values * 255).round_().clamp_(0, 255).to(dtype)
        if dtype != values.dtype:
            limits = torch.finfo(dtype)  # what overshoots the narrower range is its largest number, not Inf
            values = values.clamp_(limits.min, limits.max)
        return values.to(dtype)

    def _arrangement(self) -> Arrangement:
        settings = [Setting(self.rate, self.precision, tolerance) for tolerance in _tolerances(self.tolerance)]
        return Arrangement(
            self.layout, self.color, self.chroma, tuple(settings) or (Setting(self.rate, self.precision),)
        )

    def _kind(self) -> Kind:
        """Return whose streams this codec reads; `clip` is left out, since any range can be applied afterwards."""
        mode = arguments(Setting(self.rate, self.precision, self.tolerance)) or {"reversible": True}
        mode["layout"] = self.layout
        if self.color != "rgb":
            mode |= {"color": self.color, "chroma": self.chroma}
        return Kind(2, "ZFP", ", ".join(f"{name}={value!r}" for name, value in mode.items()).encode())


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, batch: Tensor, result: Tensor) -> Tensor:
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


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


def _check_tolerance(tolerance: Any) -> float | tuple[float, ...] | None:
    rule = "tolerance must be a finite number above 0, or two or more of them, one for each channel"
    if isinstance(tolerance, (tuple, list)):
        if len(tolerance) < 2:
            reject("ZFP", "tolerance", tolerance, rule)
        return tuple(check_real("ZFP", "tolerance", one, rule, above=0) for one in tolerance)
    return None if tolerance is None else check_real("ZFP", "tolerance", tolerance, rule, above=0)


def _tolerances(tolerance: float | tuple[float, ...] | None) -> tuple[float, ...]:
    if tolerance is None:
        return ()
    return tolerance if isinstance(tolerance, tuple) else (tolerance,)


def _format(dtype: torch.dtype) -> BlockFormat:
    return FORMATS[torch.float64 if dtype == torch.float64 else torch.float32]
