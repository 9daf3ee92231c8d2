"""The codec families of the paper's figures: the template of a codec and the values of its one setting."""

from collections.abc import Sequence
from dataclasses import dataclass

from cp_compress import parse_codec
from cp_compress.search import CodecSpace, Integer


@dataclass(frozen=True)
class Family:
    """A codec with one setting; `values` are sorted, and every `shown`-th value is drawn."""

    template: str
    values: Sequence[float]
    setting: str
    shown: int

    def __call__(self, point):
        return parse_codec(self.template.format(value=self.values[point["place"]]))

    def __str__(self):
        return self.template.format(value=f"{self.values[0]}…{self.values[-1]}")

    def space(self, every=1):
        """Return the family, or every so many of its settings, as a space for `find_smallest`."""
        chosen = Family(self.template, self.values[::-every][::-1], self.setting, self.shown)
        return CodecSpace(chosen, place=Integer(0, len(chosen.values) - 1))

    def drawn(self):
        """Return the (value, codec) pairs of a figure."""
        return [(value, parse_codec(self.template.format(value=value))) for value in self.values[:: self.shown]]


QUALITIES, PLANES = tuple(range(5, 101)), tuple(range(2, 25))
RATES, TOLERANCES = tuple(k / 16 for k in range(8, 129)), tuple(2.0**-k for k in range(11))

_HALF_CHROMA = "color=ycbcr, chroma='4:2:0', layout='2d'"

FAMILIES = {
    "JPEG 4:2:0": Family("jpeg(quality={value})", QUALITIES, "quality", 10),
    "JPEG 4:4:4": Family("jpeg(quality={value}, subsampling='4:4:4')", QUALITIES, "quality", 10),
    "ZFP precision": Family("zfp(precision={value})", PLANES, "precision (bit planes)", 2),
    "ZFP rate": Family("zfp(rate={value})", RATES, "rate (bits a value)", 16),
    "ZFP tolerance": Family("zfp(tolerance={value})", TOLERANCES, "tolerance", 1),
    "ZFP YCbCr precision": Family(f"zfp(precision={{value}}, {_HALF_CHROMA})", PLANES, "precision (bit planes)", 2),
    "ZFP YCbCr tolerance": Family(f"zfp(tolerance={{value}}, {_HALF_CHROMA})", TOLERANCES, "tolerance", 1),
}
