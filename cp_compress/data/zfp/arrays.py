"""Which arrays zfp stores for an example: all of it, luma and chroma, or one for each channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.data.zfp.color import double, halve, to_rgb, to_ycbcr
from cp_compress.data.zfp.planes import Setting
from cp_compress.data.zfp.settings import HALVED


@dataclass(frozen=True)
class ArrayPlan:
    """One array of an example: its `channels`, its shape as a part of the example and to zfp, and zfp's setting."""

    channels: slice
    outer: tuple[int, ...]
    inner: tuple[int, ...]
    setting: Setting

    @property
    def planes(self) -> tuple[int, tuple[int, ...]]:
        """How many arrays of which shape blocks belong to: channels below one another are apart at whole blocks."""
        squeezed = squeeze_shape(self.outer)
        if len(self.inner) < len(squeezed) and squeezed[-2] % 4 == 0:
            return math.prod(squeezed[:-2]), squeezed[-2:]
        return 1, self.inner


@dataclass(frozen=True)
class Arrangement:
    """The arrays of the examples of a codec, by its `layout`, `color` and `chroma`, and one setting or several."""

    layout: str
    color: str
    chroma: str
    settings: tuple[Setting, ...]

    def plan(self, shape: tuple[int, ...]) -> list[ArrayPlan]:
        """Return the arrays of examples of a shape; raises InvalidArgumentError where it has not the channels."""
        if self.color == "ycbcr" and (len(shape) != 3 or shape[0] != 3):
            reject("ZFP", "batch", shape, "color='ycbcr' takes RGB images (n, 3, height, width)")
        if len(self.settings) == 1 and not HALVED[self.chroma]:
            return [self._array(slice(None), shape, self.settings[0])]
        settings = self.settings
        if self.color == "ycbcr" and len(settings) < 3:
            groups = [slice(0, 1), slice(1, 3)]
            settings = (settings[0], settings[-1])
        else:
            groups = [slice(index, index + 1) for index in range(len(settings))]
            if len(shape) < 2 or shape[0] != len(settings):
                rule = f"{len(settings)} tolerances, one per channel, need a batch (n, {len(settings)}, ...)"
                reject("ZFP", "batch", shape, rule)
        return [
            self._array(group, self._part_shape(group, shape), setting)
            for group, setting in zip(groups, settings, strict=True)
        ]

    def _part_shape(self, group: slice, shape: tuple[int, ...]) -> tuple[int, ...]:
        part = [group.stop - group.start, *shape[1:]]
        if group.start > 0:
            for axis in HALVED[self.chroma]:
                part[axis] = -(-part[axis] // 2)
        return tuple(part)

    def _array(self, channels: slice, outer: tuple[int, ...], setting: Setting) -> ArrayPlan:
        inner = squeeze_shape(outer)
        if self.layout == "2d" and len(inner) > 2:
            inner = (math.prod(inner[:-1]), inner[-1])
        return ArrayPlan(channels, outer, inner, setting)

    def split(self, values: Tensor, plans: Sequence[ArrayPlan]) -> list[Tensor]:
        """Return the arrays (n, *inner), contiguous, of examples (n, *shape) of floating-point values."""
        channels = to_ycbcr(values) if self.color == "ycbcr" else values
        arrays = []
        for plan in plans:
            part = channels if len(plans) == 1 else channels[:, plan.channels]
            if plan.channels.start:
                part = halve(part, HALVED[self.chroma])
            arrays.append(part.reshape(len(values), *plan.inner).contiguous())
        return arrays

    def join(self, arrays: Sequence[Tensor], plans: Sequence[ArrayPlan], shape: tuple[int, ...]) -> Tensor:
        """Return examples (n, *shape) from their arrays (n, *inner)."""
        parts = []
        for array, plan in zip(arrays, plans, strict=True):
            part = array.reshape(len(array), *plan.outer)
            parts.append(double(part, HALVED[self.chroma], shape) if plan.channels.start else part)
        values = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return to_rgb(values) if self.color == "ycbcr" else values.reshape(len(values), *shape)


def squeeze_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without its dimensions of size 1, which zfp would fill up to 4."""
    return tuple(extent for extent in shape if extent > 1) or (1,)
