"""Which units stay: ranked in each layer by itself, or over all layers, with a floor and an alignment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from cp_compress.model.pruning.largest import keep_largest
from cp_compress.model.pruning.magnitude import kept_count
from cp_compress.model.structure.criteria import unit_strengths
from cp_compress.model.structure.units import unit_parts, unit_rows, unit_word


@dataclass(frozen=True)
class Ranking:
    """The rule of a structured scheme."""

    density: float
    criterion: str
    round_to: int
    scope: str
    floor: float


@dataclass(frozen=True, eq=False)
class Target:
    """A layer with units that a scheme may prune: its path, and the names of the weights that give the units."""

    path: str
    layer: nn.Module
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Family:
    """Layers whose units stay or go together; each of `parts` runs of equal length keeps the same number."""

    targets: tuple[Target, ...]
    parts: int

    @staticmethod
    def of(targets: Sequence[Target], parts: int = 1) -> Family:
        """Return a family that keeps the same number in each part of its own layers, and in each of `parts`."""
        return Family(tuple(targets), math.lcm(parts, *(unit_parts(target.layer) for target in targets)))

    def strengths(self, criterion: str) -> Tensor:
        """Return the strength of each unit, of all layers together, (units,)."""
        rows = [unit_rows(target.layer) for target in self.targets]
        return torch.cat([unit_strengths(run, criterion).cpu() for run in zip(*rows, strict=True)])

    @property
    def words(self) -> tuple[tuple[str, str], ...]:
        """The names of the weights that give the units, each with what its units are called."""
        return tuple((name, unit_word(target.layer)) for target in self.targets for name in target.names)

    def alignment(self, round_to: int) -> int:
        """Return of what the number of units that stay has to be a multiple."""
        levels = max(len(unit_rows(target.layer)) for target in self.targets)
        return round_to * self.parts if levels > 1 else math.lcm(round_to, self.parts)


class Ranked(Protocol):
    """Units that are ranked among one another; `parts` runs of equal length keep the same number each."""

    @property
    def parts(self) -> int: ...

    @property
    def words(self) -> tuple[tuple[str, str], ...]: ...

    def strengths(self, criterion: str) -> Tensor: ...

    def alignment(self, round_to: int) -> int: ...


def choose_survivors(families: Sequence[Ranked], ranking: Ranking) -> list[Tensor]:
    """Return for each family which units stay, as booleans (units,).

    With scope "layer" round(density·units) stay in each family. With "global" round(density·all units) stay in all
    families together, ranked by their strength divided by the mean strength of their family, after each family was
    given its floor. Both are then rounded to the alignment of the family, and never fall below it.
    """
    strengths = [family.strengths(ranking.criterion) for family in families]
    if ranking.scope == "layer":
        counts = [kept_count(ranking.density, len(values)) for values in strengths]
    else:
        counts = _global_counts(strengths, ranking)
    survivors = []
    for family, values, count in zip(families, strengths, counts, strict=True):
        alignment = family.alignment(ranking.round_to)
        aligned = align_count(count, len(values), alignment)
        if aligned < (least := _floor(ranking, values)):
            aligned = min(len(values), -(-least // alignment) * alignment)
        runs = values.view(min(family.parts, len(values)), -1)
        survivors.append(torch.cat([keep_largest([run], aligned // len(runs))[0] for run in runs]))
    return survivors


def _floor(ranking: Ranking, values: Tensor) -> int:
    return max(1, math.ceil(ranking.floor * len(values) - 1e-9))


def align_count(count: int, total: int, alignment: int) -> int:
    """Return the multiple of an alignment nearest to a count, halves up, never below one multiple nor above all.

    >>> align_count(2, 4, 4), align_count(5, 12, 4), align_count(6, 12, 4)
    (4, 4, 8)
    """
    return min(total, max(alignment, (2 * count + alignment) // (2 * alignment) * alignment))


def _global_counts(strengths: Sequence[Tensor], ranking: Ranking) -> list[int]:
    relative = [values / values.mean().clamp_min(torch.finfo(values.dtype).tiny) for values in strengths]
    floors = [_floor(ranking, values) for values in strengths]
    for values, floor in zip(relative, floors, strict=True):
        values[keep_largest([values], floor)[0]] = torch.inf
    total = kept_count(ranking.density, sum(map(len, relative)))
    return [int(mask.sum()) for mask in keep_largest(relative, max(total, sum(floors)))]
