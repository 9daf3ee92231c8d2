"""Which models were read from the cache instead of made in this session."""

from __future__ import annotations

import weakref
from typing import Any

_cached: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def note_cached(model: Any, path: str) -> None:
    """Let records say that a model was not made in this session, but read from a file of the cache."""
    _cached[model] = path


def cached_file(model: Any) -> dict[str, str]:
    """Return the file of the cache that a model was read from, for its description; nothing for any other model."""
    try:
        path = _cached.get(model)
    except TypeError:  # of a callable that has no hash, or that nothing can refer to weakly
        return {}
    return {} if path is None else {"cached": path}
