"""The objectives that a search minimises: operations, parameters, bytes or time of a candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from scipy.stats import binom
from torch import Tensor
from torch.utils import _pytree as pytree

from cp_compress.base.arguments import check_choice, check_integer, explains_keywords, reject
from cp_compress.base.expressions import parse_one
from cp_compress.base.showing.describing import Written
from cp_compress.model.footprints import footprint, time_in_turns

if TYPE_CHECKING:
    from torch import nn


class Objective(Protocol):
    """A printable value that gives a candidate one number; the smaller, the better. `unit` says of what, if it can."""

    def measure(self, candidate: nn.Module, reference: nn.Module, example_input: Any) -> float:
        """Return the candidate's number; `example_input` is one batch, or None where the user gave none."""
        ...


@explains_keywords
@dataclass(frozen=True, repr=False)
class Flops(Written):
    """Floating-point operations of the graph that runs on the example input; zero weights do not reduce them."""

    expression_name: ClassVar[str] = "flops"
    positional_fields: ClassVar[tuple[str, ...]] = ()
    needs_input: ClassVar[bool] = True
    unit: ClassVar[str] = "operations"

    def measure(self, candidate: nn.Module, reference: nn.Module, example_input: Any) -> float:
        """Return the operations of one call; raises CompressionError where they cannot be counted."""
        flops = footprint(candidate, example_input).flops
        assert flops is not None
        return float(flops)


@explains_keywords
@dataclass(frozen=True, repr=False)
class Parameters(Written):
    """The number of parameters: those that are not zero, or all that are stored as numbers (`count="total"`).

    Unstructured pruning and masks change only the first, removing channels changes both. A zero saves bytes only in a
    packed file (`ArtifactBytes`) and time only with kernels made for sparse weights (`Latency`).
    """

    count: str = "nonzero"

    expression_name: ClassVar[str] = "parameters"
    positional_fields: ClassVar[tuple[str, ...]] = ()
    needs_input: ClassVar[bool] = False
    unit: ClassVar[str] = "parameters"

    def __post_init__(self) -> None:
        check_choice("Parameters", "count", self.count, ("nonzero", "total"))

    def measure(self, candidate: nn.Module, reference: nn.Module, example_input: Any) -> float:
        """Return the number of parameters, tied ones counted once."""
        found = footprint(candidate)
        return float(found.nonzero if self.count == "nonzero" else found.parameters)


@explains_keywords
@dataclass(frozen=True, repr=False)
class ArtifactBytes(Written):
    """The size of the file that `cp_compress.save` writes."""

    expression_name: ClassVar[str] = "artifact_bytes"
    positional_fields: ClassVar[tuple[str, ...]] = ()
    needs_input: ClassVar[bool] = False
    unit: ClassVar[str] = "bytes"

    def measure(self, candidate: nn.Module, reference: nn.Module, example_input: Any) -> float:
        """Return bytes; raises CompressionError for a model that cannot be stored."""
        return float(footprint(candidate).artifact_bytes)


@explains_keywords
@dataclass(frozen=True, repr=False)
class ResidentBytes(Written):
    """The bytes of all parameters and buffers in memory."""

    expression_name: ClassVar[str] = "resident_bytes"
    positional_fields: ClassVar[tuple[str, ...]] = ()
    needs_input: ClassVar[bool] = False
    unit: ClassVar[str] = "bytes"

    def measure(self, candidate: nn.Module, reference: nn.Module, example_input: Any) -> float:
        """Return bytes."""
        return float(footprint(candidate).resident_bytes)


@explains_keywords
@dataclass(frozen=True, repr=False)
class Latency(Written):
    """The time of one call on the example input, as a fraction of the reference's; both are timed in turns.

    A fraction, because a busy machine slows both models alike. To keep noise from counting as a gain, the objective of
    a candidate is the upper 99 % confidence bound of the median fraction over `repeats` turns; that of the reference is
    the lower bound of the reference timed beside itself, at most 1.
    """

    repeats: int = 30

    expression_name: ClassVar[str] = "latency"
    positional_fields: ClassVar[tuple[str, ...]] = ()
    needs_input: ClassVar[bool] = True
    unit: ClassVar[str] = "of the reference's time"
    measured: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_repeats("Latency", self.repeats)

    def measure(self, candidate: nn.Module, reference: nn.Module, example_input: Any) -> float:
        """Return the upper confidence bound of the candidate's fraction of the reference's time."""
        return _time_share(candidate, reference, example_input, self.repeats)


@explains_keywords
@dataclass(frozen=True, repr=False)
class Throughput(Written):
    """The time per example in batches of `batch_size`, as a fraction of the reference's: 1 / speed-up.

    The rows of the example input are repeated until the batch is full. The confidence bounds are those of `Latency`.
    """

    batch_size: int = 64
    repeats: int = 30

    expression_name: ClassVar[str] = "throughput"
    positional_fields: ClassVar[tuple[str, ...]] = ()
    needs_input: ClassVar[bool] = True
    unit: ClassVar[str] = "of the reference's time an example"
    measured: ClassVar[bool] = True

    def __post_init__(self) -> None:
        rule = "must be a whole number of 1 or more"
        check_integer("Throughput", "batch_size", self.batch_size, rule, at_least=1)
        _check_repeats("Throughput", self.repeats)

    def measure(self, candidate: nn.Module, reference: nn.Module, example_input: Any) -> float:
        """Return the upper confidence bound of the candidate's fraction of the reference's time."""
        return _time_share(candidate, reference, self._fill(example_input), self.repeats)

    def _fill(self, example_input: Any) -> Any:
        def fill(leaf: Any) -> Any:
            return leaf[torch.arange(self.batch_size) % len(leaf)] if isinstance(leaf, Tensor) and leaf.ndim else leaf

        return pytree.tree_map(fill, example_input)


def _check_repeats(owner: str, repeats: object) -> None:
    rule = "must be a whole number of 7 or more, because fewer turns give no confidence bound on the median"
    check_integer(owner, "repeats", repeats, rule, at_least=7)


def _time_share(candidate: nn.Module, reference: nn.Module, example_input: Any, repeats: int) -> float:
    ours, theirs = time_in_turns(candidate, reference, example_input, repeats)
    shares = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
    # fewer than `rank` of the shares lie beyond the median with a probability of 1 % at most
    rank = int(binom.ppf(0.01, repeats, 0.5))
    low, high = shares[rank - 1], shares[repeats - rank]
    return min(1.0, low) if candidate is reference else high


_KNOWN = (Flops, Parameters, ArtifactBytes, ResidentBytes, Latency, Throughput)


@explains_keywords
def parse_objective(text: str) -> Objective:
    """Read an objective from its expression: the inverse of `str(objective)`.

    >>> parse_objective("parameters(count=total)")
    parameters(count=total)
    """
    found: Objective = parse_one(text, _KNOWN, "objective")
    return found


def as_objective(owner: str, objective: object, example_input: Any) -> Objective:
    """Return an objective given as a value or an expression, or reject it, also for a missing example input."""
    if isinstance(objective, str):
        objective = parse_objective(objective)
    if isinstance(objective, type) or not callable(getattr(objective, "measure", None)):
        known = ", ".join(kind.expression_name for kind in _KNOWN)
        reject(owner, "objective", objective, f"give a value with a method `measure`, or an expression of {known}")
    if getattr(objective, "needs_input", False) and example_input is None:
        reject(owner, "example_input", None, f"{objective} runs the model, so one batch of its inputs is needed")
    return objective  # type: ignore[return-value]
