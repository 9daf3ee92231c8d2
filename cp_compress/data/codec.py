"""What a codec is, how codecs are written as text, and which batches they accept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.base.errors import CorruptStreamError
from cp_compress.base.expressions import Expressible, format_expression
from cp_compress.base.lazy import LazyModule
from cp_compress.data.container import Kind, Sealed, unseal, write_shape

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@runtime_checkable
class Codec(Protocol):
    """An immutable, hashable, picklable value that stores each example of a batch as one stream of bytes.

    A stream contains the shape and dtype of its example, so that `decode` needs nothing else. A batch on a GPU is
    encoded on the CPU. Each stream can be decoded alone, with the same result.
    """

    @property
    def lossless(self) -> bool:
        """Whether decoding restores every bit."""
        ...

    def encode(self, batch: Tensor) -> list[bytes]:
        """Return one stream per example."""
        ...

    def decode(self, streams: Sequence[bytes]) -> Tensor:
        """Return the examples of streams, as a batch on the CPU in the dtype that was encoded."""
        ...

    def roundtrip(self, batch: Tensor) -> Tensor:
        """Return the decoded examples after encoding, on the device of the batch."""
        ...


_registry = LazyModule("cp_compress.data.registry")  # it lies above, since it lists all codecs


def as_codec(owner: str, value: object) -> Codec:
    """Return a codec, or that of an expression such as "jpeg(quality=75)"; rejects, as `owner`, anything else."""
    if isinstance(value, str):
        codec: Codec = _registry.parse_codec(value)
        return codec
    if not isinstance(value, Codec) or isinstance(value, type):
        rule = 'must be a codec, such as JPEG(quality=75), or its expression, such as "jpeg(quality=75)"'
        if isinstance(value, type) and callable(getattr(value, "encode", None)):
            rule = f"{rule}; this is its class: make one, as {value.__name__}(…)"
        elif hasattr(value, "__getitem__") and hasattr(value, "__len__"):
            rule = f"{rule}; the data comes first, and the codec after it"
        reject(owner, "codec", value, rule)
    return value


class StreamCodec:
    """The text of a codec and its round trip, for the dataclasses of this package."""

    def __str__(self: Expressible) -> str:
        return format_expression(self)

    def __repr__(self) -> str:
        return str(self)

    def roundtrip(self: Any, batch: Tensor) -> Tensor:
        """Return `decode(encode(batch))` on the device of the batch."""
        decoded: Tensor = self.decode(self.encode(batch))
        return decoded.to(batch.device)


def check_batch(owner: str, batch: Tensor) -> Tensor:
    """Return a batch on the CPU, detached; raises InvalidArgumentError for what no codec takes."""
    return check_examples(owner, batch).cpu()


def check_examples(owner: str, batch: Tensor) -> Tensor:
    """Return a batch on its own device, detached; raises InvalidArgumentError for what no codec takes."""
    if not isinstance(batch, Tensor):
        reject(owner, "batch", type(batch).__name__, "must be a tensor (n, ...)")
    if batch.ndim < 2 or batch.numel() == 0:
        reject(owner, "batch", tuple(batch.shape), "must have shape (n, ...) with at least one example and one value")
    if batch.dtype != torch.uint8 and batch.dtype not in _FLOATS:
        reject(owner, "batch", batch.dtype, "must be uint8 or of a floating-point dtype")
    return batch.detach()


def check_values(owner: str, values: Tensor, allowed: tuple[float, float] | None, remedy: str) -> float:
    """Return the largest magnitude of floating-point values (n, ...).

    Raises InvalidArgumentError, naming the first such example, for NaN, Inf and values outside `allowed`, whose
    bounds count as they are in the dtype of the values.
    """
    smallest, largest = (float(bound) for bound in torch.aminmax(values))  # NaN if there is one anywhere
    if not (math.isfinite(smallest) and math.isfinite(largest)):
        reject(owner, "batch", f"NaN or Inf in example #{_first(~values.isfinite())}", "every value must be finite")
    if allowed is not None:
        low, high = (float(torch.tensor(bound, dtype=values.dtype)) for bound in allowed)
        if smallest < low or largest > high:
            found = f"{smallest:g} … {largest:g}, example #{_first((values < low) | (values > high))} the first"
            reject(owner, "batch", found, f"values must lie in [{allowed[0]:g}, {allowed[1]:g}]; {remedy}")
    return max(abs(smallest), abs(largest))


def _first(wrong: Tensor) -> int:
    return int(wrong.flatten(1).any(dim=1).nonzero()[0])


def open_streams(streams: Sequence[bytes], kind: Kind) -> list[Sealed]:
    """Open the envelopes of a batch; raises CorruptStreamError unless all hold one shape and dtype."""
    if isinstance(streams, (bytes, bytearray, str)) or not isinstance(streams, Sequence) or len(streams) == 0:
        reject(kind.name, "streams", type(streams).__name__, "must be a sequence of at least one stream (bytes)")
    shape = unseal(streams[0], kind, 0).shape
    like = write_shape(shape), shape
    opened = [unseal(stream, kind, index, like) for index, stream in enumerate(streams)]
    for index, sealed in enumerate(opened):
        if (sealed.shape, sealed.dtype) != (opened[0].shape, opened[0].dtype):
            raise CorruptStreamError(
                f"example #{index} has shape {sealed.shape} and {sealed.dtype}, "
                f"example #0 {opened[0].shape} and {opened[0].dtype}: all examples of a batch need one shape and dtype",
                index,
            )
    return opened
