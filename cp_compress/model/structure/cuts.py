"""What is taken from a layer when units go, and the plan of it for all layers that share them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from cp_compress.model.representations.configurations import tell_config
from cp_compress.model.representations.fewer_heads import settle_encoders
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


@dataclass(frozen=True)
class Told:
    """What the configuration of a module says of units, and which it may say anew when all `blocks` agree on it.

    `names` are those under which it may say so; `width` is the size of heads, or None.
    """

    path: str
    names: tuple[str, ...]
    before: int
    after: int
    width: int | None
    blocks: int


@dataclass(frozen=True, eq=False)
class Plan:
    """The removal of the same units from all layers that share them.

    `producers` are the paths of those that give them, whose units are zero where nothing is removed, or else `zeros`
    says what is then zero. `sizes` are the attributes to be set, by their modules' paths and names; `told` is what
    configurations may say anew.
    """

    producers: tuple[str, ...]
    dropped: Tensor
    cuts: tuple[Cut, ...]
    zeros: tuple[Cut, ...] = ()
    sizes: tuple[tuple[str, str, int], ...] = ()
    told: tuple[Told, ...] = ()


def remove(model: nn.Module, plans: Iterable[Plan]) -> None:
    """Carry out plans in place; a configuration says what is left where that is the same in all its layers."""
    plans = list(plans)
    # indices are those of the whole layer: where several plans meet, as behind a concatenation, all go at once
    together: dict[tuple[str, bool], set[int]] = {}
    for plan in plans:
        for cut in plan.cuts:
            together.setdefault((cut.path, cut.inputs), set()).update(cut.indices)
        for path, name, value in plan.sizes:
            setattr(model.get_submodule(path), name, value)
    for (path, inputs), indices in together.items():
        remove_units(model.get_submodule(path), indices, inputs)
    settle_encoders(model)
    told = Counter(told for plan in plans for told in plan.told)
    for one, count in told.items():
        if count == one.blocks:
            tell_config(model.get_submodule(one.path).config, one.names, one.before, one.after, one.width)
