"""The arguments of a ZFP codec and the checks of them, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cp_compress.base.arguments import check_choice, check_integer, check_real, reject

# the dimensions, counted from the end, along which chroma is halved
HALVED = {"4:4:4": (), "4:2:2": (-1,), "4:2:0": (-2, -1)}


@dataclass(frozen=True, repr=False)
class ZFPSettings:
    """The arguments of `ZFP`."""

    rate: float | None = None
    precision: int | None = None
    tolerance: float | tuple[float, ...] | None = None
    reversible: bool = False
    layout: str = "3d"
    color: str = "rgb"
    chroma: str = "4:4:4"
    clip: tuple[float, float] | None = (0.0, 1.0)

    expression_name: ClassVar[str] = "zfp"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.reversible, bool):
            reject("ZFP", "reversible", self.reversible, "must be True or False")
        given = [name for name in ("rate", "precision", "tolerance") if getattr(self, name) is not None]
        given += ["reversible"] if self.reversible else []
        if len(given) != 1:
            rule = "give exactly one of rate, precision, tolerance, reversible=True"
            reject("ZFP", "mode", " and ".join(given) or None, rule)
        if self.rate is not None:
            rate = check_real("ZFP", "rate", self.rate, "rate must lie in (0, 64] bits a value", above=0, at_most=64)
            object.__setattr__(self, "rate", rate)
        if self.precision is not None:
            rule = "precision must be a whole number of bit planes in 1..64"
            precision = check_integer("ZFP", "precision", self.precision, rule, at_least=1, at_most=64)
            object.__setattr__(self, "precision", precision)
        object.__setattr__(self, "tolerance", check_tolerance(self.tolerance))
        check_choice("ZFP", "layout", self.layout, ("2d", "3d"))
        check_color(self.color, self.chroma, self.reversible, self.tolerance)
        object.__setattr__(self, "clip", check_clip(self.clip))


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
