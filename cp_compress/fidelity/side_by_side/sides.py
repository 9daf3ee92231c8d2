"""The two models of a comparison that runs both batch by batch: their settings, their batches and their errors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from cp_compress.base.arguments import check_integer
from cp_compress.base.batching import BatchSize, is_out_of_memory
from cp_compress.base.errors import ArtifactError, ObservationError
from cp_compress.fidelity.observing.batch_dependence import BatchDependence
from cp_compress.fidelity.observing.runner import Model, Runner

EQUAL = "equal_outputs"
"""The key under which the details of a measurement say whether both models gave the same to the bit."""
_CANNOT = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, MemoryError, AssertionError)


class Side:
    """One of two models, run as it is given; `who` it is called in errors.

    `batch_dependence`, `batches`, `chosen_batch`, `deployed` and `batch_size` say what `Observation` says under these
    names.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device | str | None,
        batch_size: int,
        *,
        who: str,
        deployed: bool = False,
    ) -> None:
        self.model, self.who, self.deployed = model, who, deployed
        self.runner = Runner(model, device)
        self.batch_size = BatchSize(batch_size, fixed=deployed)
        self.batches = (0, 0)
        self.chosen_batch: int | None = None
        self.batch_dependence: BatchDependence | None = None

    def output(self, call: Callable[[Model], Any], rows: int, what: str) -> Any:
        """Return what `call` makes of the model on its device, for a batch of so many rows.

        Raises ObservationError, which says of `what` the model cannot take, where it fails, but out-of-memory where a
        smaller batch may fit.
        """
        try:
            return call(self.runner.model)
        except ObservationError:
            raise  # a program says best itself what went wrong
        except ArtifactError as error:
            raise ObservationError(str(error)) from error
        except _CANNOT as error:
            if isinstance(error, torch.cuda.OutOfMemoryError) or (is_out_of_memory(error) and rows > 1):
                raise
            raise ObservationError(f"the {self.who} cannot take {what}: {type(error).__name__}: {error}") from error


Made = TypeVar("Made")


def both_sides(
    owner: str,
    make: Callable[..., Made],
    models: tuple[Model, Model],
    *,
    device: torch.device | str | None,
    batch_size: int,
    deployed_batch_size: int | None,
) -> tuple[Made, Made]:
    """Return candidate and reference, as `make` makes them of what `Side` takes; raises InvalidArgumentError."""
    rule = "must be a whole number of 1 or more"
    size = check_integer(owner, "batch_size", batch_size, rule, at_least=1)
    deployed = deployed_batch_size is not None
    if deployed:
        rule = f"must be a whole number in 1..{size}, the largest batch of a forward call (batch_size)"
        size = check_integer(owner, "deployed_batch_size", deployed_batch_size, rule, at_least=1, at_most=size)
    candidate, reference = (
        make(model, device, size, who=who, deployed=deployed)
        for model, who in zip(models, ("candidate", "reference"), strict=True)
    )
    return candidate, reference


@contextlib.contextmanager
def evaluating(*sides: Side) -> Iterator[None]:
    """Hold models in evaluation mode and record no gradients."""
    with torch.inference_mode(False), torch.no_grad(), contextlib.ExitStack() as stack:
        for side in sides:
            stack.enter_context(side.runner.evaluating())
        yield


def run_both(candidate: Side, reference: Side, count: int, run_part: Callable[[slice], list[int]]) -> None:
    """Call `run_part` with consecutive slices of `count` rows, smaller ones after out-of-memory.

    It runs both models on the rows and returns in how large batches; it must be safe to repeat.
    """
    sizes: list[int] = []
    # both have one limit, and when memory runs out it does so for both
    reference.batch_size.run(count, lambda part: sizes.extend(run_part(part)))
    for side in (candidate, reference):
        side.batches = sizes[0], sizes[-1]
