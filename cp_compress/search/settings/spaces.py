"""Families of codecs: named parameters, and the codec of each point."""

from __future__ import annotations

import keyword
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.showing.describing import describe_point
from cp_compress.search.spaces import Point, SchemeSpace

if TYPE_CHECKING:
    from cp_compress.data.codec import Codec


@explains_keywords
@dataclass(frozen=True, init=False)
class CodecSpace(SchemeSpace):
    """A family of codecs: a template of an expression, or a function of the point, and its parameters.

    It is a `SchemeSpace` with codecs in place of schemes.

    >>> from cp_compress.search.spaces import Integer
    >>> family = CodecSpace("jpeg(quality={quality}, subsampling='4:4:4')", quality=Integer(1, 100))
    >>> str(family.codec({"quality": 75}))
    "jpeg(quality=75, subsampling='4:4:4')"
    """

    def codec(self, point: Point) -> Codec:
        """Return the codec of one point; raises the error of the codec for a setting that it refuses."""
        from cp_compress.data.codec import Codec
        from cp_compress.data.registry import parse_codec

        if isinstance(self.template, str):
            # a word of Python is held in quotes by an expression
            words = {name: repr(value) if keyword.iskeyword(str(value)) else value for name, value in point.items()}
            return parse_codec(self.template.format_map(words))
        codec: Any = self.template(point)
        if not isinstance(codec, Codec):
            reject("CodecSpace", "template", type(codec).__name__, "the callable must return a codec")
        return codec

    def scheme(self, point: Point) -> NoReturn:
        """Always raise InvalidArgumentError: a codec compresses data, not a model."""
        reject("CodecSpace", "point", describe_point(point), "codecs compress data; search them with find_smallest")
