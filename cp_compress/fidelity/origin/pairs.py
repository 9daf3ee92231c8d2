"""Which parts of a candidate correspond to which parts of its reference."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.digests import digest_model, digest_tensors
from cp_compress.fidelity.observing.hooks import CallHook, InputHook, watching
from cp_compress.fidelity.observing.nested_tensors import tensors_in
from cp_compress.fidelity.origin.joined import (
    Call,
    TensorKey,
    Unit,
    folded_parts,
    is_chain,
    join,
    tensor_key,
    tied_parts,
)

Shapes = tuple[tuple[int, ...], ...]
Dtypes = tuple[torch.dtype | None, torch.dtype | None]
_OTHER_SHAPES = (
    "no part around it has equal input and output shapes in both models; schemes that remove filters or neurons keep "
    "the shapes with shrink=False, which allows a ranking by layer"
)
_SCRIPTED = "it is TorchScript, which can be neither observed nor replaced"
_IDLE = "it does not run"


@dataclass(frozen=True)
class LayerPairs:
    """The paths at which two models hold different parts that take and give the same shapes.

    `paths` are in the order in which the reference runs them; `tensors` are paths of parameters and buffers that differ
    and belong to a part whose children differ too, or to the whole model. `left_out` maps paths that have no such
    counterpart to the reason. `candidate_dtypes` and `reference_dtypes` give the floating-point dtypes that each part
    takes and gives. `units` hold every path that can be restored, those that are exchanged together in one; `chains`
    are the units whose parts run one after the other, each on what the one before gives.
    """

    paths: tuple[str, ...]
    tensors: tuple[str, ...]
    units: tuple[Unit, ...]
    chains: tuple[Unit, ...]
    left_out: dict[str, str]
    candidate_dtypes: dict[str, Dtypes]
    reference_dtypes: dict[str, Dtypes]


def differing_parts(candidate: nn.Module, reference: nn.Module) -> list[str]:
    """Return the lowest paths at which two models differ while everything above corresponds; "" is the whole model.

    A part is looked into as long as both sides hold children of the same names, and tensors of their own of the same
    names and shapes. Where its own tensors differ and a child does too, each of those tensors has a path. Parts that
    are TorchScript or compiled are not looked into.
    """
    if digest_model(candidate) == digest_model(reference):
        return []
    mine, theirs = (_children(model) for model in (candidate, reference))
    changed = changed_tensors(candidate, reference)
    if not theirs or mine.keys() != theirs.keys() or changed is None or _is_closed(candidate) or _is_closed(reference):
        return [""]
    found = [
        f"{name}.{path}" if path else name
        for name, child in theirs.items()
        for path in differing_parts(mine[name], child)
    ]
    return [*found, *changed] if found else [""]


def compiled_from(model: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` was given, or the module itself where it is not compiled."""
    original = getattr(model, "_orig_mod", None)
    return original if isinstance(original, nn.Module) else model


def _is_closed(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule) or compiled_from(module) is not module


def _why_none_fits(path: str, candidate: nn.Module, reference: nn.Module) -> str:
    """Return why no part at a path or around it can be exchanged."""
    own, was = candidate.get_submodule(path), reference.get_submodule(path)
    if isinstance(own, torch.jit.ScriptModule) or isinstance(was, torch.jit.ScriptModule):
        return _SCRIPTED
    places = [
        sum(part is other for _, other in model.named_modules(remove_duplicate=False))
        for model, part in ((candidate, own), (reference, was))
    ]
    if places[0] != places[1]:
        return f"it is used in {places[0]} places of the candidate, and in {places[1]} of the reference"
    mine, theirs = (", ".join(_children(part)) or "none" for part in (own, was))
    if mine != theirs:
        return (
            f"its parts have other names than the reference's ({_shortened(mine)}; {_shortened(theirs)}); "
            "put both models in the same wrapper"
        )
    return _OTHER_SHAPES


def _shortened(text: str) -> str:
    return textwrap.shorten(text, 60, placeholder=" …")


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """Return a module's children by name, one of several names under each."""
    return {name: child for name, child in module._modules.items() if child is not None}


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers that a module holds itself, by name."""
    return dict([*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)])


def changed_tensors(candidate: nn.Module, reference: nn.Module) -> list[str] | None:
    """Return the names of a module's own tensors that differ, or None where names or shapes do not correspond."""
    mine, theirs = own_tensors(candidate), own_tensors(reference)
    if mine.keys() != theirs.keys() or any(mine[name].shape != theirs[name].shape for name in mine):
        return None
    return [name for name in theirs if digest_tensors([mine[name]]) != digest_tensors([theirs[name]])]


def pair_layers(
    candidate: nn.Module, reference: nn.Module, run_candidate: Callable[[], Any], run_reference: Callable[[], Any]
) -> LayerPairs:
    """Return where the models' parts can be exchanged; `run_…` send the same few examples through each.

    Where a layer has become narrower, the smallest part around it that takes and gives the shapes of the reference's
    stands for it; where a layer does not run itself because the part around it reads its weights, as an attention does,
    that part stands for it. A module at several places is one part.
    """
    before, after = _look(reference, run_reference), _look(candidate, run_candidate)
    order = list(before.shapes)
    chosen: dict[str, None] = {}
    left_out: dict[str, str] = {}
    differing = differing_parts(candidate, reference)
    if differing == [""] and candidate._modules.keys() == reference._modules.keys():
        differing = changed_tensors(candidate, reference) or differing  # the whole model is no part to restore
    modules = dict(reference.named_modules(remove_duplicate=False))
    first_paths = _first_paths(candidate, modules)
    for path in differing:
        if path and path not in modules:
            continue
        first = first_paths.get(path, path)
        place = _fitting_place(_running_part(first, before.shapes, reference), before, after)
        if place != first != path:  # more than the shared module is exchanged: what stands around this place is not
            place = _fitting_place(path.rpartition(".")[0], before, after)
        if not place:
            left_out[path or "the whole model"] = _why_none_fits(path, candidate, reference)
        elif place not in before.shapes:
            left_out[path] = _IDLE
        else:
            chosen[place] = None
    outermost = [path for path in chosen if not _lies_in(path, [other for other in chosen if other != path])]
    left_out = {path: why for path, why in left_out.items() if not _lies_in(path, outermost)}
    tensors = [path for path in differing if path and path not in modules and not _lies_in(path, outermost)]
    paths = tuple(sorted(outermost, key=order.index))
    idle = [path for path, why in left_out.items() if why == _IDLE]
    groups = tied_parts(candidate, reference, [*paths, *tensors, *idle])
    groups += folded_parts(candidate, reference, paths, before.calls)
    units = tuple(unit for unit in join([*paths, *tensors, *idle], groups) if not set(unit) <= set(idle))
    for path in {path for unit in units for path in unit} & set(idle):
        del left_out[path]
    return LayerPairs(
        paths=paths,
        tensors=tuple(tensors),
        units=units,
        chains=tuple(unit for unit in units if is_chain(unit, before.calls)),
        left_out=left_out,
        candidate_dtypes=after.dtypes,
        reference_dtypes=before.dtypes,
    )


def _first_paths(candidate: nn.Module, modules: dict[str, nn.Module]) -> dict[str, str]:
    """Return for each path of the reference's modules the first at which both models hold the same module."""
    own = dict(candidate.named_modules(remove_duplicate=False))
    first: dict[tuple[int, int], str] = {}
    return {
        path: first.setdefault((id(module), id(own[path])), path) for path, module in modules.items() if path in own
    }


def _fitting_place(place: str, before: _Seen, after: _Seen) -> str:
    """Return the path of the smallest part around a place, or there, that takes and gives the same shapes."""
    while place and before.shapes.get(place) != after.shapes.get(place):
        place = place.rpartition(".")[0]
    return place


def _running_part(path: str, running: Container[str], model: nn.Module) -> str:
    """Return a part's path, or that of the running part around it that holds tensors and so reads this one's."""
    place = path
    while place and place not in running:
        parent = place.rpartition(".")[0]
        if not parent or not own_tensors(model.get_submodule(parent)):
            return path
        place = parent
    return place


def _lies_in(path: str, others: Iterable[str]) -> bool:
    return any(path.startswith(f"{other}.") for other in others)


@dataclass
class _Seen:
    """What each part of a model took and gave in one run, by path; shapes and dtypes are those of its first call."""

    shapes: dict[str, tuple[Shapes, Shapes]] = field(default_factory=dict)
    dtypes: dict[str, Dtypes] = field(default_factory=dict)
    calls: dict[str, list[Call]] = field(default_factory=dict)


def _look(model: nn.Module, run: Callable[[], Any]) -> _Seen:
    seen = _Seen()
    alive: list[Any] = []  # so that no tensor takes the id of another
    taken: dict[str, list[TensorKey | None]] = {}

    def take(path: str) -> InputHook:
        def hook(args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            tensors = tensors_in((args, keywords))
            alive.extend(tensors)
            taken.setdefault(path, []).append(tensor_key(tensors))

        return hook

    def note(path: str) -> CallHook:
        def hook(args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            tensors = tensors_in(output)
            alive.extend(tensors)
            seen.shapes.setdefault(path, (_tensor_shapes((args, keywords)), _tensor_shapes(output)))
            seen.dtypes.setdefault(path, (_float_dtype((args, keywords)), _float_dtype(output)))
            seen.calls.setdefault(path, []).append(Call(taken[path].pop(), tensor_key(tensors)))

        return hook

    parts = dict(model.named_modules())
    closed = [path for path, part in parts.items() if path and _is_closed(part)]
    paths = [
        path
        for path, part in parts.items()
        if path and not _lies_in(path, closed) and not isinstance(part, torch.jit.ScriptModule)  # it takes no hooks
    ]
    with watching(model, {path: note(path) for path in paths}, {path: take(path) for path in paths}):
        run()
    return seen


def _tensor_shapes(value: Any) -> Shapes:
    return tuple(tuple(tensor.shape) for tensor in tensors_in(value))


def _float_dtype(value: Any) -> torch.dtype | None:
    return next((tensor.dtype for tensor in tensors_in(value) if tensor.is_floating_point()), None)
