"""Expressions of codecs, checked by the settings of the codecs alone, without torch."""

from __future__ import annotations

from collections.abc import Sequence

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.expressions import parse_expression
from cp_compress.base.extensions import added
from cp_compress.data.jpeg.settings import JPEGSettings
from cp_compress.data.zfp.settings import ZFPSettings


def check_codec_text(text: str) -> None:
    """Raise InvalidArgumentError for a text that `parse_codec` would refuse, without loading torch.

    >>> check_codec_text("jpeg(quality=75)")
    """
    known = {settings.expression_name: settings for settings in (JPEGSettings, ZFPSettings)}
    require_one(text, parse_expression(text, {**known, **added("codec")}, "codec"))


def require_one(text: str, found: Sequence[object]) -> None:
    """Raise InvalidArgumentError for an expression of several codecs."""
    if len(found) != 1:
        raise InvalidArgumentError(f"codec {text!r}: codecs cannot be chained with |; give one")
