"""How the values of a search are written: for people, and to recognise the same search in another process."""

from __future__ import annotations

from collections.abc import Mapping

from cp_compress.base.expressions import format_expression
from cp_compress.base.identity import identify


class Written:
    """The text of a frozen dataclass that has an expression, which is its repr too."""

    def __str__(self) -> str:
        return format_expression(self)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return str(self)


def describe(value: object) -> str:
    """Return a text by which a callable or a value of an expression is known again in another process.

    >>> from fractions import Fraction
    >>> describe(describe), describe(Fraction(1, 2))
    ('cp_compress.base.showing.describing.describe', '1/2')
    """
    inner = getattr(value, "func", None)
    if callable(inner):  # functools.partial
        arguments = [*map(repr, getattr(value, "args", ())), *map(repr, getattr(value, "keywords", {}).items())]
        return f"{describe(inner)}({', '.join(arguments)})"
    if hasattr(value, "__qualname__"):
        return f"{getattr(value, '__module__', '')}.{value.__qualname__}"
    kind = type(value)
    shows_itself = kind.__str__ is not object.__str__ or kind.__repr__ is not object.__repr__
    return str(value) if shows_itself else f"{kind.__module__}.{kind.__qualname__}"


def describe_content(value: object) -> str:
    """Return `describe(value)` with a digest of the content behind the name, such as the values that a closure holds.

    >>> from functools import partial
    >>> describe_content(partial(round, ndigits=1)) == describe_content(partial(round, ndigits=2))
    False
    """
    return f"{describe(value)} #{identify(value)[:16]}"


def describe_point(point: Mapping[str, object]) -> str:
    """Write a point as `name=value, …`.

    >>> describe_point({"density": 0.25, "dtype": "int8"})
    'density=0.25, dtype=int8'
    """
    return ", ".join(f"{name}={value}" for name, value in point.items())
