"""Filters really removed, with everything that depends on them, as Torch-Pruning traces it.

Torch-Pruning says which layers share the channels of a convolution. No answer is trusted: each group of layers is
shrunk on a copy, whose outputs must equal those of a copy in which the same filters are zero.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from cp_compress.base.errors import CompressionError, MissingExtraError
from cp_compress.model.casting import find_casts
from cp_compress.model.layers import find_owners
from cp_compress.model.steps import Change, Skip
from cp_compress.model.tracing import running

Survivors = Callable[[Sequence[Tensor]], Tensor]
_UNFOLLOWED = "its channels run through a padded, sliced or reshaped shortcut that Torch-Pruning cannot follow"


@dataclass(frozen=True)
class _Cut:
    """One layer's share in the removal of filters: Torch-Pruning's function for it and the indices that go."""

    path: str
    prune: Callable[[nn.Module, list[int]], object]
    indices: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Plan:
    """The removal of the same filters from all layers that share them."""

    names: tuple[str, ...]
    producers: tuple[str, ...]
    dropped: Tensor
    cuts: tuple[_Cut, ...]


def shrink(
    model: nn.Module, chosen: dict[str, _ConvNd], batch: Tensor, survivors: Survivors
) -> tuple[nn.Module, list[Change], list[Skip]]:
    """Return the model without the filters that do not survive, what was removed, and what could not be.

    `chosen` maps names of weights to their convolutions; `survivors` judges the weights that share their filters. A
    plan that fails its check on a copy is left out.
    """
    if not _depends_on_input(model, batch):
        raise CompressionError(
            "the model's output does not depend on its input, so that removing filters cannot be checked; "
            "use shrink=False"
        )
    plans, skips = _make_plans(model, chosen, batch, survivors)
    if plans and not _is_sound(model, plans, batch):
        sound = [plan for plan in plans if _is_sound(model, [plan], batch)]
        failed = [plan for plan in plans if plan not in sound]
        skips += [
            Skip(name, f"removing filters here changes the output: {_UNFOLLOWED}")
            for plan in failed
            for name in plan.names
        ]
        plans = sound
        if plans and not _is_sound(model, plans, batch):
            raise CompressionError(
                "removing filters of several layers together changes the output, removing those of each layer alone "
                "does not; use shrink=False"
            )
    total = {name: layer.out_channels for name, layer in chosen.items()}
    shrunk = _apply(model, plans)
    changes = [
        Change(name, f"{int(plan.dropped.sum())} of {total[name]} filters removed")
        for plan in plans
        for name in plan.names
    ]
    return shrunk, changes, skips


def _make_plans(
    model: nn.Module, chosen: dict[str, _ConvNd], batch: Tensor, survivors: Survivors
) -> tuple[list[_Plan], list[Skip]]:
    pruning = _torch_pruning()
    traced = copy.deepcopy(model)
    for parameter in traced.parameters():
        parameter.requires_grad_(True)  # the graph is read off autograd's
    with running(traced), torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            graph = pruning.DependencyGraph().build_dependency(traced, batch.clone(), verbose=False)
        except Exception as error:
            raise CompressionError(f"Torch-Pruning cannot trace the model ({error}); use shrink=False") from error
    paths = {module: path for path, module in traced.named_modules()}
    names = {name.rpartition(".")[0]: name for name in chosen}
    plans: list[_Plan] = []
    skips: list[Skip] = []
    done: set[str] = set()
    owners = find_owners(model)
    for name, original in chosen.items():
        if name in done:
            continue
        if len(owners[id(original.weight)]) > 1:
            skips.append(Skip(name, "several layers share this weight: its filters are not removed"))
            continue
        layer = traced.get_submodule(name.rpartition(".")[0])
        try:
            plan = _plan(graph, layer, paths, names, survivors)
        except _Unfit as reason:
            skips.append(Skip(name, str(reason)))
            continue
        except Exception:
            skips.append(Skip(name, _UNFOLLOWED))
            continue
        done.update(plan.names)
        if bool(plan.dropped.any()):
            plans.append(plan)
        else:
            skips += [Skip(member, f"all {len(plan.dropped)} filters stay") for member in plan.names]
    return plans, skips


class _Unfit(Exception):
    """Why a group of layers cannot be shrunk."""


def _plan(graph: Any, layer: Any, paths: dict[nn.Module, str], names: dict[str, str], survivors: Survivors) -> _Plan:
    prune = graph.get_pruner_of_module(layer).prune_out_channels
    everything = list(range(layer.out_channels))
    convolutions = _producers(graph, graph.get_pruning_group(layer, prune, everything), everything, paths)
    unknown = [paths[member] for member in convolutions if paths[member] not in names]
    if unknown:
        raise _Unfit(f"its channels are shared with {', '.join(unknown)}, which must stay whole")
    dropped = ~survivors([member.weight for member in convolutions])
    indices = dropped.nonzero().flatten().tolist()
    cuts = []
    if indices:
        for dependency, positions in graph.get_pruning_group(layer, prune, indices):
            target = dependency.target.module
            if isinstance(target, nn.Module) and target in paths:
                plain = tuple(sorted(getattr(position, "idx", position) for position in positions))
                cuts.append(_Cut(paths[target], dependency.handler, plain))
    names_of = tuple(names[paths[member]] for member in convolutions)
    return _Plan(names_of, tuple(paths[member] for member in convolutions), dropped, tuple(cuts))


def _producers(graph: Any, group: Any, everything: list[int], paths: dict[nn.Module, str]) -> list[_ConvNd]:
    """Return the convolutions whose outputs are the channels of a group; raise _Unfit where others give them too."""
    members: list[_ConvNd] = []
    for dependency, positions in group:
        target = dependency.target.module
        if type(target).__name__ == "_OutputOp":
            raise _Unfit("its channels reach the model's output")
        if isinstance(target, nn.Parameter):
            raise _Unfit("its channels meet a parameter outside any layer")
        if target not in paths:
            continue
        grouped = isinstance(target, _ConvNd) and target.groups > 1
        if grouped and not target.groups == target.in_channels == target.out_channels:
            raise _Unfit(f"its channels meet the grouped convolution {paths[target]}")
        gives = graph.is_out_channel_pruning_fn(dependency.handler)
        if not gives or not list(target.parameters(recurse=False)):
            continue
        if isinstance(target, _BatchNorm):
            continue
        if not isinstance(target, _ConvNd):
            raise _Unfit(f"its channels are shared with {paths[target]}, a {type(target).__name__}")
        if sorted(getattr(position, "idx", position) for position in positions) != everything:
            raise _Unfit(_UNFOLLOWED)
        members.append(target)
    return list(dict.fromkeys(members))


def _is_sound(model: nn.Module, plans: Sequence[_Plan], batch: Tensor) -> bool:
    """Tell whether the model gives the same outputs with filters removed as with the same filters at zero."""
    try:
        shrunk, masked, exact = _apply(model, plans), _mask(model, plans), batch
        if find_casts(model) is None:  # else the arithmetic is the casts' own
            shrunk, masked, exact = shrunk.double(), masked.double(), batch.double()
        with running(shrunk), running(masked), torch.no_grad():
            outputs, expected = _flatten(shrunk(exact)), _flatten(masked(exact))
    except Exception:
        return False
    if len(outputs) != len(expected) or any(a.shape != b.shape for a, b in zip(outputs, expected, strict=True)):
        return False
    tolerance = 1e-9 if exact.dtype == torch.float64 and find_casts(model) is None else 2e-2
    return all(_close(a, b, tolerance) for a, b in zip(outputs, expected, strict=True))


def _depends_on_input(model: nn.Module, batch: Tensor) -> bool:
    with running(model), torch.no_grad():
        first, second = _flatten(model(batch)), _flatten(model(2 * batch + 1))
    return not all(map(torch.equal, first, second))


def _close(actual: Tensor, expected: Tensor, tolerance: float) -> bool:
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    return bool(torch.allclose(actual, expected, rtol=tolerance, atol=tolerance * max(scale, 1e-30)))


def _flatten(output: Any) -> list[Tensor]:
    leaves = pytree.tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _apply(model: nn.Module, plans: Iterable[_Plan]) -> nn.Module:
    shrunk = copy.deepcopy(model)
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    # indices are those of the whole layer: where several plans meet, as behind a concatenation, all go at once
    together: dict[tuple[str, Any], set[int]] = {}
    for plan in plans:
        for cut in plan.cuts:
            together.setdefault((cut.path, cut.prune), set()).update(cut.indices)
    for (path, prune), indices in together.items():
        prune(shrunk.get_submodule(path), sorted(indices))
    for name, parameter in shrunk.named_parameters():
        parameter.requires_grad_(trained[name])
    return shrunk


def _mask(model: nn.Module, plans: Iterable[_Plan]) -> nn.Module:
    from cp_compress.model.structure import zero_filters

    masked = copy.deepcopy(model)
    for plan in plans:
        for path in plan.producers:
            zero_filters([masked.get_submodule(path)], plan.dropped)
        for cut in plan.cuts:
            module = masked.get_submodule(cut.path)
            if isinstance(module, _BatchNorm):  # its channels may be those of several concatenated layers
                zero_filters([module], torch.tensor(cut.indices, device=plan.dropped.device))
    return masked


def _torch_pruning() -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise MissingExtraError("FilterPrune(shrink=True)", "shrink") from error
    return torch_pruning
