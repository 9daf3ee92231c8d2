"""JSON documents from untrusted sources, refused unless they have exactly one meaning."""

from __future__ import annotations

import json
from typing import Any

from cp_compress.base.error_reasons import reason_of, shortened


def read_document(content: bytes | str) -> Any:
    """Return what a JSON document says; raises ValueError, with the reason, for what is none or says a key twice.

    >>> read_document('{"a": 1}')
    {'a': 1}
    >>> read_document('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ...
    ValueError: it has the key 'a' twice
    """
    try:
        return json.loads(content, object_pairs_hook=_table)
    except (ValueError, RecursionError) as error:
        raise ValueError(reason_of(error)) from error


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"it has the key {shortened(repr(key), 100)} twice")
        table[key] = value
    return table
