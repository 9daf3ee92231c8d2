"""The arguments of a JPEG codec and the checks of them, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cp_compress.base.arguments import check_choice, check_integer

FACTORS = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}
"""By how much chroma is smaller than luma, in height and width."""

_TABLES = ("shared", "inline")


@dataclass(frozen=True, repr=False)
class JPEGSettings:
    """The arguments of `JPEG`."""

    quality: int
    subsampling: str = "4:2:0"
    tables: str = "shared"

    expression_name: ClassVar[str] = "jpeg"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        rule = "quality must be a whole number in 1..100"
        if isinstance(self.quality, float) and 0 < self.quality < 1:
            rule += f"; {self.quality:g} would be {100 * self.quality:g}"
        quality = check_integer("JPEG", "quality", self.quality, rule, at_least=1, at_most=100)
        object.__setattr__(self, "quality", quality)
        check_choice("JPEG", "subsampling", self.subsampling, tuple(FACTORS))
        check_choice("JPEG", "tables", self.tables, _TABLES)
