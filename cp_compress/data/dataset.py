"""A labelled data set whose inputs are held compressed and decoded when they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cp_compress.base.arguments import check_integer, reject
from cp_compress.base.datasets import LabeledData
from cp_compress.base.errors import CorruptStreamError
from cp_compress.data.codecs import Codec
from cp_compress.data.container import payload_size


class CompressedDataset(Dataset[tuple[Tensor, Tensor]]):
    """A map-style data set of (decoded input, label): one stream an example, decoded in batches where read so.

    `dataset` is anything that `LabeledData` reads, with inputs that the codec takes; it is encoded once, in batches
    of `batch_size`. `transform` maps a decoded batch (n, ...) to what the model takes, such as a normalisation.
    The streams lie in one tensor, so that workers of a `DataLoader` share them.

    `nbytes` counts all streams with their envelopes, `payload_bytes` without, `bytes_per_example` is their mean
    with envelopes. `labels` are (n,), int64; `classes` is that of `dataset` where it has one.

    Raises what the codec raises for inputs that it cannot store.

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
        rule = "must be a whole number of 1 or more"
        size = check_integer("CompressedDataset", "batch_size", batch_size, rule, at_least=1)
        self.codec = codec
        self.transform = transform
        data = dataset if isinstance(dataset, LabeledData) else LabeledData(dataset)
        classes = getattr(data.source, "classes", None)
        if classes is not None:
            self.classes = classes
        streams: list[bytes] = []
        labels: list[Tensor] = []
        for inputs, part_labels in data.batches(size):
            streams += codec.encode(inputs)
            labels.append(part_labels)
        self.labels = torch.cat(labels)
        lengths = torch.tensor([0, *map(len, streams)], dtype=torch.int64)
        self._offsets = lengths.cumsum(0)
        self._stream = torch.from_numpy(np.frombuffer(b"".join(streams), dtype=np.uint8).copy())
        self.payload_bytes = sum(map(payload_size, streams))

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
        position = self._position(index)
        start, stop = self._offsets[position : position + 2].tolist()
        return self._stream[start:stop].numpy().tobytes()

    def _position(self, index: int) -> int:
        position = int(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"example {position} of a data set of {len(self)}")
        return position % len(self)

    def _decode(self, positions: list[int]) -> Tensor:
        try:
            batch = self.codec.decode([self.stream(position) for position in positions])
        except CorruptStreamError as error:
            damaged = positions[error.index or 0]
            raise CorruptStreamError(f"data set example #{damaged}: {error}", damaged) from error
        return batch if self.transform is None else self.transform(batch)
