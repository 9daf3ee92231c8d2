"""Which layers share their channels, as Torch-Pruning traces it, or as the order of the calls suggests.

Nothing here is trusted by the caller: what is proposed is checked on a copy before it is done.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from cp_compress.base.errors import MissingExtraError
from cp_compress.model.layers import Owner, find_owners, is_transposed_linear, transposed_sizes
from cp_compress.model.record import Skip
from cp_compress.model.structure.cuts import Cut
from cp_compress.model.structure.ranking import Family, Target
from cp_compress.model.structure.units import is_depthwise, unit_count
from cp_compress.model.tracing import Trace, running

UNFOLLOWED = "its channels run through a padded, sliced or reshaped shortcut that Torch-Pruning cannot follow"
_MOST_CALLS = 10_000_000  # ordinary networks need up to 200,000
_REMOVABLE = (_ConvNd, nn.Linear, _BatchNorm, nn.PReLU)
_ATTENTION = "MultiheadAttention takes the size of its heads from that of its inputs"


@dataclass(frozen=True, eq=False)
class Proposal:
    """A family of layers, and what has to be cut everywhere when some of its units go."""

    family: Family
    cuts: Callable[[list[int]], tuple[Cut, ...]]


@dataclass(frozen=True)
class Grouping:
    """Families whose units may be removed, layers (by path) that can only be zeroed and why, and unchanged ones."""

    proposals: tuple[Proposal, ...]
    fixed: dict[str, str]
    left: tuple[Skip, ...]


class _Unfit(Exception):
    """Why the units of a layer cannot be removed."""


class _Output(Exception):
    """The units of a layer are the model's output."""


def find_groups(model: nn.Module, chosen: dict[str, Target], batch: Tensor, seen: Trace) -> Grouping:
    """Return which of the chosen layers, given by their paths, share their channels."""
    graph, traced, failure = _dependency_graph(model, batch)
    paths = {module: path for path, module in traced.named_modules()}
    owners = find_owners(model)
    proposals: list[Proposal] = []
    fixed: dict[str, str] = {}
    left: list[Skip] = []
    done: set[str] = set()
    for path, target in chosen.items():
        if path in done:
            continue
        layer = traced.get_submodule(path)
        try:
            _require_own(target, owners)
            if isinstance(layer, nn.RNNBase) or graph is None or layer not in graph.module2node:
                proposal = _follow_calls(model, target, chosen, seen, failure)
            else:
                proposal = _follow_graph(graph, layer, paths, chosen)
            for member in proposal.family.targets:
                _require_own(member, owners)
                if member.path in done or member.path in fixed:
                    raise _Unfit(f"its channels are shared with {member.path}, whose channels stay")
        except _Output:
            left += [Skip(name, "its channels reach the model's output") for name in target.names]
        except _Unfit as reason:
            fixed[path] = str(reason)
        except Exception:  # Torch-Pruning raises many types on graphs that it does not know: the layer is left whole
            fixed[path] = UNFOLLOWED
        else:
            done.update(member.path for member in proposal.family.targets)
            proposals.append(proposal)
    return Grouping(tuple(proposals), fixed, tuple(left))


def _require_own(target: Target, owners: dict[int, tuple[Owner, ...]]) -> None:
    """Raise _Unfit for a layer that shares its weight, and for one whose units are not its own to remove."""
    layer = target.layer
    if any(len(owners[id(weight)]) > 1 for weight in layer.parameters(recurse=False)):
        raise _Unfit("several layers share this weight")
    if isinstance(layer, (nn.MultiheadAttention, NonDynamicallyQuantizableLinear)):
        raise _Unfit(_ATTENTION)
    if isinstance(layer, nn.RNNCellBase):
        raise _Unfit(f"the model itself gives {type(layer).__name__} its hidden state")
    if isinstance(layer, nn.RNNBase) and layer.proj_size:
        raise _Unfit("the hidden units of a projected LSTM are not removed")


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


def _follow_graph(graph: Any, layer: Any, paths: dict[nn.Module, str], chosen: dict[str, Target]) -> Proposal:
    prune = graph.get_pruner_of_module(layer).prune_out_channels
    _members(graph, _group(graph, layer, prune, [0]), None, paths)  # a hundred times faster where it is unfit
    everything = list(range(unit_count(layer)))
    members, parts = _members(graph, _group(graph, layer, prune, everything), everything, paths)
    unknown = [path for path in members if path not in chosen]
    if unknown:
        raise _Unfit(f"its channels are shared with {', '.join(unknown)}, which must stay whole")

    def cuts(indices: list[int]) -> tuple[Cut, ...]:
        found = []
        for dependency, positions in graph.get_pruning_group(layer, prune, indices):
            target = dependency.target.module
            if isinstance(target, _REMOVABLE) and target in paths:
                reads = graph.is_in_channel_pruning_fn(dependency.handler) and isinstance(target, (_ConvNd, nn.Linear))
                found.append(Cut(paths[target], reads, _plain(positions)))
        return tuple(found)

    return Proposal(Family.of([chosen[path] for path in members], parts), cuts)


def _group(graph: Any, layer: Any, prune: Any, indices: list[int]) -> Any:
    """Return what Torch-Pruning says must go with some channels; raise _Unfit if it does not finish.

    Behind windows that are rolled and reshaped its lists double at each step. Calls are counted, and not seconds, so
    that the answer does not depend on the machine.
    """
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > _MOST_CALLS:
            raise _Unfit("Torch-Pruning does not finish its list of the layers that share its channels")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return graph.get_pruning_group(layer, prune, indices)
    finally:
        sys.setprofile(before)


def _members(
    graph: Any, group: Any, everything: list[int] | None, paths: dict[nn.Module, str]
) -> tuple[list[str], int]:
    """Return the layers whose outputs are the channels of a group, and into how many parts readers divide them.

    `everything` are all channels of the group, or None when only some of them are looked at.
    """
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
        if everything is None:
            continue
        whole = list(_plain(positions)) == everything
        if graph.is_out_channel_pruning_fn(dependency.handler) or is_depthwise(target):
            if not whole or unit_count(target) != len(everything):
                raise _Unfit(UNFOLLOWED)
            members.append(paths[target])
        elif isinstance(target, _ConvNd) and target.groups > 1:
            if not whole or target.in_channels != len(everything):
                raise _Unfit(f"its channels are some of those of the grouped convolution {paths[target]}")
            parts = target.groups
    return list(dict.fromkeys(members)), parts


def _plain(positions: Any) -> tuple[int, ...]:
    return tuple(sorted(getattr(position, "idx", position) for position in positions))


def _follow_calls(model: nn.Module, target: Target, chosen: dict[str, Target], seen: Trace, failure: str) -> Proposal:
    """Propose that the layer called next, behind depthwise ones, reads all channels of a layer and no other does."""
    members = [target]
    following = list(seen.order[seen.order.index(target.layer) + 1 :])
    while following and is_depthwise(following[0]):  # its channels are those that it reads
        member = next((other for other in chosen.values() if other.layer is following[0]), None)
        if member is None:
            break
        members.append(member)
        following.pop(0)
    given = _given(target.layer)
    reads = _read(following[0]) if following else 0
    # images are flattened channel by channel
    whole = bool(following) and isinstance(following[0], nn.Linear) and isinstance(target.layer, _ConvNd)
    if not given or reads == 0 or reads % len(given) or (reads != len(given) and not whole):
        raise _Unfit(f"{failure}, and the layer called next does not read its channels alone")
    reader, width = following[0], reads // len(given)
    paths = {module: path for path, module in model.named_modules()}
    layers = [module for member in members for module in (member.layer, *seen.norms.get(member.layer, ()))]

    def cuts(indices: list[int]) -> tuple[Cut, ...]:
        gone = set(indices)
        own = [Cut(paths[layer], False, tuple(indices)) for layer in layers]
        positions = [position for position, unit in enumerate(given) if unit in gone]
        read = [position * width + place for position in positions for place in range(width)]
        return (*own, Cut(paths[reader], True, tuple(read)))

    return Proposal(Family.of(members), cuts)


def _given(layer: nn.Module) -> range:
    """Return which units of a layer are its outputs: of a recurrent layer, those of the last level."""
    units = unit_count(layer)
    if isinstance(layer, nn.RNNBase):
        return range(units - layer.hidden_size * (2 if layer.bidirectional else 1), units)
    return range(units)


def _read(reader: nn.Module) -> int:
    if isinstance(reader, _ConvNd):
        return reader.in_channels if reader.groups == 1 else 0
    if isinstance(reader, nn.RNNBase):
        return reader.input_size
    if is_transposed_linear(reader):
        return transposed_sizes(reader)[0]
    return reader.in_features if isinstance(reader, nn.Linear) else 0
