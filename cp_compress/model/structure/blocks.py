"""The parts of a transformer whose units go together: heads of attention, and the neurons of feed-forward layers.

Nothing here is trusted by the caller: what is proposed is checked on a copy before it is done.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.model.layers import find_owners, is_linear
from cp_compress.model.record import Skip
from cp_compress.model.representations.attention_heads import (
    Projections,
    attention_sizes,
    find_projections,
    hidden_sizes,
    linear_sizes,
)
from cp_compress.model.representations.configurations import GROUPS, HEADS, NEURONS, nearest_config, tell_config
from cp_compress.model.structure.criteria import unit_strengths
from cp_compress.model.structure.cuts import Cut, Plan, Size
from cp_compress.model.structure.ranking import Target
from cp_compress.model.structure.units import channel_rows, unit_count
from cp_compress.model.tracing import Trace

_HIDDEN = "it gives the hidden width, which all blocks read and norms see as a whole"


@dataclass(frozen=True, eq=False)
class Share:
    """The channels of one layer that belong to the units of a block: (units, channels of each)."""

    path: str
    layer: nn.Module
    inputs: bool
    places: Tensor


@dataclass(frozen=True, eq=False)
class Block:
    """Units that go as a whole, with all that gives and reads them.

    `given` are the channels that give the units, `read` those that read them, and `sizes` how much each attribute of a
    module loses with one unit. Where `silent` is set, a unit whose inputs are zero may still give something, so that
    what reads it counts as part of it. `told` are the names under which a configuration tells the number of units, each
    with how much one makes of it; `whole` are the paths of layers that all units share, and `width` is the number of
    channels of one head.
    """

    word: str
    names: tuple[str, ...]
    given: tuple[Share, ...]
    read: tuple[Share, ...]
    sizes: tuple[Size, ...]
    silent: bool
    told: tuple[tuple[tuple[str, ...], int], ...] = ()
    whole: tuple[str, ...] = ()
    width: int = 1
    parts: int = 1

    @property
    def words(self) -> tuple[tuple[str, str], ...]:
        """The names of the weights that give the units, each with what its units are called."""
        return tuple((name, self.word) for name in self.names)

    @property
    def units(self) -> int:
        """How many there were."""
        return len(self.given[0].places)

    @property
    def left(self) -> int:
        """How many there are now."""
        reader = self.read[0]
        return linear_sizes(reader.layer)[0] // reader.places.shape[1]

    def strengths(self, criterion: str) -> Tensor:
        """Return the strength of each unit, of all that gives it together, (units,)."""
        rows = []
        for share in self.given:
            weights = channel_rows(share.layer)
            rows.append(weights[share.places.to(weights.device)].flatten(1).cpu())
        return unit_strengths(rows, criterion)

    def alignment(self, round_to: int) -> int:
        """Return of what the number of units that stay has to be a multiple, for that of channels to be one."""
        width = self.read[0].places.shape[1]
        return round_to // math.gcd(round_to, width)

    def plan(self, kept: Tensor) -> Plan:
        """Return the removal of the units that do not stay."""
        zeros = self.cuts(~kept) if self.silent else self.cuts(~kept, reads=False)
        count = int(kept.sum())
        sizes = tuple((size.path, size.name, size.each * count) for size in self.sizes)
        return Plan((), ~kept, self.cuts(~kept), zeros, sizes)

    def cuts(self, dropped: Tensor, reads: bool = True) -> tuple[Cut, ...]:
        """Return what goes with some units, without what reads them where `reads` is False."""
        shares = (*self.given, *self.read) if reads else self.given
        return tuple(Cut(one.path, one.inputs, tuple(sorted(one.places[dropped].flatten().tolist()))) for one in shares)


def find_blocks(model: nn.Module, seen: Trace) -> list[Block]:
    """Return the blocks of a model that has attention made of linear layers, in the order of its calls."""
    paths = {module: path for path, module in model.named_modules()}
    order = [layer for layer in seen.order if layer in paths]
    blocks = [block for path, module in model.named_modules() for block in _attention(path, module, order, paths)]
    if not blocks:
        return []
    taken = {share.layer for block in blocks for share in (*block.given, *block.read)}
    return [*blocks, *_feed_forward(model, order, paths, taken)]


def split_blocks(
    model: nn.Module, seen: Trace, chosen: Mapping[str, Target]
) -> tuple[list[Block], dict[str, Target], list[Skip]]:
    """Return the blocks of a transformer to prune, the chosen layers outside of them, and the layers that stay whole.

    What all blocks read and give, the hidden width, is never made smaller: a norm would see it.
    """
    found = find_blocks(model, seen)
    if not found:
        return [], dict(chosen), []
    owners = find_owners(model)
    rest = dict(chosen)
    skips: list[Skip] = []
    blocks = []
    for block in found:
        own = [share.path for share in block.given]
        tied = [one.path for one in (*block.given, *block.read) if len(owners[id(one.layer.weight)]) > 1]
        reason = f"several layers share the weight of {tied[0]}" if tied else ""
        if missing := [path for path in own if path not in chosen]:
            reason = f"its {block.word} go together with those of {', '.join(missing)}, which stay whole"
        if not reason:
            blocks.append(block)
        gone = {path: rest.pop(path) for path in own if path in rest}
        skips += [Skip(name, reason) for target in gone.values() for name in target.names if reason]
    widths = hidden_width(found)
    shared = {path for block in found for path in block.whole}
    for path, target in list(rest.items()):
        if path in shared:
            skips += [Skip(name, "all heads share what it gives") for name in rest.pop(path).names]
        elif unit_count(target.layer) in widths:
            skips += [Skip(name, _HIDDEN) for name in rest.pop(path).names]
    return blocks, rest, skips


def settle_configs(model: nn.Module, blocks: Sequence[Block]) -> None:
    """Let the configurations of a model say what all its blocks have, in place; where these differ, they stay."""
    found: dict[tuple[int, tuple[str, ...]], tuple[Any, set[tuple[int, int]]]] = {}
    for block in blocks:
        config = nearest_config(model, block.given[0].path)
        for names, each in block.told if config is not None else ():
            if block.word == "neurons" or getattr(config, "head_dim", None) == block.width:
                sizes = found.setdefault((id(config), names), (config, set()))[1]
                sizes.add((each * block.units, each * block.left))
    for (_, names), (config, told) in found.items():
        if len(told) == 1:
            tell_config(config, names, *told.pop())


def hidden_width(blocks: Sequence[Block]) -> set[int]:
    """Return the sizes of what the blocks of a model read and give: of the channels that all of them share."""
    return {linear_sizes(share.layer)[1] for block in blocks for share in block.read}


def _attention(
    path: str, module: nn.Module, order: Sequence[nn.Module], paths: dict[nn.Module, str]
) -> Iterator[Block]:
    found = find_projections(module)
    layers = [] if found is None else [module.get_submodule(name) for name in found.names]
    if found is None or not all(layer in order for layer in layers):
        return
    following = order[max(map(order.index, layers)) + 1 :]
    if not following or not is_linear(following[0]) or linear_sizes(following[0])[0] != found.heads * found.width:
        return
    given = tuple(
        Share(paths[layer], layer, False, places)
        for layer, places in zip(layers, _given_places(found), strict=True)
        if places.numel()
    )
    read = Share(paths[following[0]], following[0], True, _by_head(found.heads, found.width, _units(found)))
    sizes = tuple(Size(path, name, each) for name, each in attention_sizes(module, found))
    word = "key/value groups" if 1 < found.groups < found.heads else "heads"
    shared = found.groups == 1 and found.heads > 1
    told = [(HEADS, found.heads // len(read.places)), *([] if shared else [(GROUPS, 1)])]
    whole = tuple(paths[layer] for layer in layers[1:] if shared)
    yield Block(word, _weights(given), given, (read,), sizes, True, tuple(told), whole, found.width)


def _weights(given: Sequence[Share]) -> tuple[str, ...]:
    return tuple(f"{share.path}.weight" for share in given)


def _units(found: Projections) -> int:
    """Return how many units attention has: its key/value heads, or its query heads where all share one."""
    return found.heads if found.groups == 1 else found.groups


def _by_head(heads: int, width: int, units: int) -> Tensor:
    return torch.arange(heads * width).view(units, -1)


def _given_places(found: Projections) -> list[Tensor]:
    """Return which channels of each layer belong to each unit, (units, channels)."""
    units, shared = _units(found), found.groups == 1 and found.heads > 1
    queries = _by_head(found.heads, found.width, units)
    keys = torch.zeros(units, 0, dtype=torch.long) if shared else _by_head(found.groups, found.width, units)
    if found.fused is None:
        return [queries, keys, keys]
    if found.by_group and not shared:
        return [_by_head(found.heads + 2 * found.groups, found.width, units)]
    start = found.heads * found.width
    return [torch.cat([queries, *([] if shared else [keys + start, keys + start + found.groups * found.width])], 1)]


def _feed_forward(
    model: nn.Module, order: Sequence[nn.Module], paths: dict[nn.Module, str], taken: set[nn.Module]
) -> Iterator[Block]:
    for place, reader in enumerate(order):
        before = list(order[max(0, place - 2) : place])
        if reader in taken or not is_linear(reader) or not before or not is_linear(before[-1]) or before[-1] in taken:
            continue
        neurons, width = linear_sizes(reader)
        layers, each = _givers(before, neurons, width, taken)
        if not layers:
            continue
        places = torch.arange(each * neurons).view(each, neurons).t()
        given = tuple(Share(paths[layer], layer, False, places) for layer in layers)
        read = Share(paths[reader], reader, True, torch.arange(neurons)[:, None])
        parent = paths[reader].rpartition(".")[0]
        sizes = tuple(Size(parent, *size) for size in hidden_sizes(model.get_submodule(parent), neurons))
        taken.update((*layers, reader))
        yield Block("neurons", _weights(given), given, (read,), sizes, False, ((NEURONS, 1),))


def _givers(
    before: Sequence[nn.Module], neurons: int, width: int, taken: set[nn.Module]
) -> tuple[list[nn.Module], int]:
    """Return the layers that give the neurons which a layer reads, and how many channels of each make one."""
    last = before[-1]
    both = len(before) == 2 and is_linear(before[0]) and before[0] not in taken
    if both and all(linear_sizes(layer) == (width, neurons) for layer in before):
        return list(before), 1
    if linear_sizes(last) == (width, neurons):
        return [last], 1
    return ([last], 2) if linear_sizes(last) == (width, 2 * neurons) else ([], 0)
