"""Pictures of examples and of attribution maps, as small files in base64 that a page can hold.

What is done for the eye alone (smoothing, enlarging, cutting off the strongest places) is returned with the pictures,
so that a page can say so; measures never see it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, features
from torch import Tensor

from cp_compress.fidelity.attributions.jaccard import unit_maps
from cp_compress.fidelity.attributions.similarity import place_strengths

_LARGEST_SIDE, _LOSSLESS_SIDE = 224, 96
_QUALITY = 75
# beyond this many places a side, single places are smaller than four pixels of a picture of 160
_LEGIBLE_SIDE, _LARGEST_MAP_SIDE = 40, 64
_PLACES_PER_DEVIATION = 40  # of a side: the smoothing that is used beyond
_SATURATED = 0.995  # the quantile of the strengths from which on colours are full
_LEAST_DIFFERENCE = 0.05  # of the maps' scale: below it, differences are rounding and stay faint
_LEVELS, _BALANCES = 12, 9
# smoothing adds many places, whose signs nearly cancel: from this quantile of strong places on, a sign's colour is full
_PREVAILING, _LEAST_EXCESS, _STRONG = 0.6, 0.02, 0.3
_MIXED = (110, 40, 140)
# against and for the class, then less and more in the candidate: both pairs can be told apart by the colour-blind
_SIGNS = ((31, 110, 190), (217, 84, 2))
_DIFFERENCE = ((178, 24, 112), (60, 130, 30))
_Colours = tuple[tuple[int, int, int], tuple[int, int, int]]


@dataclass(frozen=True)
class MapPictures:
    """The pictures of maps of some examples, each a list with one for each example, and how they were drawn.

    `scales` are the strengths at full colour, in multiples of the mean strength of a place, and `difference_scales`
    those of the differences, in the same unit. `smoothing` is the standard deviation in places that the maps were
    smoothed with, 0 for none; of smoothed maps, places weaker than the picture's mean, and than half of full colour,
    are left clear, and the colour tells which sign prevails among neighbours. `places` are those of the maps, (h, w).
    `signed` tells whether any value was negative, and `mixed` whether values of both signs may have met in one place.
    """

    reference: list[str]
    candidate: list[str]
    difference: list[str]
    scales: list[float]
    difference_scales: list[float]
    signed: bool
    mixed: bool
    smoothing: float
    places: tuple[int, int]


def draw_maps(reference: Tensor, candidate: Tensor, *, signed: bool) -> MapPictures:
    """Return pictures of two models' maps (n, channels, h, w) or (n, h, w), and of their differences.

    Each map is scaled to a sum of strengths of 1. The two maps of an example have one scale; their difference, which
    may be far weaker, has its own. Opacity is the strength of a place, all channels together; the hue tells how far its
    values are of one sign. Without `signed` there are only strengths.
    """
    before, after = (unit_maps(maps).reshape(maps.shape).float() for maps in (reference, candidate))
    if not signed:
        before, after = (place_strengths(maps).float() for maps in (before, after))
    height, width = before.shape[-2:]
    deviation = min(height, width) / _PLACES_PER_DEVIATION if min(height, width) > _LEGIBLE_SIDE else 0.0
    *maps, difference = (_planes(values, deviation) for values in (before, after, after - before))
    scale = _scale(maps)
    least = _LEAST_DIFFERENCE * scale
    own = torch.where(difference.strength.flatten(1).any(dim=1), torch.maximum(_scale([difference]), least), least)
    excess = _excess(maps, scale) if deviation > 0 else torch.ones_like(scale)
    other = _excess([difference], own) if deviation > 0 else torch.ones_like(scale)
    drawn = [_pictures(planes, scale, excess, _SIGNS, clear=deviation > 0) for planes in maps]
    drawn.append(_pictures(difference, own, other, _DIFFERENCE, clear=deviation > 0))
    return MapPictures(
        reference=drawn[0],
        candidate=drawn[1],
        difference=drawn[2],
        scales=[float(f"{value:.3g}") for value in scale.tolist()],
        difference_scales=[float(f"{value:.3g}") for value in own.tolist()],
        signed=bool((before < 0).any() or (after < 0).any()),
        mixed=deviation > 0 or (before.ndim == 4 and before.shape[1] > 1),
        smoothing=round(deviation, 1),
        places=(height, width),
    )


def colour_bars() -> dict[str, str]:
    """Return the colours of maps, of differences, and of mixed signs, by strength, as strips of one pixel."""
    ramp = torch.linspace(-1, 1, 2 * _LEVELS + 1)[None]
    rising = torch.linspace(0, 1, _LEVELS + 1)[None]
    return {
        "signs": _drawn(ramp.abs(), ramp.sign(), _SIGNS),
        "difference": _drawn(ramp.abs(), ramp.sign(), _DIFFERENCE),
        "mixed": _drawn(rising, torch.zeros_like(rising), _SIGNS),
    }


def picture_of(image: Tensor, batch: Tensor) -> str:
    """Return one image (channels, height, width); values beyond [0, 1] are scaled by their batch's range."""
    values, everything = image.detach().cpu().double(), batch.detach().cpu().double()
    low, high = float(everything.min()), float(everything.max())
    if image.dtype == torch.uint8:
        low, high = 0.0, 255.0
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scaled = ((values - low) / max(high - low, 1e-12)).clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels = scaled.permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if max(picture.size) <= _LOSSLESS_SIDE:
        return _encoded(picture, "PNG", optimize=True)
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    if features.check("webp"):
        return _encoded(picture, "WEBP", quality=_QUALITY, method=6)
    return _encoded(picture, "JPEG", quality=_QUALITY, optimize=True)


class _Planes(NamedTuple):
    """The strength of each place (n, h, w), in multiples of a map's mean, and the balance of its signs in [-1, 1]."""

    strength: Tensor
    balance: Tensor


def _planes(maps: Tensor, deviation: float) -> _Planes:
    places = maps.shape[-2] * maps.shape[-1]
    added = [each.sum(dim=1) if maps.ndim == 4 else each for each in (maps.abs(), maps)]
    strength, net = (_reduced(_smoothed(plane * places, deviation)) for plane in added)
    return _Planes(strength, net / torch.where(strength > 0, strength, torch.ones_like(strength)))


def _scale(drawn: Sequence[_Planes]) -> Tensor:
    """Return the strength (n,) at full colour of pictures that have one scale."""
    strengths = torch.cat([planes.strength for planes in drawn], dim=2).flatten(1)
    scale = strengths.quantile(_SATURATED, dim=1)
    return torch.where(scale > 0, scale, strengths.amax(dim=1))


def _excess(drawn: Sequence[_Planes], scale: Tensor) -> Tensor:
    """Return the balance (n,) of signs at which a colour is full: what prevails at the strong places of a picture."""
    strengths, balances = (torch.cat(planes, dim=2).flatten(1) for planes in zip(*drawn, strict=True))
    strong = strengths > _STRONG * scale[:, None]
    among = torch.where(strong, balances.abs(), torch.nan).nanquantile(_PREVAILING, dim=1)
    return among.nan_to_num(1.0).clamp(_LEAST_EXCESS, 1.0)


def _pictures(planes: _Planes, scale: Tensor, excess: Tensor, colours: _Colours, *, clear: bool) -> list[str]:
    """Return the pictures of planes whose colours are full at a strength of `scale` and a balance of `excess`."""
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))[:, None, None]
    # of smoothed maps each place has some strength: what is below the mean would hide the image, and tells nothing
    mean = planes.strength.mean(dim=(1, 2), keepdim=True) / divisor
    least = mean.clamp(max=0.5) if clear else torch.zeros_like(mean)
    shown = (planes.strength / divisor - least) / (1 - least)
    return [_drawn(one, net, colours) for one, net in zip(shown, planes.balance / excess[:, None, None], strict=True)]


def _smoothed(planes: Tensor, deviation: float) -> Tensor:
    """Return planes (n, h, w) smoothed by a Gaussian, with the outermost places repeated beyond the edge."""
    if deviation == 0:
        return planes
    reach = int(3 * deviation + 0.5)
    steps = torch.arange(-reach, reach + 1, dtype=planes.dtype)
    kernel = torch.exp(-0.5 * (steps / deviation).square())
    kernel = (kernel / kernel.sum())[None, None]
    padded = F.pad(planes[:, None], (reach, reach, reach, reach), mode="replicate")
    across = F.conv2d(padded, kernel[:, :, None])
    return F.conv2d(across, kernel[..., None])[:, 0]


def _reduced(planes: Tensor) -> Tensor:
    """Return planes of at most `_LARGEST_MAP_SIDE` places a side, by means over areas."""
    height, width = planes.shape[1:]
    factor = max(height, width) / _LARGEST_MAP_SIDE
    if factor <= 1:
        return planes
    size = max(2, round(height / factor)), max(2, round(width / factor))
    return F.interpolate(planes[:, None], size, mode="area")[:, 0]


def _drawn(strength: Tensor, balance: Tensor, colours: _Colours) -> str:
    """Return places (h, w) in two colours by the balance of signs in [-1, 1], the more transparent the weaker.

    Strengths are in [0, 1]; those beyond are drawn at full opacity.
    """
    level = (strength.clamp(0, 1) * _LEVELS).round()
    hue = ((balance.clamp(-1, 1) + 1) / 2 * (_BALANCES - 1)).round() * (level > 0)
    image = Image.fromarray((hue * (_LEVELS + 1) + level).to(torch.uint8).numpy(), mode="P")
    palette, opacity = _palette(colours)
    image.putpalette(palette.tobytes())
    return _encoded(image, "PNG", optimize=True, transparency=opacity)


def _palette(colours: _Colours) -> tuple[NDArray[np.uint8], bytes]:
    """Return colours (balances · levels, 3) from the first over a mixed one to the second, and their opacities."""
    places = np.linspace(-1, 1, _BALANCES)
    anchors = np.array([colours[0], _MIXED, colours[1]], dtype=float)
    hues = np.stack([np.interp(places, (-1, 0, 1), anchors[:, channel]) for channel in range(3)], axis=1)
    palette: NDArray[np.uint8] = hues.round().astype(np.uint8).repeat(_LEVELS + 1, axis=0)
    opacity = np.round(230 * (np.arange(_LEVELS + 1) / _LEVELS) ** 0.7).astype(np.uint8)
    return palette, np.tile(opacity, _BALANCES).tobytes()


def _encoded(image: Image.Image, kind: str, **settings: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
