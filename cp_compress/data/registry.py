"""The codecs that expressions name: those of this package and those that users register."""

from __future__ import annotations

from typing import Any

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.expressions import parse_expression
from cp_compress.base.extensions import added
from cp_compress.data.codec import Codec
from cp_compress.data.jpeg.codec import JPEG
from cp_compress.data.per_example import PerExample
from cp_compress.data.settings import require_one
from cp_compress.data.zfp.codec import ZFP


@explains_keywords
def parse_codec(text: str) -> Codec:
    """Read a codec from its expression: the inverse of `str(codec)`.

    Raises InvalidArgumentError if the text is not an expression, the name is unknown or an argument is out of range.

    >>> parse_codec("jpeg(quality=75)")
    jpeg(quality=75)
    """
    if not isinstance(text, str):
        reject("parse_codec", "text", text, 'must be a text such as "jpeg(quality=75)"')
    known = known_codecs() | dict(added("codec"))
    if text.lstrip().startswith(PerExample.expression_name):  # what only stores are written by
        known[PerExample.expression_name] = PerExample
    found: list[Codec] = parse_expression(text, known, "codec")
    require_one(text, found)
    return found[0]


def known_codecs() -> dict[str, type[Any]]:
    """Return the codecs of this package by the names that expressions call them by."""
    return {"jpeg": JPEG, "zfp": ZFP}
