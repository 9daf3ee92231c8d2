"""Where and how the checks of the running test run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cp_compress.base.arguments import check_integer

if TYPE_CHECKING:
    from cp_compress.fidelity.observing.outputs import Output


@dataclass(frozen=True)
class Execution:
    """Where and how checks run: they change neither requirements nor what is compared.

    `device` is None for CUDA where present, else the CPU. `deployed_batch_size` is that of the deployed model, to which
    the forward pass is held, or None for whatever `batch_size` gives. `output` is the part of what models
    give that is compared, None for their logits. `searched` are digests of examples that a search
    has seen, on which no gate is made unless `allow_searched_data`. With `origin` a failing check looks for the layers
    that carry the damage; with `illustrate` checks carry images and distances for a report. Evidence such as inputs is
    written to `evidence_folder`, beside the report, where there is one. `candidates` is the number of candidates that
    the running test is run with, of all that were collected, None where no candidate is given to it. `min_coverage` is
    the least share of its reference's weights that each candidate must have changed. What explains a check, the search
    for layers and the evidence of a report, takes about `time_budget` seconds at most, or as long as it takes. With
    `any_source`, candidates need not be made from what they are compared with.
    """

    device: str | None = None
    seed: int = 0
    batch_size: int = 256
    deployed_batch_size: int | None = field(default=None, repr=False)
    output: Output = field(default=None, repr=False)
    origin: bool = field(default=True, repr=False)
    evidence_folder: Path | None = field(default=None, repr=False)
    illustrate: bool = field(default=False, repr=False)
    searched: frozenset[str] = field(default=frozenset(), repr=False)
    allow_searched_data: bool = field(default=False, repr=False)
    any_source: bool = field(default=False, repr=False)
    candidates: int | None = field(default=None, repr=False)
    min_coverage: float | None = field(default=None, repr=False)
    time_budget: float | None = field(default=None, repr=False)


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


@contextlib.contextmanager
def deploying(owner: str, batch_size: int | None, output: Output = None) -> Iterator[None]:
    """Hold the checks inside, of the assertion `owner`, to a deployed batch size and an output; None leaves them.

    Raises InvalidArgumentError for a batch that is larger than any forward call may be, and for what names no output.
    """
    execution = current_execution()
    if output is not None:
        from cp_compress.fidelity.observing.outputs import check_output

        execution = replace(execution, output=check_output(owner, output))
    if batch_size is not None:
        limit = execution.batch_size
        rule = f"must be a whole number in 1..{limit}, the largest batch of a forward call (cp_batch_size)"
        check_integer(owner, "deployed_batch_size", batch_size, rule, at_least=1, at_most=limit)
        execution = replace(execution, deployed_batch_size=batch_size)
    with using_execution(execution):
        yield
