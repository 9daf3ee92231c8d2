"""Which layers share their channels, as Torch-Pruning traces it, or as the order of the calls suggests.

Nothing here is trusted by the caller: what is proposed is checked on a copy before it is done.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from cp_compress.base.errors import MissingExtraError
from cp_compress.model.layers import find_owners
from cp_compress.model.ranking import Family
from cp_compress.model.steps import Skip
from cp_compress.model.tracing import Trace, running
from cp_compress.model.units import is_depthwise, unit_count

UNFOLLOWED = "its channels run through a padded, sliced or reshaped shortcut that Torch-Pruning cannot follow"
_REMOVABLE = (_ConvNd, nn.Linear, _BatchNorm, nn.PReLU)


@dataclass(frozen=True)
class Cut:
    """One layer's share in the removal of units: those that it gives, or those that it reads."""

    path: str
    inputs: bool
    indices: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Proposal:
    """A family of layers, and what has to be cut everywhere when some of its units go."""

    family: Family
    cuts: Callable[[list[int]], tuple[Cut, ...]]


@dataclass(frozen=True)
class Grouping:
    """Families whose units may be removed, weights that can only be zeroed and why, and those to be left alone."""

    proposals: tuple[Proposal, ...]
    fixed: dict[str, str]
    left: tuple[Skip, ...]


class _Unfit(Exception):
    """Why the units of a layer cannot be removed."""


class _Output(Exception):
    """The units of a layer are the model's output."""


def find_groups(model: nn.Module, chosen: dict[str, nn.Module], batch: Tensor, seen: Trace) -> Grouping:
    """Return how the chosen layers (by the names of their weights) hang together."""
    graph, traced, failure = _dependency_graph(model, batch)
    paths = {module: path for path, module in traced.named_modules()}
    names = {name.rpartition(".")[0]: name for name in chosen}
    owners = find_owners(model)
    proposals: list[Proposal] = []
    fixed: dict[str, str] = {}
    left: list[Skip] = []
    done: set[str] = set()
    for name, original in chosen.items():
        if name in done:
            continue
        if len(owners[id(original.weight)]) > 1:
            fixed[name] = "several layers share this weight"
            continue
        path = name.rpartition(".")[0]
        try:
            if graph is None or traced.get_submodule(path) not in graph.module2node:
                proposal = _follow_calls(model, name, original, seen, failure)
            else:
                proposal = _follow_graph(graph, traced.get_submodule(path), paths, names, chosen)
        except _Output:
            left.append(Skip(name, "its channels reach the model's output"))
        except _Unfit as reason:
            fixed[name] = str(reason)
        except Exception:
            fixed[name] = UNFOLLOWED
        else:
            done.update(proposal.family.names)
            proposals.append(proposal)
    return Grouping(tuple(proposals), fixed, tuple(left))


def _dependency_graph(model: nn.Module, batch: Tensor) -> tuple[Any, nn.Module, str]:
    try:
        import torch_pruning
    except ImportError as error:
        raise MissingExtraError("shrink=True", "shrink") from error
    traced = copy.deepcopy(model)
    for parameter in traced.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # the graph is read off autograd's
    with running(traced), torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            graph = torch_pruning.DependencyGraph().build_dependency(traced, batch.clone(), verbose=False)
        except Exception as error:
            return None, traced, f"Torch-Pruning cannot trace the model ({error})"
    return graph, traced, "Torch-Pruning does not see the layer"


def _follow_graph(
    graph: Any, layer: Any, paths: dict[nn.Module, str], names: dict[str, str], chosen: dict[str, nn.Module]
) -> Proposal:
    prune = graph.get_pruner_of_module(layer).prune_out_channels
    everything = list(range(unit_count(layer)))
    members, parts = _members(graph, graph.get_pruning_group(layer, prune, everything), everything, paths)
    unknown = [path for path in members if path not in names]
    if unknown:
        raise _Unfit(f"its channels are shared with {', '.join(unknown)}, which must stay whole")
    weights = [names[path] for path in members]

    def cuts(indices: list[int]) -> tuple[Cut, ...]:
        found = []
        for dependency, positions in graph.get_pruning_group(layer, prune, indices):
            target = dependency.target.module
            if isinstance(target, _REMOVABLE) and target in paths:
                reads = graph.is_in_channel_pruning_fn(dependency.handler) and isinstance(target, (_ConvNd, nn.Linear))
                found.append(Cut(paths[target], reads, _plain(positions)))
        return tuple(found)

    return Proposal(Family.of(weights, [chosen[name] for name in weights], parts), cuts)


def _members(graph: Any, group: Any, everything: list[int], paths: dict[nn.Module, str]) -> tuple[list[str], int]:
    """Return the layers whose outputs are the channels of a group, and into how many parts readers divide them."""
    members: list[str] = []
    parts = 1
    for dependency, positions in group:
        target = dependency.target.module
        if type(target).__name__ == "_OutputOp":
            raise _Output
        if isinstance(target, nn.Parameter):
            raise _Unfit("its channels meet a parameter outside any layer")
        if target not in paths or not list(target.parameters(recurse=False)):
            continue
        if not isinstance(target, _REMOVABLE):
            raise _Unfit(f"its channels are shared with {paths[target]}, a {type(target).__name__}")
        if isinstance(target, (_BatchNorm, nn.PReLU)):
            continue
        whole = list(_plain(positions)) == everything
        if graph.is_out_channel_pruning_fn(dependency.handler) or is_depthwise(target):
            if not whole:
                raise _Unfit(UNFOLLOWED)
            members.append(paths[target])
        elif isinstance(target, _ConvNd) and target.groups > 1:
            if not whole or target.in_channels != len(everything):
                raise _Unfit(f"its channels are some of those of the grouped convolution {paths[target]}")
            parts = target.groups
    return list(dict.fromkeys(members)), parts


def _plain(positions: Any) -> tuple[int, ...]:
    return tuple(sorted({getattr(position, "idx", position) for position in positions}))


def _follow_calls(model: nn.Module, name: str, layer: nn.Module, seen: Trace, failure: str) -> Proposal:
    """Propose that the layer called next reads all channels of a layer, and nothing else does."""
    following = seen.order[seen.order.index(layer) + 1 :]
    units = unit_count(layer)
    if not following:
        raise _Unfit(failure)
    reader = following[0]
    paths = {module: path for path, module in model.named_modules()}
    reads: int = reader.in_channels if isinstance(reader, _ConvNd) else reader.in_features  # type: ignore[assignment]
    if reads % units or (isinstance(reader, _ConvNd) and (reader.groups > 1 or reads != units)):
        raise _Unfit(f"{failure}, and the layer called next does not read its channels alone")
    width = reads // units
    norms = seen.norms.get(layer, ())

    def cuts(indices: list[int]) -> tuple[Cut, ...]:
        own = [Cut(paths[member], False, tuple(indices)) for member in (layer, *norms)]
        read = tuple(index * width + place for index in indices for place in range(width))
        return (*own, Cut(paths[reader], True, read))

    return Proposal(Family.of([name], [layer]), cuts)
