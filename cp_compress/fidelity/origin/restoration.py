"""Replace parts of a candidate by those of the reference, and count the changed predictions that this undoes."""

from __future__ import annotations

import contextlib
import copy
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.errors import ObservationError
from cp_compress.base.showing.work import TimeBudgetSpent
from cp_compress.fidelity.observing.nested_tensors import cast_floats
from cp_compress.fidelity.origin.joined import Unit
from cp_compress.fidelity.origin.pairs import LayerPairs, own_tensors


class Restorer:
    """A copy of a candidate in which parts can be exchanged for the reference's; neither model is touched."""

    def __init__(self, candidate: nn.Module, reference: nn.Module, pairs: LayerPairs) -> None:
        try:
            self.model = copy.deepcopy(candidate)
        except Exception as error:  # deepcopy runs the model's own code, which may raise anything
            raise ObservationError(f"the candidate cannot be copied ({error}), so no layer can be restored") from error
        self._reference = reference
        self._pairs = pairs
        self._places: dict[int, list[str]] = {}
        for path, part in self.model.named_modules(remove_duplicate=False):
            self._places.setdefault(id(part), []).append(path)

    def predict(self, paths: Sequence[str], predict: Callable[[nn.Module], Tensor]) -> Tensor:
        """Return what `predict` gives for the candidate with the reference's parts, or tensors, at `paths`."""
        replaced: list[tuple[str, nn.Module]] = []
        exchanged: list[tuple[str, Tensor]] = []
        try:
            for path in paths:
                if path in self._pairs.tensors:
                    own_tensor = _tensor_at(self.model, path)
                    exchanged.append((path, own_tensor))
                    self._put_tensor(path, _tensor_at(self._reference, path).detach().to(own_tensor))
                    continue
                own = self.model.get_submodule(path)
                part = self._fitting_part(path)
                for place in self._places[id(own)]:  # a module used at several places is one module
                    replaced.append((place, own))
                    self._put(place, part)
            return predict(self.model)
        finally:
            for place, own in reversed(replaced):
                self._put(place, own)
            for path, own_tensor in exchanged:
                self._put_tensor(path, own_tensor)

    def _fitting_part(self, path: str) -> nn.Module:
        part = self._reference.get_submodule(path)
        mine, theirs = self._pairs.candidate_dtypes.get(path), self._pairs.reference_dtypes.get(path)
        # a bare module where it fits, or does not run: some parents read their children's weights and attributes
        if mine is None or theirs is None or mine == theirs:
            return part
        return _InOtherDtype(part, takes=theirs[0], gives=mine[1])

    def _put(self, path: str, part: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        self.model.get_submodule(parent).register_module(name, part)

    def _put_tensor(self, path: str, tensor: Tensor) -> None:
        parent, _, name = path.rpartition(".")
        module = self.model.get_submodule(parent)
        if name in module._buffers:
            module._buffers[name] = tensor
        else:
            module._parameters[name] = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, False)


def _tensor_at(model: nn.Module, path: str) -> Tensor:
    parent, _, name = path.rpartition(".")
    return own_tensors(model.get_submodule(parent))[name]


class _InOtherDtype(nn.Module):
    """A part of the reference that stands in a model of another floating-point dtype."""

    def __init__(self, part: nn.Module, takes: torch.dtype | None, gives: torch.dtype | None) -> None:
        super().__init__()
        self.part, self.takes, self.gives = part, takes, gives

    def forward(self, *args: Any, **keywords: Any) -> Any:
        output = self.part(*cast_floats(args, self.takes), **cast_floats(keywords, self.takes))
        return cast_floats(output, self.gives)


@dataclass(frozen=True)
class Restored:
    """The units that were restored together, and how many predictions came back with them."""

    units: tuple[Unit, ...]
    count: int


def restore_each(
    units: Sequence[Unit], count: Callable[[Sequence[Unit]], int], budget: int
) -> tuple[list[Restored], int, bool]:
    """Return the predictions that come back with each unit, or where `budget` runs asks for it with groups of units.

    `count` gives the number for units restored together, at the cost of one run. With as many runs as units each is
    restored by itself. With fewer, groups of neighbours are halved, the one that brings most back first, until three
    single units stand out or the runs are used up: what is left undivided is returned as a group. Returned are the
    results, largest first, the number of runs, and whether the time budget around was spent before: then units that
    were not restored are left out, and groups that were not halved stay whole.
    """
    if len(units) <= budget:
        found: list[Restored] = []
        with contextlib.suppress(TimeBudgetSpent):
            for unit in units:
                found.append(Restored((unit,), count([unit])))
        return sorted(found, key=lambda part: -part.count), len(found), len(found) < len(units)
    try:
        open_groups = [(-count(units), 0, tuple(units))]
    except TimeBudgetSpent:
        return [], 0, True
    runs, serial, stopped = 1, 0, False
    single: list[Restored] = []
    while open_groups and len(single) < 3:
        negative, _, group = open_groups[0]
        if len(group) == 1:
            heapq.heappop(open_groups)
            single.append(Restored(group, -negative))
            continue
        if runs + 2 > budget:
            break
        middle = len(group) // 2
        halves = group[:middle], group[middle:]
        try:
            counts = [count(half) for half in halves]
        except TimeBudgetSpent:
            stopped = True
            break
        heapq.heappop(open_groups)
        for half, back in zip(halves, counts, strict=True):
            serial += 1
            heapq.heappush(open_groups, (-back, serial, half))
            runs += 1
    left = [Restored(group, -negative) for negative, _, group in open_groups]
    return sorted([*single, *left], key=lambda part: -part.count), runs, stopped
