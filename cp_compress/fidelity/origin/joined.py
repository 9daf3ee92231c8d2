"""Which parts of a candidate are restored together: those folded into a neighbour, and those with tied parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from cp_compress.base.digests import digest_tensors

Unit = tuple[str, ...]
TensorKey = tuple[int, int]
_NEUTRAL_SCALE = 1e-3  # what an epsilon beside a variance of 1 leaves
_NEUTRAL_SHIFT = 1e-6


@dataclass(frozen=True)
class Call:
    """What one run of a part takes first and what it gives: the tensor and how often it was written to, or None."""

    takes: TensorKey | None
    gives: TensorKey | None


def tensor_key(tensors: Sequence[Tensor]) -> TensorKey | None:
    """Return what tells the first of some tensors from all that are alive, and from itself after a change in place."""
    if not tensors:
        return None
    return id(tensors[0]), 0 if tensors[0].is_inference() else tensors[0]._version


def join(paths: Iterable[str], groups: Iterable[Iterable[str]]) -> tuple[Unit, ...]:
    """Return paths as units, those that a group holds in one, and groups with a path in common too.

    >>> join("abcd", [("a", "c"), ("c", "d")])
    (('a', 'c', 'd'), ('b',))
    """
    order = {path: place for place, path in enumerate(paths)}
    units: dict[str, Unit] = {path: (path,) for path in order}
    for group in groups:
        together = {other for path in group for other in units[path]}
        unit = tuple(sorted(together, key=order.__getitem__))
        units |= dict.fromkeys(unit, unit)
    return tuple(dict.fromkeys(units.values()))


def is_chain(unit: Unit, calls: dict[str, list[Call]]) -> bool:
    """Tell whether each part of a unit runs once and takes what the one before gives."""
    if len(unit) < 2 or any(len(calls.get(path, ())) != 1 for path in unit):
        return False
    return all(_follows(later, earlier, calls) for earlier, later in itertools.pairwise(unit))


def _follows(later: str, earlier: str, calls: dict[str, list[Call]]) -> bool:
    key = calls[later][0].takes
    return key is not None and key == calls[earlier][0].gives


def folded_parts(
    candidate: nn.Module, reference: nn.Module, paths: Sequence[str], calls: dict[str, list[Call]]
) -> list[Unit]:
    """Return pairs of neighbours among differing parts, of which the candidate holds one folded into the other.

    A batch normalisation was folded away where the candidate has an identity in its place, or neutral parameters while
    a bias has appeared beside it; after a part that has become another class, as in fused modules, any part that has
    become an identity was. Its partner is the differing part that gives what it takes in the reference, else those
    that take what it gives. `paths` are in the order in which the reference runs them.
    """
    once = [path for path in paths if len(calls.get(path, ())) == 1]
    found: list[Unit] = []
    fused = {path for path in once if type(candidate.get_submodule(path)) is not type(reference.get_submodule(path))}
    for place, path in enumerate(once):
        own, was = candidate.get_submodule(path), reference.get_submodule(path)
        before = [other for other in once[:place] if _follows(path, other, calls)][-1:]
        partners = before or [other for other in once[place + 1 :] if _follows(other, path, calls)]
        normalises = _affine(was) is not None
        if isinstance(own, nn.Identity):
            if not normalises:
                partners = [other for other in before if other in fused]
        elif not normalises or not _is_neutral(own) or _is_neutral(was):
            continue
        else:
            partners = [other for other in partners if _bias_appeared(candidate, reference, other)]
        found += [(path, other) for other in partners if not isinstance(was, nn.Identity)]
    return found


def _affine(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Return the scale and shift of a normalisation by running statistics, else None."""
    mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
    if not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
        return None
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    scale = (variance.detach().double() + float(getattr(module, "eps", 0.0))).rsqrt()
    scale = scale * weight.detach().double() if isinstance(weight, Tensor) else scale
    shift = -mean.detach().double() * scale
    return scale, shift + bias.detach().double() if isinstance(bias, Tensor) else shift


def _is_neutral(module: nn.Module) -> bool:
    affine = _affine(module)
    if affine is None:
        return False
    scale, shift = affine
    return bool((scale - 1).abs().amax() <= _NEUTRAL_SCALE) and bool(shift.abs().amax() <= _NEUTRAL_SHIFT)


def _bias_appeared(candidate: nn.Module, reference: nn.Module, path: str) -> bool:
    own, was = (getattr(model.get_submodule(path), "bias", None) for model in (candidate, reference))
    if not isinstance(own, Tensor):
        return False
    return not isinstance(was, Tensor) or digest_tensors([own]) != digest_tensors([was])


def tied_parts(candidate: nn.Module, reference: nn.Module, paths: Sequence[str]) -> list[Unit]:
    """Return pairs of differing parts that share a tensor in both models, one that differs between the models.

    `paths` are those of modules, and of parameters and buffers.
    """
    held = [{path: _tensors_at(model, path) for path in paths} for model in (candidate, reference)]
    holders: dict[int, dict[str, None]] = {}
    for path, tensors in held[0].items():
        for name, tensor in tensors.items():
            holders.setdefault(id(tensor), {})[path] = None
            other = held[1][path].get(name)
            if other is not None and digest_tensors([tensor]) == digest_tensors([other]):
                holders[id(tensor)].pop(path)
    kept = {path: {id(tensor) for tensor in tensors.values()} for path, tensors in held[1].items()}
    return [
        pair
        for sharing in holders.values()
        for pair in itertools.combinations(sharing, 2)
        if kept[pair[0]] & kept[pair[1]]
    ]


def _tensors_at(model: nn.Module, path: str) -> dict[str, Tensor]:
    parent, _, name = path.rpartition(".")
    holder = model.get_submodule(parent)
    if name not in holder._modules:
        return {"": getattr(holder, name)}
    part = model.get_submodule(path)
    named = [*part.named_parameters(remove_duplicate=False), *part.named_buffers(remove_duplicate=False)]
    return dict(named)
