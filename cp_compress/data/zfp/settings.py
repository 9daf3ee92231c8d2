"""Checks of the arguments of a ZFP codec."""

from __future__ import annotations

from typing import Any

from cp_compress.base.arguments import check_choice, check_real, reject
from cp_compress.data.zfp.color import HALVED


def check_clip(clip: Any) -> tuple[float, float] | None:
    """Return the range as floats; raises InvalidArgumentError for what is none."""
    if clip is None:
        return None
    rule = "clip must be None or a pair of finite numbers (low, high) with low < high"
    if not isinstance(clip, (tuple, list)) or len(clip) != 2:
        reject("ZFP", "clip", clip, rule)
    low, high = (check_real("ZFP", "clip", bound, rule) for bound in clip)
    if not low < high:
        reject("ZFP", "clip", clip, rule)
    return low, high


def check_tolerance(tolerance: Any) -> float | tuple[float, ...] | None:
    """Return one tolerance or several as floats; raises InvalidArgumentError for what is neither."""
    rule = "tolerance must be a finite number above 0, or two or more of them, one for each channel"
    if isinstance(tolerance, (tuple, list)):
        if len(tolerance) < 2:
            reject("ZFP", "tolerance", tolerance, rule)
        return tuple(check_real("ZFP", "tolerance", one, rule, above=0) for one in tolerance)
    return None if tolerance is None else check_real("ZFP", "tolerance", tolerance, rule, above=0)


def tolerances(tolerance: float | tuple[float, ...] | None) -> tuple[float, ...]:
    """Return the tolerances there are, none in the other modes."""
    if tolerance is None:
        return ()
    return tolerance if isinstance(tolerance, tuple) else (tolerance,)


def check_color(color: str, chroma: str, reversible: bool, tolerance: float | tuple[float, ...] | None) -> None:
    """Raise InvalidArgumentError for a colour transform that the other settings rule out."""
    check_choice("ZFP", "color", color, ("rgb", "ycbcr"))
    check_choice("ZFP", "chroma", chroma, tuple(HALVED))
    if color == "rgb" and chroma != "4:4:4":
        reject("ZFP", "chroma", chroma, "only color='ycbcr' can have chroma at half the resolution")
    if color == "ycbcr" and reversible:
        reject("ZFP", "color", color, "the colour transform rounds; reversible mode needs color='rgb'")
    if color == "ycbcr" and len(tolerances(tolerance)) > 3:
        rule = "with color='ycbcr' give one tolerance for all, two for luma and chroma, or three for the channels"
        reject("ZFP", "tolerance", tolerance, rule)
