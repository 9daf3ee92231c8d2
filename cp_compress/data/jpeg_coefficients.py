"""The coefficients of JPEG images as tensors: what an encoder stores, and what a decoder makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cp_compress.data.jpeg_tables import quantization_tables
from cp_compress.data.jpeg_transform import (
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

FACTORS = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}
"""By how much chroma has fewer rows and columns."""


@dataclass(frozen=True, eq=False)
class JpegCoefficients:
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
            blocks = (values * steps.to(values.device)).unflatten(-1, (8, 8))
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
    size = (pixels.shape[2], pixels.shape[3])
    if pixels.shape[1] == 1:
        planes, steps = [pixels[:, 0].to(torch.int32)], [luma_steps]
        factors = [(1, 1)]
    else:
        planes, steps = to_ycc(pixels), [luma_steps, chroma_steps, chroma_steps]
        factors = [(1, 1), FACTORS[subsampling], FACTORS[subsampling]]
    components = tuple(
        quantize(forward_dct(to_blocks(downsample(plane, by))), table).flatten(-2)
        for plane, by, table in zip(planes, factors, steps, strict=True)
    )
    return JpegCoefficients(components, tuple(steps), size, subsampling)
