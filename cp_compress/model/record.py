"""The record that a compressed model carries: what each step did to each tensor, what it left unchanged and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from cp_compress.base.arguments import explains_keywords

_ATTRIBUTE = "_cp_compression_steps"


@dataclass(frozen=True)
class Change:
    """What a step did to one tensor, as text."""

    tensor: str
    action: str


@dataclass(frozen=True)
class Skip:
    """A tensor that a step left as it was, and why."""

    tensor: str
    reason: str


@dataclass(frozen=True)
class Left:
    """What a step left behind in tensors, by its kind (`cp_compress.model.order.KINDS`): zeros, rounded numbers, …"""

    kind: str
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """One scheme's work on one model; `structural` when it changed the shapes of layers."""

    scheme: str
    changes: tuple[Change, ...]
    skips: tuple[Skip, ...]
    structural: bool = False
    leaves: tuple[Left, ...] = ()

    def inside(self, path: str) -> Step:
        """Return the step with the names that its tensors have in a module that holds the model at a path."""
        changes = tuple(Change(f"{path}.{change.tensor}", change.action) for change in self.changes)
        skips = tuple(Skip(f"{path}.{skip.tensor}", skip.reason) for skip in self.skips)
        leaves = tuple(Left(left.kind, tuple(f"{path}.{name}" for name in left.tensors)) for left in self.leaves)
        return replace(self, changes=changes, skips=skips, leaves=leaves)

    def to_json(self) -> dict[str, Any]:
        """Return the step as plain Python types."""
        return {
            "scheme": self.scheme,
            "changes": [[change.tensor, change.action] for change in self.changes],
            "skips": [[skip.tensor, skip.reason] for skip in self.skips],
            "structural": self.structural,
            "leaves": [[left.kind, list(left.tensors)] for left in self.leaves],
        }

    @staticmethod
    def from_json(content: Any) -> Step:
        """Read what `to_json` wrote; raises KeyError, TypeError or ValueError for anything else.

        Nothing is left behind where the content does not say it.
        """
        return Step(
            str(content["scheme"]),
            tuple(Change(str(tensor), str(action)) for tensor, action in content["changes"]),
            tuple(Skip(str(tensor), str(reason)) for tensor, reason in content["skips"]),
            bool(content["structural"]),
            tuple(Left(str(kind), tuple(map(str, tensors))) for kind, tensors in content.get("leaves", ())),
        )


def read_steps(model: object) -> tuple[Step, ...]:
    """Return the steps recorded on a model, or on a part of it, oldest first; none for one that no scheme made.

    A candidate may be part of another module, such as one that normalises its inputs: its tensors then have the names
    that they have in that module.
    """
    steps: tuple[Step, ...] = getattr(model, _ATTRIBUTE, ())
    if steps or not isinstance(model, nn.Module):
        return steps
    for path, module in model.named_modules():
        inner: tuple[Step, ...] = getattr(module, _ATTRIBUTE, ())
        if inner:
            return tuple(step.inside(path) for step in inner)
    return ()


def write_steps(model: object, steps: Iterable[Step]) -> None:
    """Replace the steps recorded on a model."""
    setattr(model, _ATTRIBUTE, tuple(steps))


def add_step(model: nn.Module, step: Step) -> None:
    """Record one more step on a model."""
    write_steps(model, (*read_steps(model), step))


@explains_keywords
def compression_steps(model: object) -> tuple[str, ...]:
    """Return the expressions of the schemes that made a model, or a part of it, in their order; else none.

    >>> compression_steps(nn.Linear(2, 2))
    ()
    """
    return tuple(step.scheme for step in read_steps(model))
