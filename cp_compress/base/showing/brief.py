"""Objects in one line, whatever they hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from cp_compress.base.error_reasons import shortened

_LONGEST_VALUE = 120
_MOST_ENTRIES = 4


def brief(value: Any) -> str:
    """Return what a value is in a few words: of a tensor its shape and dtype, of a long sequence its length.

    >>> brief(list(range(100))), brief(0.5), brief({"a": 1})
    ('<100 int>', '0.5', "{'a': 1}")
    """
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"<{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}>"
    if hasattr(value, "named_parameters"):
        return f"<{type(value).__name__}>"
    if isinstance(value, (list, tuple, Mapping, set, frozenset)):
        parts = list(value.items()) if isinstance(value, Mapping) else list(value)
        plain = len(parts) <= _MOST_ENTRIES and not any(_is_large(part) for part in _flat(parts))
        if not plain or len(repr(value)) > _LONGEST_VALUE:
            kinds = dict.fromkeys(type(part).__name__ for part in value)
            return f"<{len(parts)} {' or '.join(kinds) if 0 < len(kinds) <= 2 else 'entries'}>"
        return repr(value)
    return shortened(repr(value), _LONGEST_VALUE)


def _flat(parts: Sequence[Any]) -> list[Any]:
    return [one for part in parts for one in (part if isinstance(part, (list, tuple)) else (part,))]


def _is_large(value: Any) -> bool:
    return hasattr(value, "shape") or hasattr(value, "named_parameters")


class Brief:
    """The repr of a dataclass that may hold tensors, models or long lists: each field in a few words.

    >>> @dataclasses.dataclass(repr=False)
    ... class Found(Brief):
    ...     values: list[float]
    >>> Found([0.0] * 1000)
    Found(values=<1000 float>)
    """

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        shown = (f"{field.name}={brief(getattr(self, field.name))}" for field in fields if field.repr)
        return f"{type(self).__name__}({', '.join(shown)})"
