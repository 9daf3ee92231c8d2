"""The coefficients of JPEG images as tensors: what an encoder stores, and what a decoder makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cp_compress.base.batching import BatchSize
from cp_compress.base.showing.brief import Brief
from cp_compress.data.compiled.compiler import find_compiled, in_threads
from cp_compress.data.jpeg.entropy import Component, read_scans, read_tables
from cp_compress.data.jpeg.settings import FACTORS
from cp_compress.data.jpeg.tables import quantization_tables
from cp_compress.data.jpeg.transform import (
    downsample,
    forward_dct,
    from_blocks,
    inverse_dct,
    quantize,
    to_blocks,
    to_rgb,
    to_ycc,
    upsample,
)

"""By how much chroma has fewer rows and columns."""
# values of one part: on a CPU its temporaries stay in the cache, on a GPU they fill it without filling the memory
_PART = {"cpu": 2**16, "other": 2**25}
# values, which machine code takes a tenth of a millisecond for
_WORTH_A_THREAD = 2**15


@dataclass(frozen=True, eq=False, repr=False)
class JpegCoefficients(Brief):
    """The quantised coefficients of images (n, channels, height, width).

    `components` are those of luma and, for RGB, of Cb and Cr, each (n, rows, columns, 64) of blocks, int32, a block's
    frequencies in C order (the mean at 0); chroma has fewer blocks where it is subsampled. `steps` (64,) of each
    component are what its coefficients are multiples of. `size` is (height, width), `subsampling` a key of `FACTORS`.
    """

    components: tuple[Tensor, ...]
    steps: tuple[Tensor, ...]
    size: tuple[int, int]
    subsampling: str

    def scaled(self) -> tuple[Tensor, ...]:
        """Return the components in the units of an orthonormal DCT of samples in 0…255, float32: value · step."""
        pairs = zip(self.components, self.steps, strict=True)
        return tuple((values * steps.to(values.device)).to(torch.float32) for values, steps in pairs)

    def invert(self) -> Tensor:
        """Return the images (n, channels, height, width), uint8, that libjpeg decodes."""
        planes = []
        for values, steps in zip(self.components, self.steps, strict=True):
            blocks = (values * steps.to(values.device)).reshape(*values.shape[:-1], 8, 8)
            planes.append(from_blocks(inverse_dct(blocks)))
        if len(planes) == 1:
            height, width = self.size
            return planes[0][:, :height, :width].unsqueeze(1).to(torch.uint8)
        factors = FACTORS[self.subsampling]
        inner = tuple(-(-extent // factor) for extent, factor in zip(self.size, factors, strict=True))
        chroma = [upsample(plane[:, : inner[0], : inner[1]], factors, self.size) for plane in planes[1:]]
        return to_rgb(planes[0][:, : self.size[0], : self.size[1]], *chroma)


def analyse(pixels: Tensor, quality: int, subsampling: str) -> JpegCoefficients:
    """Return the coefficients of images (n, 1 or 3, height, width), uint8, as libjpeg quantises them."""
    luma_steps, chroma_steps = quantization_tables(quality)
    steps = (luma_steps,) if pixels.shape[1] == 1 else (luma_steps, chroma_steps, chroma_steps)
    factors = ((1, 1),) if pixels.shape[1] == 1 else ((1, 1), FACTORS[subsampling], FACTORS[subsampling])
    found: list[list[Tensor]] = []

    def work(part: slice) -> None:
        images = pixels[part]
        planes = [images[:, 0].to(torch.int32)] if len(steps) == 1 else to_ycc(images)
        found.append(
            [
                quantize(forward_dct(to_blocks(downsample(plane, by))), table).flatten(-2)
                for plane, by, table in zip(planes, factors, steps, strict=True)
            ]
        )

    _in_parts(pixels, work)
    components = tuple(torch.cat(parts) for parts in zip(*found, strict=True))
    return JpegCoefficients(components, steps, (pixels.shape[2], pixels.shape[3]), subsampling)


def requantise(pixels: Tensor, quality: int, subsampling: str) -> Tensor:
    """Return images (n, 1 or 3, height, width), uint8, as libjpeg decodes them after it has encoded them."""
    compiled = find_compiled("jpeg_pixels") if pixels.device.type == "cpu" else None
    if compiled is None:
        return requantise_stepwise(pixels, quality, subsampling)
    found = torch.empty_like(pixels, memory_format=torch.contiguous_format)
    source, target = pixels.contiguous().reshape(-1).numpy(), found.reshape(-1).numpy()
    steps = torch.stack(quantization_tables(quality)).numpy()
    sizes, factors = tuple(map(np.uint64, pixels.shape[1:])), tuple(map(np.uint64, FACTORS[subsampling]))

    def work(first: int, stop: int) -> None:
        scratch = compiled.make_scratch(steps, sizes, factors)
        compiled.requantise(source, target, sizes, factors, scratch, first, stop)

    in_threads(work, len(pixels), _WORTH_A_THREAD // pixels[0].numel())
    return found


def requantise_stepwise(pixels: Tensor, quality: int, subsampling: str) -> Tensor:
    """Return what `requantise` does, by tensor operations on any device."""
    found = torch.empty_like(pixels, memory_format=torch.contiguous_format)

    def work(part: slice) -> None:
        found[part] = analyse(pixels[part], quality, subsampling).invert()

    _in_parts(pixels, work)
    return found


def _in_parts(pixels: Tensor, work: Callable[[slice], None]) -> None:
    values = _PART["cpu" if pixels.device.type == "cpu" else "other"]
    BatchSize(max(1, values // pixels[0].numel())).run(len(pixels), work)


def read_image_scans(
    scans: Sequence[memoryview], head: bytes, quality: int, subsampling: str, channels: int, size: tuple[int, int]
) -> JpegCoefficients:
    """Return the coefficients in coded images, whose files would begin with `head`.

    Raises CorruptStreamError, naming the image, for bits that are no such image.
    """
    luma_steps, chroma_steps = quantization_tables(quality)
    factors = FACTORS[subsampling] if channels == 3 else (1, 1)
    luma = Component(*factors, *(-(-extent // 8) for extent in size))
    components, steps = [luma], [luma_steps]
    if channels == 3:
        inner = (-(-extent // factor) for extent, factor in zip(size, factors, strict=True))
        chroma = Component(1, 1, *(-(-extent // 8) for extent in inner))
        components, steps = [luma, chroma, chroma], [luma_steps, chroma_steps, chroma_steps]
    found = read_scans(scans, read_tables(head), components)
    return JpegCoefficients(tuple(found), tuple(steps), size, subsampling)
