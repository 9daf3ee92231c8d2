"""Labelled data whose inputs are the coefficients of a codec instead of pixels, for networks trained on them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from cp_compress.base.arguments import check_choice, check_integer, explains_keywords, reject
from cp_compress.base.errors import ObservationError
from cp_compress.data.codec import Codec, as_codec
from cp_compress.data.coefficients.maps import ARRANGEMENTS, maps_of_images, maps_of_streams
from cp_compress.data.images import read_examples, read_runs
from cp_compress.data.stream_dataset import check_task, read_streams
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.wrapping import said_by

_OWNER = "CoefficientDataset"


@explains_keywords
class CoefficientDataset(Dataset[tuple[Tensor, Tensor]]):
    """A map-style data set of (coefficients, label), for networks that read coefficients instead of decoded images.

    The coefficients are those that a decoder reads, float32, in the units of the data. `labels` are (n,), int64;
    `classes` is that of `dataset` where it has one.

    Streams are read block by block: one stored RGB image of 256×256 takes about 10 s from ZFP, unless at a fixed rate,
    and 2 s from JPEG on one thread; many images in one batch take hardly longer. Read such images once, in large
    batches, and keep the coefficients. Reading raises CorruptStreamError for a damaged stream, with its position in the
    data set and, for a store, its file.

    Args:
        dataset: A data set that is stored compressed, such as a `CompressedDataset` or a `StoredDataset`, whose streams
            are read; or any labelled images, (channels, height, width) or PIL images, which `codec` transforms when
            they are read. Stored data must have no `transform`, because a transform takes decoded examples.
        codec: The codec for images; None for stored data, which has its own.
        precision: The number of bit planes of ZFP coefficients to keep, 1…32, or None for all. Data that was stored
            once can be read at any lower precision, with the same result as if it had been stored at that precision.
        arrangement: "channels" gives each frequency a channel of its own, at the resolution of the blocks: with ZFP in
            layout "2d" an image (3, 32, 32) becomes (48, 8, 8), in layout "3d" (64, 8, 8). "image" leaves each
            coefficient at its place within its block, in the shape of the image, for networks whose architecture must
            not change; it needs ZFP's layout "2d", or JPEG at 4:4:4 or grey.

    Raises:
        InvalidArgumentError: If the data, the codec or the precision has no such coefficients.

    >>> from cp_compress.data import ZFP
    >>> images = torch.rand(4, 3, 32, 32), torch.arange(4)
    >>> CoefficientDataset(images, ZFP(precision=10, layout="2d"), precision=6)[0][0].shape
    torch.Size([48, 8, 8])
    """

    def __init__(
        self,
        dataset: Any,
        codec: Codec | str | None = None,
        *,
        precision: int | None = None,
        arrangement: str = "channels",
    ) -> None:
        codec = None if codec is None else as_codec(_OWNER, codec)
        check_choice(_OWNER, "arrangement", arrangement, ARRANGEMENTS)
        stored: Codec | None = getattr(dataset, "codec", None)
        chosen = codec or stored
        if chosen is None or (stored is not None and codec is not None):
            rule = "give a codec for images, and none for a data set that is stored compressed"
            reject(_OWNER, "codec", codec, rule)
        if stored is not None and getattr(dataset, "transform", None) is not None:
            rule = "its `transform` takes decoded examples; open it without, and normalise inside the network"
            reject(_OWNER, "dataset", type(dataset).__name__, rule)
        if precision is not None:
            rule = "precision must be a whole number of bit planes in 1..32, or None"
            precision = check_integer(_OWNER, "precision", precision, rule, at_least=1, at_most=32)
        self.codec: Codec = chosen
        self.precision, self.arrangement = precision, arrangement
        self._stored = None if stored is None else dataset
        self._images = LabeledData(dataset) if stored is None else None
        if self._images is not None:
            check_task(_OWNER, self._images)
        planes = getattr(chosen, "precision", None)
        if precision is not None and planes is not None and precision > planes:
            reject(_OWNER, "precision", precision, f"{chosen} stores {planes} bit planes; ask for no more")
        self.labels: Tensor = _labels(dataset) if self._images is None else _read_labels(self._images)
        classes = said_by(dataset, "classes")
        if classes is not None:
            self.classes = classes
        self[0]  # says at once what cannot be read

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Return the examples at `indices`, read together; a `DataLoader` calls this for a batch."""
        positions = [self._position(index) for index in indices]
        if not positions:
            return []
        if self._stored is not None:
            return self.decode_streams(self.streams(positions), positions)
        assert self._images is not None
        runs = [inputs for inputs, _ in read_examples(self._images, positions)]
        found = [row for run in runs for row in maps_of_images(self.codec, run, self.precision, self.arrangement)]
        return list(zip(found, self.labels[positions], strict=True))

    @property
    def reads_streams(self) -> bool:
        """Whether the coefficients are read from streams, and not computed from images."""
        return self._stored is not None

    def streams(self, indices: Sequence[int]) -> list[bytes]:
        """Return the streams of stored examples, in the order of their indices."""
        if self._stored is None:
            reject(_OWNER, "dataset", "images", "only data that is stored compressed has streams")
        return [self._stored.stream(self._position(index)) for index in indices]

    def decode_streams(self, streams: Sequence[bytes], positions: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Return (coefficients, label) of streams; `positions` are the numbers of the examples."""
        where = getattr(self._stored, "where", lambda position: "")
        found = read_streams(streams, positions, self._of_streams, where)
        return list(zip(found, self.labels[list(positions)], strict=True))

    def remake(self, inputs: Tensor) -> Tensor:
        """Return the coefficients of images (n, ...), made as those of the data set were."""
        return maps_of_images(self.codec, inputs, self.precision, self.arrangement)

    def _of_streams(self, streams: list[bytes]) -> Tensor:
        return maps_of_streams(self.codec, streams, self.precision, self.arrangement)

    def _position(self, index: int) -> int:
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"example {position} of a data set of {len(self)}")
        return position % len(self)


@explains_keywords
class ChannelNorm(nn.Module):
    """Shift and scale each channel (n, channels, …) by fixed numbers: the first layer of a network on coefficients.

    Frequencies differ by orders of magnitude: without this layer the lowest frequency dominates. `of` computes the
    numbers from training data.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        for argument, numbers in (("mean", mean), ("scale", scale)):
            if not isinstance(numbers, Tensor) or numbers.ndim != 1 or numbers.shape != getattr(mean, "shape", None):
                found = tuple(numbers.shape) if isinstance(numbers, Tensor) else numbers
                reject("ChannelNorm", argument, found, "must be a tensor (channels,), one number for each channel")
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", scale.float())

    @classmethod
    def of(cls, dataset: Any, *, batch_size: int = 256) -> ChannelNorm:
        """Return the layer that gives each channel of the data mean 0 and standard deviation 1.

        A constant channel is shifted to 0 and not scaled. Raises ObservationError for data that has no channels or
        holds NaN or Inf.
        """
        data = dataset if isinstance(dataset, LabeledData) else LabeledData(dataset)
        size = check_integer("ChannelNorm", "batch_size", batch_size, "must be 1 or more", at_least=1)
        count, mean, squares = 0, torch.zeros(0), torch.zeros(0)
        for inputs, _ in data.batches(size):
            if inputs.ndim < 2:
                rule = "examples must be (channels, ...)"
                raise ObservationError(f"ChannelNorm.of: the inputs have shape {tuple(inputs.shape)}; {rule}")
            if not bool(inputs.isfinite().all()):
                raise ObservationError("ChannelNorm.of: the data holds NaN or Inf; every value must be finite")
            values = inputs.double().transpose(0, 1).flatten(1)
            here, own = values.shape[1], values.mean(1)
            spread = (values - own.unsqueeze(1)).square().sum(1)
            if count == 0:
                mean, squares = own, spread
            else:  # joined by the distance of the means, since a difference of large squares would be lost in rounding
                apart = own - mean
                squares = squares + spread + apart.square() * (count * here / (count + here))
                mean = mean + apart * (here / (count + here))
            count += here
        deviation = (squares / count).sqrt()
        # what is left of a constant is the rounding of its mean
        constant = deviation <= 1e-12 * mean.abs()
        return cls(mean, torch.where(constant, 1.0, deviation.masked_fill(constant, 1.0)).reciprocal())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return inputs (n, channels, …), shifted and scaled."""
        shape = (-1, *([1] * (inputs.ndim - 2)))
        return (inputs - self.mean.reshape(shape)) * self.scale.reshape(shape)


def _labels(dataset: Any) -> Tensor:
    labels = getattr(dataset, "labels", None)
    if not isinstance(labels, Tensor) or not callable(getattr(dataset, "stream", None)):
        reject(_OWNER, "dataset", type(dataset).__name__, "a stored data set must have `labels` and `stream(index)`")
    return labels


def _read_labels(images: LabeledData) -> Tensor:
    known = images.known_labels()
    if known is not None:
        return known
    return torch.cat([labels for _, labels in read_runs(images, 0, len(images), 256)])
