"""Coefficients of images as maps for convolutional networks: a channel for each frequency, or each in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.data.codec import Codec
from cp_compress.data.container import stated_shape
from cp_compress.data.jpeg.coefficients import JpegCoefficients
from cp_compress.data.jpeg.transform import from_blocks
from cp_compress.data.per_example import PerExample
from cp_compress.data.zfp.coefficients import BlockCoefficients
from cp_compress.data.zfp.order import natural_order
from cp_compress.data.zfp.transform import from_blocks as from_small_blocks

ARRANGEMENTS = ("channels", "image")
_OWNER = "CoefficientDataset"


def maps_of_images(codec: Codec, images: Tensor, precision: int | None, arrangement: str) -> Tensor:
    """Return the maps (n, channels, rows, columns), float32, of the coefficients that a codec makes of images."""
    whole = _method(codec, "coefficients")
    if hasattr(codec, "coefficient_arrays"):
        parts = list(codec.coefficient_arrays(images))
        kept = parts if precision is None else [part.at_precision(precision) for part in parts]
        return _arrange(kept, arrangement, tuple(images.shape[1:]))
    _refuse_precision(codec, precision)
    return _arrange([whole(images)], arrangement, tuple(images.shape[1:]))


def maps_of_streams(codec: Codec, streams: Sequence[bytes], precision: int | None, arrangement: str) -> Tensor:
    """Return the maps (n, channels, rows, columns), float32, of the coefficients that streams hold."""
    if isinstance(codec, PerExample):
        return codec.read_by_setting(streams, lambda one, part: maps_of_streams(one, part, precision, arrangement))
    whole = _method(codec, "coefficients_of_streams")
    if hasattr(codec, "coefficient_arrays_of_streams"):
        found = list(codec.coefficient_arrays_of_streams(streams, precision=precision))
        return _arrange(found, arrangement, _shape_of(streams))
    _refuse_precision(codec, precision)
    return _arrange([whole(streams)], arrangement, _shape_of(streams))


def _shape_of(streams: Sequence[bytes]) -> tuple[int, ...]:
    stated = stated_shape(streams[0])
    return () if stated is None else stated[1]  # a user's own codec may have streams of another kind


def _method(codec: Codec, name: str) -> Any:
    found = getattr(codec, name, None)
    if not callable(found):
        reject(_OWNER, "codec", str(codec), "it has no coefficients; use JPEG or a lossy mode of ZFP")
    return found


def _refuse_precision(codec: Codec, precision: int | None) -> None:
    if precision is not None:
        reject(_OWNER, "precision", precision, f"{codec} has no bit planes, so precision must be None")


def _arrange(
    parts: list[BlockCoefficients] | list[JpegCoefficients], arrangement: str, shape: tuple[int, ...]
) -> Tensor:
    grids = [grid for part in parts for grid in (_jpeg(part) if isinstance(part, JpegCoefficients) else _zfp(part))]
    return _as_image(parts, grids, shape) if arrangement == "image" else _as_channels(grids)


def _jpeg(found: JpegCoefficients) -> list[Tensor]:
    """Return each component as (n, 1, rows, columns, 64), in the units of samples in [0, 1]."""
    return [component.unsqueeze(1) / 255 for component in found.scaled()]


def _zfp(found: BlockCoefficients) -> list[Tensor]:
    """Return blocks as (n, channels, rows, columns, 4^d); those along the dimensions before count as channels."""
    values = found.scaled().values.float()
    if not bool(values.isfinite().all()):
        reject(_OWNER, "dataset", "values beyond float32", "coefficients are given in float32: scale the data")
    if len(found.shape) < 2:
        reject(_OWNER, "dataset", found.shape, "maps need examples of two dimensions or more")
    return [values.flatten(1, values.ndim - 4)]


def _as_channels(grids: list[Tensor]) -> Tensor:
    """Give each frequency a channel; parts of fewer blocks are repeated to the resolution of the others."""
    rows, columns = (max(grid.shape[axis] for grid in grids) for axis in (2, 3))
    maps = []
    for grid in grids:
        factors = (-(-rows // grid.shape[2]), -(-columns // grid.shape[3]))
        spread = grid.movedim(-1, 2).flatten(1, 2)
        spread = spread.repeat_interleave(factors[0], 2).repeat_interleave(factors[1], 3)
        maps.append(spread[:, :, :rows, :columns])
    return torch.cat(maps, 1).contiguous()


def _as_image(
    parts: list[BlockCoefficients] | list[JpegCoefficients], grids: list[Tensor], shape: tuple[int, ...]
) -> Tensor:
    """Leave each coefficient at its place within its block, in examples of a shape."""
    rule = "this arrangement needs layout 2d and no chroma subsampling"
    first = parts[0]
    if _is_subsampled(parts) or grids[0].shape[-1] not in (16, 64):
        reject(_OWNER, "arrangement", "image", rule)
    if isinstance(first, JpegCoefficients):
        if any(extent % 8 for extent in first.size):
            reject(_OWNER, "arrangement", "image", f"the sides of images {first.size} must be multiples of 8")
        planes = [from_blocks(grid[:, 0].unflatten(-1, (8, 8))) for grid in grids]  # type: ignore[no-untyped-call]
        return torch.stack(planes, 1)
    if len(first.shape) != 2:
        reject(_OWNER, "arrangement", "image", rule)
    # of the image itself, since the array of several channels may be of whole blocks where each of them is not
    if any(extent % 4 for extent in shape[-2:]):
        reject(_OWNER, "arrangement", "image", f"the sides of images {shape[-2:]} must be multiples of 4")
    return torch.cat([from_small_blocks(grid[..., natural_order(2)], first.shape) for grid in grids], 1)


def _is_subsampled(parts: list[BlockCoefficients] | list[JpegCoefficients]) -> bool:
    """Tell whether chroma has fewer samples, though in small images not fewer blocks."""
    jpeg = [part for part in parts if isinstance(part, JpegCoefficients)]
    arrays = {part.shape for part in parts if isinstance(part, BlockCoefficients)}
    return len(arrays) > 1 or any(len(part.components) > 1 and part.subsampling != "4:4:4" for part in jpeg)
