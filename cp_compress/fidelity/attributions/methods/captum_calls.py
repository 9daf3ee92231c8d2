"""What several methods share when they call Captum."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cp_compress.base.lazy import LazyModule

attr: Any = LazyModule("captum.attr")


@contextmanager
def without_hook_warnings() -> Iterator[None]:
    """Silence Captum's warning that it sets hooks: the modules that it sets them on are not the model's own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Setting (forward|backward)", category=UserWarning)
        yield
