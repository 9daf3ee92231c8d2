"""Data of any form as stages that can be timed apart: bytes or examples are read, and then decoded."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.data.coefficients.dataset import CoefficientDataset
from cp_compress.data.images import as_tensor
from cp_compress.data.stream_dataset import StreamDataset
from cp_compress.inputs.reading import LabeledData

Rows = list[tuple[Any, Any]]
READ, DECODE, COEFFICIENTS = "read", "decode", "coefficients"


class Source(Protocol):
    """Examples in two steps; `second` names the second one, None where there is none. Picklable where the data is."""

    @property
    def second(self) -> str | None: ...

    @property
    def note(self) -> str: ...

    def __len__(self) -> int: ...

    def read(self, positions: Sequence[int]) -> Any:
        """Return what is read of examples, before it is decoded."""

    def decode(self, given: Any) -> Rows:
        """Return (input, label) of each example."""


class _Streams:
    """Streams of a store or a compressed data set, decoded together."""

    second = DECODE
    note = ""

    def __init__(self, dataset: StreamDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, positions: Sequence[int]) -> Any:
        labels = self._dataset.labels  # read on first use, which warming up is for
        return list(positions), self._dataset.streams(positions), labels[list(positions)]

    def decode(self, given: Any) -> Rows:
        positions, streams, labels = given
        return list(zip(self._dataset.decode_streams(streams, positions), labels, strict=True))


class _Coefficients:
    """Streams whose coefficients are read, or images that a codec transforms."""

    def __init__(self, dataset: CoefficientDataset) -> None:
        self._dataset = dataset
        self.second = COEFFICIENTS if dataset.reads_streams else None
        self.note = "" if dataset.reads_streams else "images are transformed as they are read: all is the stage read"

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, positions: Sequence[int]) -> Any:
        if not self._dataset.reads_streams:
            return self._dataset.__getitems__(positions)
        return list(positions), self._dataset.streams(positions)

    def decode(self, given: Any) -> Rows:
        return given if isinstance(given, list) else self._dataset.decode_streams(given[1], given[0])


class _Files:
    """Files of images, as torchvision's folders list them: their bytes are read, then Pillow decodes them."""

    second = DECODE
    note = ""

    def __init__(self, dataset: Any) -> None:
        self._samples, self._transform = dataset.samples, dataset.transform
        self._target = dataset.target_transform

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, positions: Sequence[int]) -> Any:
        return [(position, Path(self._samples[position][0]).read_bytes()) for position in positions]

    def decode(self, given: Any) -> Rows:
        return [self._decode_one(position, content) for position, content in given]

    def _decode_one(self, position: int, content: bytes) -> tuple[Any, Any]:
        with Image.open(io.BytesIO(content)) as image:
            found: Any = image.convert("RGB")
        label = self._samples[position][1]
        label = label if self._target is None else self._target(label)
        found = found if self._transform is None else self._transform(found)
        return (found if isinstance(found, Tensor) else as_tensor(found, position)), label


class _Examples:
    """Examples of any other data set: what it does to give them cannot be told apart."""

    def __init__(self, data: LabeledData) -> None:
        self._source, self._tensors = data.source, data.tensors
        self.second: str | None = None
        self.note = ""
        if not self._tensors:
            first = self.read([0])[1][0][0]
            self.second = None if isinstance(first, Tensor) else DECODE
            whole = "decodes" if self.second is None else "opens"
            self.note = f"{type(data.source).__name__} reads and {whole} in one step: it is the stage read"

    def __len__(self) -> int:
        return len(self._tensors[0]) if self._tensors else len(self._source)

    def read(self, positions: Sequence[int]) -> Any:
        if self._tensors:
            inputs, labels = (tensor[list(positions)] for tensor in self._tensors)
            return list(positions), list(zip(inputs, labels, strict=True))
        together: Callable[[Sequence[int]], Any] | None = getattr(self._source, "__getitems__", None)
        rows = together(list(positions)) if together else [self._source[position] for position in positions]
        return list(positions), list(rows)

    def decode(self, given: Any) -> Rows:
        positions, rows = given
        if isinstance(rows[0][0], Tensor):
            return list(rows)
        return [(as_tensor(row[0], position), row[1]) for row, position in zip(rows, positions, strict=True)]


def as_source(owner: str, data: Any) -> Source:
    """Return data in stages; raises InvalidArgumentError for what has no (input, label) examples by number."""
    if isinstance(data, StreamDataset):
        return _Streams(data)
    if isinstance(data, CoefficientDataset):
        return _Coefficients(data)
    if _is_folder(data):
        return _Files(data)
    found = LabeledData(data)
    if found.collates_itself or (found.tensors is None and not hasattr(data, "__getitem__")):
        rule = "a DataLoader hides its stages: give the data set that it reads, and batch_size and workers beside it"
        reject(owner, "data", type(data).__name__, rule)
    if not found.labeled:
        reject(owner, "data", type(data).__name__, "its examples must be (input, label) pairs")
    return _Examples(found)


def _is_folder(data: Any) -> bool:
    from torchvision.datasets import DatasetFolder
    from torchvision.datasets.folder import default_loader

    if not isinstance(data, DatasetFolder) or data.loader is not default_loader:
        return False
    # a class that gives other examples than its files hold is asked for them
    return type(data).__getitem__ is DatasetFolder.__getitem__ and not hasattr(data, "__getitems__")
