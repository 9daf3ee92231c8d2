"""Where and how the checks of the running test run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Execution:
    """Where and how checks run: they change neither requirements nor what is compared.

    `device` is None for CUDA where present, else the CPU. `searched` are digests of examples that a search has seen,
    on which no gate is made unless `allow_searched_data`. With `any_source`, candidates need not be made from what they
    are compared with. With `origin` a failing check looks for the layers that carry
    the damage; with `illustrate` checks carry images and distances for a report. Evidence such as inputs is written to
    `evidence_folder`, beside the report, where there is one.
    """

    device: str | None = None
    seed: int = 0
    batch_size: int = 256
    origin: bool = field(default=True, repr=False)
    evidence_folder: Path | None = field(default=None, repr=False)
    illustrate: bool = field(default=False, repr=False)
    searched: frozenset[str] = field(default=frozenset(), repr=False)
    allow_searched_data: bool = field(default=False, repr=False)
    any_source: bool = field(default=False, repr=False)


_DEFAULT = Execution()
_execution: ContextVar[Execution] = ContextVar("cp_execution", default=_DEFAULT)


def current_execution() -> Execution:
    """Return the execution of the running test, or the defaults outside of pytest."""
    return _execution.get()


@contextlib.contextmanager
def using_execution(execution: Execution) -> Iterator[None]:
    """Make `execution` the current one for the checks inside."""
    token = _execution.set(execution)
    try:
        yield
    finally:
        _execution.reset(token)
