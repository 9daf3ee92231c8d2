"""A labelled data set whose inputs are held compressed and decoded when they are read."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cp_compress.base.arguments import check_integer, reject
from cp_compress.base.datasets import LabeledData
from cp_compress.base.digests import digest_tensors, digest_text
from cp_compress.base.errors import CompressionError, CorruptStreamError, InvalidArgumentError
from cp_compress.data.codecs import Codec
from cp_compress.data.container import payload_size


class CompressedDataset(Dataset[tuple[Tensor, Tensor]]):
    """A map-style data set of (decoded input, label): one stream an example, decoded in batches where read so.

    `dataset` is anything that `LabeledData` reads, with inputs that the codec takes; it is encoded once, in batches
    of `batch_size`. `transform` maps a decoded batch (n, ...) to what the model takes, one row an example, each row
    from its own example only: a normalisation, say. It must be a picklable function where workers are spawned.

    Streams, offsets and labels lie in one tensor each, which the workers of a `DataLoader` share. `payload_bytes`
    is the size of all streams without their envelopes. `labels` are (n,), int64; `classes` is that of `dataset`
    where it has one.

    Raises InvalidArgumentError or CompressionError, naming the example, for inputs that the codec cannot store, and
    CompressionError for inputs of different shapes or dtypes; reading raises CorruptStreamError for a damaged
    stream, with its position in the data set.

    >>> from cp_compress.data import JPEG
    >>> stored = CompressedDataset((torch.rand(4, 3, 16, 16), torch.arange(4)), JPEG(80))
    >>> len(stored), stored[2][0].shape
    (4, torch.Size([3, 16, 16]))
    """

    def __init__(
        self,
        dataset: Any,
        codec: Codec,
        *,
        transform: Callable[[Tensor], Tensor] | None = None,
        batch_size: int = 256,
    ) -> None:
        if not isinstance(codec, Codec) or isinstance(codec, type):
            reject("CompressedDataset", "codec", codec, "must be a codec such as JPEG(quality=75)")
        if transform is not None and not callable(transform):
            reject("CompressedDataset", "transform", transform, "must be a function of a batch (n, ...), or None")
        rule = "must be a whole number of 1 or more"
        size = check_integer("CompressedDataset", "batch_size", batch_size, rule, at_least=1)
        self.codec = codec
        self.transform = transform
        data = dataset if isinstance(dataset, LabeledData) else LabeledData(dataset)
        classes = getattr(data.source, "classes", None)
        if classes is not None:
            self.classes = classes
        streams, self.labels = _encode(data, codec, size)
        self.payload_bytes = sum(map(payload_size, streams))
        self._offsets = torch.tensor([0, *map(len, streams)], dtype=torch.int64).cumsum(0)
        self._stream = torch.frombuffer(bytearray().join(streams), dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        position = self._position(index)
        return self._decode([position])[0], self.labels[position]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Return the examples at `indices`, decoded together; what a `DataLoader` calls for a batch."""
        positions = [self._position(index) for index in indices]
        return list(zip(self._decode(positions), self.labels[positions], strict=True)) if positions else []

    @property
    def nbytes(self) -> int:
        """The bytes of all streams, envelopes included."""
        return len(self._stream)

    @property
    def bytes_per_example(self) -> float:
        """The mean bytes of a stream, envelope included."""
        return self.nbytes / len(self)

    def stream(self, index: int) -> bytes:
        """Return the stream of one example."""
        return self._streams([self._position(index)])[0]

    def digest(self) -> str:
        """Return the hex digest of what is stored: codec, streams and labels; `transform` is no part of it."""
        return digest_text(str(self.codec), digest_tensors([self._stream, self._offsets, self.labels]))

    def _position(self, index: int) -> int:
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"example {position} of a data set of {len(self)}")
        return position % len(self)

    def _streams(self, positions: list[int]) -> list[bytes]:
        content = self._stream.numpy()
        starts = self._offsets[positions].tolist()
        stops = self._offsets[1:][positions].tolist()
        return [content[start:stop].tobytes() for start, stop in zip(starts, stops, strict=True)]

    def _decode(self, positions: list[int]) -> Tensor:
        try:
            batch = self.codec.decode(self._streams(positions))
        except CorruptStreamError as error:
            if error.index is None:
                raise
            damaged = positions[error.index]
            raise CorruptStreamError(f"data set example #{damaged}: {error}", damaged) from error
        if self.transform is None:
            return batch
        changed = self.transform(batch)
        if not isinstance(changed, Tensor) or changed.shape[:1] != batch.shape[:1]:
            found = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            rule = f"gave {found} for a batch {tuple(batch.shape)}; it must give a tensor with one row an example"
            reject("CompressedDataset", "transform", self.transform, rule)
        return changed


def _encode(data: LabeledData, codec: Codec, batch_size: int) -> tuple[list[bytes], Tensor]:
    """Return the streams of all examples in order, and their labels (n,)."""
    streams: list[bytes] = []
    labels: list[Tensor] = []
    first: tuple[tuple[int, ...], torch.dtype] | None = None
    for inputs, part in data.batches(batch_size):
        row = (tuple(inputs.shape[1:]), inputs.dtype)
        first = first or row
        if row != first:
            rule = f"example #{len(streams)} is {row}, example #0 {first}: they cannot form a batch"
            raise CompressionError(f"CompressedDataset: {rule}")
        try:
            streams += codec.encode(inputs)
        except (InvalidArgumentError, CompressionError):
            _blame_one(codec, inputs, len(streams))
            raise
        labels.append(part)
    return streams, torch.cat(labels)


def _blame_one(codec: Codec, inputs: Tensor, start: int) -> None:
    """Encode the examples of a refused batch alone, so that the error can name the first that is refused."""
    for offset in range(len(inputs)):
        try:
            codec.encode(inputs[offset : offset + 1])
        except (InvalidArgumentError, CompressionError) as error:
            raise type(error)(f"data set example #{start + offset}, encoded alone: {error}") from error
