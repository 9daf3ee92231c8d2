"""A labelled data set whose inputs are held compressed and decoded when they are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, explains_keywords
from cp_compress.base.batching import slices
from cp_compress.base.digests import digest_tensors, digest_text
from cp_compress.base.errors import CompressionError, ObservationError
from cp_compress.data.codec import Codec, as_codec
from cp_compress.data.container import payload_size
from cp_compress.data.images import read_runs
from cp_compress.data.stream_dataset import (
    StreamDataset,
    Transform,
    check_task,
    check_transform,
    concatenate,
    cut,
    encode_examples,
    view_of,
)
from cp_compress.inputs.originals import Originals, digest_rows, keep_originals
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.row_digests import digest_values
from cp_compress.inputs.tasks import UNKNOWN
from cp_compress.inputs.wrapping import said_by


@explains_keywords
class CompressedDataset(StreamDataset):
    """A map-style data set of (decoded input, label), held as one stream per example; batches are decoded together.

    The data is encoded once, when the data set is made. Streams, offsets and labels are held in one tensor each, which
    the workers of a `DataLoader` share. `payload_bytes` is the size of all streams without their envelopes. `labels`
    are (n,), int64; `classes` is that of `dataset` where it has one. Reading raises CorruptStreamError for a damaged
    stream, with its position in the data set.

    Args:
        dataset: Labelled data in any form that comparisons accept, with one class per example and inputs that the codec
            accepts; PIL images become uint8.
        codec: The codec that stores the inputs, such as `JPEG(80)`, or its expression, "jpeg(quality=80)".
        transform: A function from a decoded batch (n, ...) to what the model takes, such as a normalisation. It must
            return one row per example, and each row must depend on its own example only. It must be picklable if
            workers are spawned.
        batch_size: The number of examples that are encoded together.

    Raises:
        InvalidArgumentError: If an argument is not as described, or the codec does not accept an input, which is named.
        CompressionError: If inputs differ in shape or dtype, or the codec cannot store an input, which is named.

    >>> from cp_compress.data import JPEG
    >>> stored = CompressedDataset((torch.rand(4, 3, 16, 16), torch.arange(4)), JPEG(80))
    >>> len(stored), stored[2][0].shape
    (4, torch.Size([3, 16, 16]))
    """

    def __init__(
        self,
        dataset: Any,
        codec: Codec | str,
        *,
        transform: Transform | None = None,
        batch_size: int = 256,
    ) -> None:
        codec = as_codec("CompressedDataset", codec)
        check_transform("CompressedDataset", transform)
        rule = "must be a whole number of 1 or more"
        size = check_integer("CompressedDataset", "batch_size", batch_size, rule, at_least=1)
        self.codec = codec
        self.transform = transform
        data = dataset if isinstance(dataset, LabeledData) else LabeledData(dataset)
        check_task("CompressedDataset", data)
        classes = said_by(data, "classes")
        if classes is not None:
            self.classes = classes
        self.labeled = data.labeled
        streams, self._labels, originals = _encode(data, codec, size)
        keep_originals(self, data, originals)
        self.payload_bytes = sum(map(payload_size, streams))
        self._stream, self._offsets = concatenate(streams)

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def labels(self) -> Tensor:
        """The labels (n,), int64; raises ObservationError where the data set has none."""
        if not self.labeled:
            raise ObservationError("the compressed data set has no labels, as what it was made from")
        return self._labels

    def _labels_at(self, positions: list[int]) -> Tensor | None:
        return self._labels[positions] if self.labeled else None

    @property
    def nbytes(self) -> int:
        """The bytes of all streams, including their envelopes."""
        return len(self._stream)

    def digest(self) -> str:
        """Return the hex digest of the codec, the streams and the labels; `transform` is not part of it."""
        return digest_text(str(self.codec), digest_tensors([self._stream, self._offsets, self._labels]))

    def _streams(self, positions: list[int]) -> list[bytes]:
        return cut(view_of(self._stream), view_of(self._offsets), positions)


def _without_labels(data: LabeledData, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for part in slices(len(data), batch_size):
        yield data.inputs(range(part.start, part.stop)), torch.full((part.stop - part.start,), UNKNOWN)


def _encode(data: LabeledData, codec: Codec, batch_size: int) -> tuple[list[bytes], Tensor, Originals]:
    """Return the streams of all examples in order, their labels (n,), and the digests of what was encoded."""
    streams: list[bytes] = []
    digests: list[bytes] = []
    values: list[bytes] = []
    labels: list[Tensor] = []
    first: tuple[tuple[int, ...], torch.dtype] | None = None
    runs = read_runs(data, 0, len(data), batch_size) if data.labeled else _without_labels(data, batch_size)
    for inputs, part in runs:
        row = (tuple(inputs.shape[1:]), inputs.dtype)
        first = first or row
        if row != first:
            rule = f"example #{len(streams)} is {row}, example #0 {first}: all examples need one shape and dtype"
            raise CompressionError(f"CompressedDataset: {rule}")
        streams += encode_examples(codec, inputs, len(streams))
        labels.append(part)
        digests.append(digest_rows(inputs))
        values.append(bytes.fromhex("".join(digest_values(inputs))))
    assert first is not None  # no data set is empty
    return streams, torch.cat(labels), Originals(*first, b"".join(digests), b"".join(values))
