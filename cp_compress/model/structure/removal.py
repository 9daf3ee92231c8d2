"""The work of a structured scheme on one model: choose the weakest units, then remove them or set them to zero."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from cp_compress.model.layers import find_owners, resolve
from cp_compress.model.record import Change, Skip
from cp_compress.model.structure.blocks import Block
from cp_compress.model.structure.cuts import Plan, remove
from cp_compress.model.structure.grouping import Grouping, Proposal, find_groups
from cp_compress.model.structure.ranking import Family, Ranking, Target, choose_survivors
from cp_compress.model.structure.shrinking import sound_plans
from cp_compress.model.structure.units import zero_channels, zero_units
from cp_compress.model.tracing import Inputs, Trace

_UNITS = "<units>"
_UNSOUND = "removing them would change the output, because something else reads these channels or makes zeros non-zero"


_UNSOUND_HEADS = (
    "removing some would change what the others give, as where the model has a position bias for each head or a norm "
    "over all of them, or takes their size from that of its inputs"
)


@dataclass(frozen=True, eq=False)
class Work:
    """A model to be changed in place, the layers to prune by their paths, and how."""

    model: nn.Module
    chosen: dict[str, Target]
    inputs: Inputs
    seen: Trace
    ranking: Ranking
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Done:
    """What was done to a model, what was left unchanged, and whether the shapes of layers changed."""

    changes: tuple[Change, ...]
    skips: tuple[Skip, ...]
    structural: bool


def zero_weakest(work: Work) -> Done:
    """Set the weakest units of each layer to zero."""
    families = [Family.of([target]) for target in work.chosen.values()]
    ranked: list[Family | Block] = [*families, *work.blocks]
    survivors = choose_survivors(ranked, work.ranking)
    return _record([_zero(work, family, kept) for family, kept in zip(ranked, survivors, strict=True)], False)


def remove_weakest(work: Work) -> Done:
    """Remove the weakest units where a check shows that only the size changes, and set them to zero elsewhere."""
    groups = Grouping((), {}, ())
    if work.chosen:
        groups = find_groups(work.model, work.chosen, work.inputs.first, work.seen)
    removable: list[Proposal | Block] = [*groups.proposals, *work.blocks]
    families: list[Family | Block] = [one.family if isinstance(one, Proposal) else one for one in removable]
    fixed = [Family.of([work.chosen[path]]) for path in groups.fixed]
    survivors = choose_survivors([*families, *fixed], work.ranking)
    done: list[tuple[list[Change], list[Skip]]] = [([], list(groups.left))]
    plans: dict[Plan, Family | Block] = {}
    for one, family, kept in zip(removable, families, survivors, strict=False):
        if bool(kept.all()):
            done.append(([], _stay(family, kept)))
        else:
            plans[_plan(one, kept)] = family
    for family, kept in zip(fixed, survivors[len(families) :], strict=True):
        done.append(_keep_or_zero(work, family, kept, groups.fixed[family.targets[0].path]))
    sound = sound_plans(work.model, list(plans), work.inputs)
    for plan, family in plans.items():
        if plan not in sound:
            heads = isinstance(family, Block) and family.word != "neurons"
            done.append(_keep_or_zero(work, family, ~plan.dropped, _UNSOUND_HEADS if heads else _UNSOUND))
    remove(work.model, sound)
    for plan in sound:
        action = f"{int(plan.dropped.sum())} of {len(plan.dropped)} {_UNITS} removed"
        done.append((_changes(plans[plan], action), []))
    return _record(done, bool(sound))


def _plan(one: Proposal | Block, kept: Tensor) -> Plan:
    if isinstance(one, Block):
        return one.plan(kept)
    paths = tuple(target.path for target in one.family.targets)
    return Plan(paths, ~kept, one.cuts((~kept).nonzero().flatten().tolist()))


def _keep_or_zero(work: Work, family: Family | Block, kept: Tensor, reason: str) -> tuple[list[Change], list[Skip]]:
    """Set units that cannot be removed to zero; those of a transformer stay, as zeros would save nothing in it."""
    if not work.blocks:
        return _zero(work, family, kept, reason)
    return [], [Skip(name, f"its {word} stay: {reason}") for name, word in family.words]


def _zero(work: Work, family: Family | Block, kept: Tensor, reason: str = "") -> tuple[list[Change], list[Skip]]:
    if isinstance(family, Block):
        changed = False
        for zero in family.plan(kept).zeros:
            changed |= zero_channels(work.model.get_submodule(zero.path), zero.indices, zero.inputs)
    else:
        owners = find_owners(work.model)
        weights = [resolve(work.model, target.names[0]) for target in family.targets]
        layers = [owner.module for module, name in weights for owner in owners[id(getattr(module, name))]]
        norms = [norm for layer in layers for norm in work.seen.norms.get(layer, ())]
        changed = zero_units([*layers, *norms], ~kept)
    if not changed:
        return [], _stay(family, kept)
    because = f", not removed: {reason}" if reason else ""
    return _changes(family, f"{int((~kept).sum())} of {len(kept)} {_UNITS} zeroed{because}"), []


def _changes(family: Family | Block, action: str) -> list[Change]:
    return [Change(name, action.replace(_UNITS, word, 1)) for name, word in family.words]


def _stay(family: Family | Block, kept: Tensor) -> list[Skip]:
    count = "all" if kept.all() else f"{int(kept.sum())} of"
    return [Skip(name, f"{count} {len(kept)} {word} stay, as before") for name, word in family.words]


def _record(parts: Iterable[tuple[list[Change], list[Skip]]], structural: bool) -> Done:
    parts = list(parts)
    changes = tuple(change for changed, _ in parts for change in changed)
    return Done(changes, tuple(skip for _, skipped in parts for skip in skipped), structural)
