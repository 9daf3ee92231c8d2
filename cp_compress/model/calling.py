"""Calls of a model that leave nothing behind in candidates, and are noticed in models of others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

from torch import nn

from cp_compress.base.holdings.reach import modules_within
from cp_compress.model.call_caches import empty_caches, noticing_caches
from cp_compress.model.record import read_steps
from cp_compress.model.sources import read_sources


@contextlib.contextmanager
def calling(model: Callable[..., object], modules: Iterable[nn.Module] | None = None) -> Iterator[None]:
    """Notice what calls inside fill in a model, or in the `modules` that a callable holds, which are found by default.

    A model that this package made is given back as it was before them: its weights may change, and what calls have made
    of them would not.
    """
    with noticing_caches(modules_within(model) if modules is None else modules) as noticed:
        yield
    if noticed and isinstance(model, nn.Module) and (read_steps(model) or read_sources(model)):
        empty_caches(model, model)
