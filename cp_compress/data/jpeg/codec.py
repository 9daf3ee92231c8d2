"""JPEG, by Pillow: grey and RGB images, one file an example."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.error_reasons import reason_of
from cp_compress.base.errors import CompressionError, CorruptStreamError
from cp_compress.data.codec import StreamCodec, check_batch, check_values, open_streams
from cp_compress.data.container import Kind, Sealed, seal, starts_as
from cp_compress.data.jpeg.coefficients import JpegCoefficients, analyse, read_image_scans, requantise
from cp_compress.data.jpeg.files import cut_scan, file_head, holds_marker, join_scan
from cp_compress.data.jpeg.settings import JPEGSettings
from cp_compress.data.straight_through import straight_through

_FILE = Kind(1, "JPEG")  # a JPEG file brings its own tables: any setting decodes it
_MODES = {1: "L", 3: "RGB"}
_LARGEST_SIDE = 65_500  # libjpeg's own limit
_LARGEST_IMAGE = 2**26  # pixels; not far above, Pillow takes an image for a decompression bomb


@explains_keywords
@dataclass(frozen=True, repr=False)
class JPEG(StreamCodec, JPEGSettings):
    """Baseline JPEG at a quality in 1..100, with chroma subsampling "4:2:0", "4:2:2" or "4:4:4" for RGB.

    Batches are images (n, channels, height, width) with 1 or 3 channels: uint8, or floating point in [0, 1], which is
    rounded to 8 bits. Decoding returns the dtype that was encoded.

    With `tables="shared"` a stream holds only the coded image. The tables and headers of the JPEG file, more than 600
    bytes that are the same for every image, follow from the codec; such streams are decoded only by a codec of the same
    quality and subsampling. "inline" stores whole files. Both decode to the same pixels.

    >>> JPEG(90).roundtrip(torch.full((2, 3, 16, 16), 0.5)).shape
    torch.Size([2, 3, 16, 16])
    """

    @property
    def lossless(self) -> bool:
        """Always False: JPEG rounds."""
        return False

    def encode(self, batch: Tensor) -> list[bytes]:
        """Return one stream per image; raises InvalidArgumentError unless the batch holds images in [0, 1]."""
        values = check_batch("JPEG", batch)
        shape = tuple(values.shape[1:])
        rows = _as_pixels(values).permute(0, 2, 3, 1).contiguous().numpy()
        if self.tables == "inline":
            return [seal(_FILE, shape, values.dtype, self._encode_one(row)) for row in rows]
        head = self._head(shape)
        scans = (cut_scan(self._encode_one(row), head) for row in rows)
        return [seal(self._kind(), shape, values.dtype, scan) for scan in scans]

    def _encode_one(self, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=self.quality, subsampling=self.subsampling)
        return file.getvalue()

    def decode(self, streams: Sequence[bytes]) -> Tensor:
        """Return images (n, channels, height, width), in [0, 1] unless uint8 was encoded.

        Raises CorruptStreamError, naming the example, for damaged streams and streams of different shapes.
        """
        opened, files = self._open_files(streams)
        decoded = [_decode_one(file, opened[0].shape, index) for index, file in enumerate(files)]
        batch = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous()
        return _as_dtype(batch, opened[0].dtype)

    def decode_on(self, device: torch.device | str, streams: Sequence[bytes]) -> Tensor:
        """Return images as `decode` does, on a device; on a GPU nvJPEG decodes the whole batch there.

        nvJPEG may round and interpolate subsampled chroma differently from libjpeg, so its pixels can differ from those
        of `decode`. Those of `coefficients_of_streams(streams)`, inverted by integer arithmetic, do not. Raises the
        errors of `decode`, and CompressionError if torchvision was built without nvJPEG.
        """
        target = torch.device(device)
        if target.type != "cuda":
            return self.decode(streams).to(target)
        from torchvision.io import ImageReadMode, decode_jpeg

        opened, files = self._open_files(streams)
        channels, height, width = opened[0].shape
        mode = ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB
        sources = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
        try:
            batch = torch.stack(decode_jpeg(sources, mode=mode, device=target))
        except RuntimeError as error:
            raise CompressionError(f"JPEG: the images cannot be decoded on {target}: {error}") from error
        if batch.shape[1:] != (channels, height, width):
            raise CorruptStreamError(f"the JPEG files hold {tuple(batch.shape[1:])}, not {opened[0].shape}")
        return _as_dtype(batch, opened[0].dtype)

    def coefficients(self, batch: Tensor) -> JpegCoefficients:
        """Return the quantised coefficients of images, on their device, bit for bit those in the streams.

        They are computed by tensor arithmetic, without coding. Raises InvalidArgumentError as `encode` does.
        """
        _check_first(batch)
        return analyse(_as_pixels(batch.detach()), self.quality, self.subsampling)

    def coefficients_of_streams(self, streams: Sequence[bytes]) -> JpegCoefficients:
        """Return the quantised coefficients that streams of this codec hold, on the CPU; no pixels are decoded.

        Raises CorruptStreamError, naming the example, for damaged streams, streams of different shapes and, with
        `tables="inline"`, files of other tables.
        """
        kind = self._stored_as(streams)
        opened = open_streams(streams, kind)
        for index, sealed in enumerate(opened):
            _check_sealed(sealed, index)
        channels, height, width = opened[0].shape
        head = self._head(opened[0].shape)
        scans = [sealed.payload for sealed in opened]
        if kind == _FILE:
            scans = [_scan_of(sealed.payload, head, index) for index, sealed in enumerate(opened)]
        for index, scan in enumerate(scans):
            _check_scan(scan, index)
        return read_image_scans(scans, head, self.quality, self.subsampling, channels, (height, width))

    def requantise(self, batch: Tensor) -> Tensor:
        """Return what `roundtrip` returns, bit for bit, by tensor arithmetic on the device of the batch.

        If the batch is floating point, gradients pass through unchanged (straight-through estimator). Raises
        InvalidArgumentError as `encode` does.
        """
        _check_first(batch)
        found = _as_dtype(requantise(_as_pixels(batch.detach()), self.quality, self.subsampling), batch.dtype)
        return straight_through(batch, found)

    def _open_files(self, streams: Sequence[bytes]) -> tuple[list[Sealed], list[memoryview]]:
        """Return opened envelopes, and a JPEG file for each; raises CorruptStreamError."""
        kind = self._stored_as(streams)
        opened = open_streams(streams, kind)
        for index, sealed in enumerate(opened):
            _check_sealed(sealed, index)
        if kind == _FILE:
            return opened, [sealed.payload for sealed in opened]
        for index, sealed in enumerate(opened):
            _check_scan(sealed.payload, index)
        head = self._head(opened[0].shape)
        return opened, [memoryview(join_scan(head, sealed.payload)) for sealed in opened]

    def _kind(self) -> Kind:
        return Kind(3, "JPEG", f"quality={self.quality}, subsampling={self.subsampling!r}".encode())

    def _stored_as(self, streams: Sequence[bytes]) -> Kind:
        """Return how streams were stored: whole files are read whatever this codec writes."""
        first = streams[0] if isinstance(streams, Sequence) and len(streams) else b""
        whole = isinstance(first, (bytes, bytearray, memoryview)) and starts_as(first, _FILE)
        return _FILE if whole else self._kind()

    def _head(self, shape: tuple[int, ...]) -> bytes:
        """Return all that stands before the coded image in a file of this codec."""
        return file_head(self.quality, self.subsampling, *shape)


def _check_first(batch: Tensor) -> None:
    """Reject what is no batch, without moving more than one image to the CPU."""
    check_batch("JPEG", batch if not isinstance(batch, Tensor) or not batch.ndim else batch[:1])


def _check_shape(values: Tensor) -> None:
    if values.ndim != 4 or values.shape[1] not in _MODES:
        reject("JPEG", "batch", tuple(values.shape), "must be images (n, channels, height, width), 1 or 3 channels")
    height, width = values.shape[2:]
    if max(height, width) > _LARGEST_SIDE or height * width > _LARGEST_IMAGE:
        rule = f"a side may have at most {_LARGEST_SIDE} pixels, an image at most {_LARGEST_IMAGE}"
        reject("JPEG", "batch", tuple(values.shape), rule)


def _as_pixels(values: Tensor) -> Tensor:
    """Return images as uint8; raises InvalidArgumentError for what is no batch of images in [0, 1]."""
    _check_shape(values)
    if values.dtype == torch.uint8:
        return values
    check_values("JPEG", values, (0.0, 1.0), "give pixels before normalisation, and normalise inside the model")
    return (values.double() * 255).round().to(torch.uint8)


def _as_dtype(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.uint8:
        return pixels
    return (pixels.to(torch.promote_types(dtype, torch.float32)) / 255).to(dtype)


def _scan_of(file: memoryview, head: bytes, index: int) -> memoryview:
    try:
        return memoryview(cut_scan(bytes(file), head))
    except CompressionError as error:
        rule = "the tables of the JPEG file differ from those of this codec"
        raise CorruptStreamError(f"example #{index}: {rule}", index) from error


def _check_scan(scan: memoryview, index: int) -> None:
    if holds_marker(scan):
        raise CorruptStreamError(f"example #{index}: the coded JPEG image is damaged: it contains markers", index)


def _check_sealed(sealed: Sealed, index: int) -> None:
    if len(sealed.shape) != 3 or sealed.shape[0] not in _MODES:
        raise CorruptStreamError(f"example #{index}: shape {sealed.shape} is not that of an image", index)
    _, height, width = sealed.shape
    if max(height, width) > _LARGEST_SIDE or height * width > _LARGEST_IMAGE:
        raise CorruptStreamError(
            f"example #{index}: an image of {height}×{width} is larger than this codec encodes", index
        )


def _decode_one(
    file: memoryview, shape: tuple[int, ...], index: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(file), formats=("JPEG",)) as image:
            found = (image.mode, image.size)
            if found == (_MODES[channels], (width, height)):  # only then are its pixels decoded
                return np.asarray(image).reshape(height, width, channels)
    except Exception as error:  # Pillow's decoders raise many types for damaged files
        raise CorruptStreamError(f"example #{index}: the JPEG file is damaged: {reason_of(error)}", index) from error
    raise CorruptStreamError(f"example #{index}: the JPEG file has shape {found}, its envelope states {shape}", index)
