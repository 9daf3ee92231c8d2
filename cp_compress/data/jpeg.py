"""JPEG, by Pillow: grey and RGB images, one file an example."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cp_compress.base.arguments import check_choice, check_integer, reject
from cp_compress.base.errors import CorruptStreamError
from cp_compress.data.codecs import StreamCodec, check_batch, check_values, open_streams
from cp_compress.data.container import Kind, Sealed, seal

_KIND = Kind(1, "JPEG")  # a JPEG file brings its own tables: any setting decodes it
_SUBSAMPLINGS = ("4:2:0", "4:2:2", "4:4:4")
_MODES = {1: "L", 3: "RGB"}
_LARGEST_SIDE = 65_500  # libjpeg's own limit
_LARGEST_IMAGE = 2**26  # pixels; not far above, Pillow takes an image for a decompression bomb


@dataclass(frozen=True)
class JPEG(StreamCodec):
    """Baseline JPEG at a quality in 1..100, with chroma subsampling "4:2:0", "4:2:2" or "4:4:4" for RGB.

    Batches are images (n, channels, height, width) with 1 or 3 channels: uint8, or floating point in [0, 1], which
    is rounded to 8 bits. Decoding gives the dtype that was encoded.

    >>> JPEG(90).roundtrip(torch.full((2, 3, 16, 16), 0.5)).shape
    torch.Size([2, 3, 16, 16])
    """

    quality: int
    subsampling: str = "4:2:0"

    expression_name: ClassVar[str] = "jpeg"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        rule = "quality must be a whole number in 1..100"
        quality = check_integer("JPEG", "quality", self.quality, rule, at_least=1, at_most=100)
        object.__setattr__(self, "quality", quality)
        check_choice("JPEG", "subsampling", self.subsampling, _SUBSAMPLINGS)

    @property
    def lossless(self) -> bool:
        """JPEG rounds: never."""
        return False

    def encode(self, batch: Tensor) -> list[bytes]:
        """Return one stream an image; raises InvalidArgumentError for what is no batch of images in [0, 1]."""
        values = check_batch("JPEG", batch)
        _check_shape(values)
        pixels = values
        if values.dtype != torch.uint8:
            check_values("JPEG", values, (0.0, 1.0), "give pixels before normalisation, and normalise inside the model")
            pixels = (values.double() * 255).round().to(torch.uint8)
        shape = tuple(values.shape[1:])
        rows = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        return [seal(_KIND, shape, values.dtype, self._encode_one(row)) for row in rows]

    def _encode_one(self, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=self.quality, subsampling=self.subsampling)
        return file.getvalue()

    def decode(self, streams: Sequence[bytes]) -> Tensor:
        """Return images (n, channels, height, width), in [0, 1] unless uint8 was encoded.

        Raises CorruptStreamError, naming the example, for damaged streams and streams of different shapes.
        """
        opened = open_streams(streams, _KIND)
        pixels = torch.from_numpy(np.stack([_decode_one(sealed, index) for index, sealed in enumerate(opened)]))
        batch = pixels.permute(0, 3, 1, 2).contiguous()
        dtype = opened[0].dtype
        return batch if dtype == torch.uint8 else (batch.to(torch.promote_types(dtype, torch.float32)) / 255).to(dtype)


def _check_shape(values: Tensor) -> None:
    if values.ndim != 4 or values.shape[1] not in _MODES:
        reject("JPEG", "batch", tuple(values.shape), "must be images (n, channels, height, width), 1 or 3 channels")
    height, width = values.shape[2:]
    if max(height, width) > _LARGEST_SIDE or height * width > _LARGEST_IMAGE:
        rule = f"a side may have {_LARGEST_SIDE} pixels, an image {_LARGEST_IMAGE}"
        reject("JPEG", "batch", tuple(values.shape), rule)


def _decode_one(sealed: Sealed, index: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    if len(sealed.shape) != 3 or sealed.shape[0] not in _MODES:
        raise CorruptStreamError(f"example #{index}: shape {sealed.shape} is not that of an image", index)
    channels, height, width = sealed.shape
    if height * width > _LARGEST_IMAGE:
        raise CorruptStreamError(f"example #{index}: an image of {height}×{width} is larger than any encoded", index)
    try:
        with Image.open(io.BytesIO(sealed.payload), formats=("JPEG",)) as image:
            found = (image.mode, image.size)
            if found == (_MODES[channels], (width, height)):  # only then are its pixels decoded
                return np.asarray(image).reshape(height, width, channels)
    except Exception as error:  # Pillow's decoders raise many types for damaged files
        raise CorruptStreamError(f"example #{index}: the JPEG file is damaged: {error}", index) from error
    raise CorruptStreamError(f"example #{index}: the JPEG file holds {found}, its envelope says {sealed.shape}", index)
