"""What data sets of encoded streams share: positions, decoding in batches, and the transform after it."""

from __future__ import annotations

import bisect
import operator
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cp_compress.base.arguments import reject
from cp_compress.base.errors import CompressionError, CorruptStreamError, InvalidArgumentError
from cp_compress.data.codec import Codec
from cp_compress.data.container import stated_shape
from cp_compress.inputs.reading import LabeledData

Transform = Callable[[Tensor], Tensor]


class StreamDataset(Dataset[tuple[Tensor, Tensor]]):
    """Labelled examples held as one stream each; reading decodes."""

    codec: Codec
    transform: Transform | None

    @property
    @abstractmethod
    def labels(self) -> Tensor:
        """The labels (n,), int64."""

    @abstractmethod
    def _streams(self, positions: list[int]) -> list[bytes]:
        """Return the streams at positions in 0…n−1."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """The bytes that the data set takes."""

    @property
    def bytes_per_example(self) -> float:
        """The mean bytes of an example: `nbytes` / n."""
        return self.nbytes / len(self)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the examples at `indices`, decoded together; a `DataLoader` calls this for a batch."""
        positions = [self._position(index) for index in indices]
        if not positions:
            return []
        inputs, labels = self._decode(positions), self._labels_at(positions)
        return inputs if labels is None else list(zip(inputs, labels, strict=True))

    def stream(self, index: int) -> bytes:
        """Return the stream of one example."""
        return self._streams([self._position(index)])[0]

    def streams(self, indices: Sequence[int]) -> list[bytes]:
        """Return the streams of examples, in the order of their indices."""
        return self._streams([self._position(index) for index in indices])

    def remake(self, inputs: Tensor) -> Tensor:
        """Return inputs (n, ...) encoded, decoded and transformed as those of the data set."""
        return self._transformed(self.codec.roundtrip(inputs))

    def _labels_at(self, positions: list[int]) -> Tensor | None:
        """Return the labels of examples, None where there are none."""
        return self.labels[positions]

    def where(self, position: int) -> str:
        """Return the text that errors append to the number of an example, such as the file that holds it."""
        return ""

    def _position(self, index: int) -> int:
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"example {position} of a data set of {len(self)}")
        return position % len(self)

    def _decode(self, positions: list[int]) -> list[Tensor]:
        return self.decode_streams(self._streams(positions), positions)

    def decode_streams(self, streams: Sequence[bytes], positions: Sequence[int]) -> list[Tensor]:
        """Return the decoded and transformed examples of streams, those of one shape decoded together.

        `positions` are the numbers of the examples, by which errors name them.
        """
        return read_streams(streams, positions, lambda part: self._transformed(self.codec.decode(part)), self.where)

    def _transformed(self, batch: Tensor) -> Tensor:
        if self.transform is None:
            return batch
        changed = self.transform(batch)
        if not isinstance(changed, Tensor) or changed.shape[:1] != batch.shape[:1]:
            found = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            rule = f"gave {found} for a batch {tuple(batch.shape)}; it must return one row per example"
            reject(type(self).__name__, "transform", self.transform, rule)
        return changed


def read_streams(
    streams: Sequence[bytes],
    positions: Sequence[int],
    read: Callable[[list[bytes]], Tensor],
    where: Callable[[int], str],
) -> list[Tensor]:
    """Return what `read` makes of the streams of the examples at positions, those of one shape read together.

    Raises CorruptStreamError for a damaged stream, with its position in the data set and what `where` says of it.
    """
    groups: dict[object, list[int]] = {}
    for place, stream in enumerate(streams):
        groups.setdefault(stated_shape(stream), []).append(place)
    found: dict[int, Tensor] = {}
    for places in groups.values():
        try:
            rows = read([streams[place] for place in places])
        except CorruptStreamError as error:
            if error.index is None:
                raise
            damaged = positions[places[error.index]]
            raise CorruptStreamError(f"data set example #{damaged}{where(damaged)}: {error}", damaged) from error
        found.update(zip(places, rows, strict=True))
    return [found[place] for place in range(len(streams))]


def check_transform(owner: str, transform: Any) -> None:
    """Reject what is neither a function nor None."""
    if transform is not None and not callable(transform):
        reject(owner, "transform", transform, "must be a function of a batch (n, ...), or None")


def check_task(owner: str, data: LabeledData) -> None:
    """Reject data whose targets are more than one class an example."""
    if data.task != "single_label":
        rule = f"its task is {data.task}; only data with one class per example can be stored"
        reject(owner, "dataset", type(data.source).__name__, rule)


def encode_examples(codec: Codec, inputs: Tensor, start: int) -> list[bytes]:
    """Return the streams of inputs (k, ...), which are examples `start` and following of a data set.

    Raises InvalidArgumentError or CompressionError, naming the first example that the codec refuses.
    """
    try:
        return codec.encode(inputs)
    except (InvalidArgumentError, CompressionError):
        first = bisect.bisect_left(
            range(len(inputs)), True, key=lambda place: _refusal(codec, inputs[: place + 1]) is not None
        )
        alone = _refusal(codec, inputs[first : first + 1])
        if alone is None:
            raise
        raise type(alone)(f"data set example #{start + first}, encoded alone: {alone}") from alone


def _refusal(codec: Codec, inputs: Tensor) -> InvalidArgumentError | CompressionError | None:
    try:
        codec.encode(inputs)
    except (InvalidArgumentError, CompressionError) as error:
        return error
    return None


def concatenate(streams: Sequence[bytes]) -> tuple[Tensor, Tensor]:
    """Return all bytes (total,), uint8, and where each stream begins and the last one ends (n + 1,), int64."""
    offsets = torch.tensor([0, *map(len, streams)], dtype=torch.int64).cumsum(0)
    return torch.frombuffer(bytearray().join(streams), dtype=torch.uint8), offsets


def cut(content: memoryview, edges: memoryview, positions: Sequence[int]) -> list[bytes]:
    """Return the streams at positions of what `concatenate` made, seen by `view_of`."""
    return [bytes(content[edges[position] : edges[position + 1]]) for position in positions]


def view_of(tensor: Tensor) -> memoryview:
    """Return the memory of a tensor on the CPU; its single values are read an order faster than the tensor's."""
    return tensor.numpy().data
