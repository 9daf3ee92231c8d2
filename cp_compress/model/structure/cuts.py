"""What is taken from a layer when units go, and the plan of it for all layers that share them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from cp_compress.model.structure.units import remove_units


@dataclass(frozen=True)
class Cut:
    """One layer's share in the removal of units: those that it gives, or those that it reads."""

    path: str
    inputs: bool
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """An attribute of a module that tells how many units it has, as a multiple of that number."""

    path: str
    name: str
    each: int


@dataclass(frozen=True, eq=False)
class Plan:
    """The removal of the same units from all layers that share them.

    `producers` are the paths of those that give them, whose units are zero where nothing is removed, or else `zeros`
    says what is then zero. `sizes` are the attributes to be set, by their modules' paths and names.
    """

    producers: tuple[str, ...]
    dropped: Tensor
    cuts: tuple[Cut, ...]
    zeros: tuple[Cut, ...] = ()
    sizes: tuple[tuple[str, str, int], ...] = ()


def remove(model: nn.Module, plans: Iterable[Plan]) -> None:
    """Carry out plans in place."""
    # indices are those of the whole layer: where several plans meet, as behind a concatenation, all go at once
    together: dict[tuple[str, bool], set[int]] = {}
    for plan in plans:
        for cut in plan.cuts:
            together.setdefault((cut.path, cut.inputs), set()).update(cut.indices)
        for path, name, value in plan.sizes:
            setattr(model.get_submodule(path), name, value)
    for (path, inputs), indices in together.items():
        remove_units(model.get_submodule(path), indices, inputs)
