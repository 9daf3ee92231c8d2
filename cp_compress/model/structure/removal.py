"""The work of a structured scheme on one model: choose the weakest units, then remove them or set them to zero."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from cp_compress.model.layers import find_owners, resolve
from cp_compress.model.record import Change, Skip
from cp_compress.model.structure.grouping import find_groups
from cp_compress.model.structure.ranking import Family, Ranking, Target, choose_survivors
from cp_compress.model.structure.shrinking import Plan, remove, sound_plans
from cp_compress.model.structure.units import unit_word, zero_units
from cp_compress.model.tracing import Inputs, Trace

_UNITS = "<units>"
_UNSOUND = "removing them would change the output, because something else reads these channels or makes zeros non-zero"


@dataclass(frozen=True, eq=False)
class Work:
    """A model to be changed in place, the layers to prune by their paths, and how."""

    model: nn.Module
    chosen: dict[str, Target]
    inputs: Inputs
    seen: Trace
    ranking: Ranking


@dataclass(frozen=True)
class Done:
    """What was done to a model, what was left unchanged, and whether the shapes of layers changed."""

    changes: tuple[Change, ...]
    skips: tuple[Skip, ...]
    structural: bool


def zero_weakest(work: Work) -> Done:
    """Set the weakest units of each layer to zero."""
    families = [Family.of([target]) for target in work.chosen.values()]
    survivors = choose_survivors(families, work.ranking)
    return _record([_zero(work, family, kept) for family, kept in zip(families, survivors, strict=True)], False)


def remove_weakest(work: Work) -> Done:
    """Remove the weakest units where a check shows that only the size changes, and set them to zero elsewhere."""
    groups = find_groups(work.model, work.chosen, work.inputs.first, work.seen)
    families = [proposal.family for proposal in groups.proposals]
    families += [Family.of([work.chosen[path]]) for path in groups.fixed]
    survivors = choose_survivors(families, work.ranking)
    done: list[tuple[list[Change], list[Skip]]] = [([], list(groups.left))]
    plans: list[Plan] = []
    planned: dict[Plan, Family] = {}
    for proposal, kept in zip(groups.proposals, survivors, strict=False):
        if bool(kept.all()):
            done.append(([], _stay(proposal.family, kept)))
            continue
        indices = (~kept).nonzero().flatten().tolist()
        plan = Plan(tuple(target.path for target in proposal.family.targets), ~kept, proposal.cuts(indices))
        plans.append(plan)
        planned[plan] = proposal.family
    for family, kept in zip(families[len(groups.proposals) :], survivors[len(groups.proposals) :], strict=True):
        done.append(_zero(work, family, kept, groups.fixed[family.targets[0].path]))
    sound = sound_plans(work.model, plans, work.inputs)
    done += [_zero(work, planned[plan], ~plan.dropped, _UNSOUND) for plan in plans if plan not in sound]
    remove(work.model, sound)
    for plan in sound:
        action = f"{int(plan.dropped.sum())} of {len(plan.dropped)} {_UNITS} removed"
        done.append((_changes(planned[plan], action), []))
    return _record(done, bool(sound))


def _zero(work: Work, family: Family, kept: Tensor, reason: str = "") -> tuple[list[Change], list[Skip]]:
    owners = find_owners(work.model)
    weights = [resolve(work.model, target.names[0]) for target in family.targets]
    layers = [owner.module for module, name in weights for owner in owners[id(getattr(module, name))]]
    norms = [norm for layer in layers for norm in work.seen.norms.get(layer, ())]
    if not zero_units([*layers, *norms], ~kept):
        return [], _stay(family, kept)
    because = f", not removed: {reason}" if reason else ""
    return _changes(family, f"{int((~kept).sum())} of {len(kept)} {_UNITS} zeroed{because}"), []


def _changes(family: Family, action: str) -> list[Change]:
    return [
        Change(name, action.replace(_UNITS, unit_word(target.layer), 1))
        for target in family.targets
        for name in target.names
    ]


def _stay(family: Family, kept: Tensor) -> list[Skip]:
    count = "all" if kept.all() else f"{int(kept.sum())} of"
    return [
        Skip(name, f"{count} {len(kept)} {unit_word(target.layer)} stay, as before")
        for target in family.targets
        for name in target.names
    ]


def _record(parts: Iterable[tuple[list[Change], list[Skip]]], structural: bool) -> Done:
    parts = list(parts)
    changes = tuple(change for changed, _ in parts for change in changed)
    return Done(changes, tuple(skip for _, skipped in parts for skip in skipped), structural)
