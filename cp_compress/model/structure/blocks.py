"""The parts of a transformer whose units go together: heads of attention, and the neurons of feed-forward layers.

Nothing here is trusted by the caller: what is proposed is checked on a copy before it is done.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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
    looks_like_attention,
)
from cp_compress.model.representations.configurations import GROUPS, HEADS, NEURONS, nearest_config
from cp_compress.model.representations.fewer_heads import can_lose_heads
from cp_compress.model.structure.criteria import unit_strengths
from cp_compress.model.structure.cuts import Cut, Plan, Size, Told
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
    module loses with one unit. `told` is what configurations say of one unit, `whole` are the paths of layers that all
    units share, and `names` those of the weights that give the units.
    """

    word: str
    given: tuple[Share, ...]
    read: tuple[Share, ...]
    sizes: tuple[Size, ...]
    told: tuple[Told, ...] = ()
    whole: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    parts: int = 1

    @property
    def words(self) -> tuple[tuple[str, str], ...]:
        """The names of the weights that give the units, each with what its units are called."""
        return tuple((name, self.word) for name in self.names)

    @property
    def units(self) -> int:
        """How many there were."""
        return len(self.given[0].places)

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
        shares = (*self.given, *self.read)
        cuts = [Cut(one.path, one.inputs, tuple(sorted(one.places[~kept].flatten().tolist()))) for one in shares]
        count = int(kept.sum())
        sizes = tuple((size.path, size.name, size.each * count) for size in self.sizes)
        told = tuple(replace(one, before=one.before * len(kept), after=one.after * count) for one in self.told)
        return Plan((), ~kept, tuple(cuts), tuple(cuts), sizes, told)


def find_blocks(model: nn.Module, seen: Trace) -> list[Block]:
    """Return the blocks of a transformer: attention, and then feed-forward layers in the order of their calls."""
    paths = {module: path for path, module in model.named_modules()}
    order = [layer for layer in seen.order if layer in paths]
    blocks: list[Block] = []
    for path, module in model.named_modules():
        of_torch = isinstance(module, nn.MultiheadAttention)
        blocks += _torch_attention(path, module, order) if of_torch else _attention(path, module, order, paths)
    taken = {share.layer for block in blocks for share in (*block.given, *block.read)}
    found = list(_feed_forward(model, seen, paths, taken))
    # two layers one after the other are in any network; those of a transformer are near attention or gates
    gated = any(len(block.given) > 1 for block in found)
    if not (blocks or gated or any(map(looks_like_attention, model.modules()))):
        return []
    blocks += found
    places = {(block, one): nearest_config(model, block.given[0].path) for block in blocks for one in block.told}
    counts = Counter((path, one.names) for (_, one), path in places.items())
    return [
        replace(
            block,
            told=tuple(
                replace(one, path=path, blocks=counts[path, one.names])
                for one in block.told
                if (path := places[block, one]) is not None
            ),
        )
        for block in blocks
    ]


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
        parts = [
            (one.path, part) for one in (*block.given, *block.read) for part in one.layer.parameters(recurse=False)
        ]
        tied = [path for path, part in parts if len(owners[id(part)]) > 1]
        reason = f"several layers share the weight of {tied[0]}" if tied else ""
        if missing := [path for path in own if path not in chosen]:
            reason = f"its {block.word} go together with those of {', '.join(missing)}, which stay whole"
        if not reason:
            blocks.append(replace(block, names=tuple(name for path in own for name in chosen[path].names)))
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
    told = [_told(HEADS, found.heads // len(read.places), found.width)]
    told += [] if shared else [_told(GROUPS, 1, found.width)]
    whole = tuple(paths[layer] for layer in layers[1:] if shared)
    yield Block(word, given, (read,), sizes, tuple(told), whole)


def _torch_attention(path: str, module: nn.MultiheadAttention, order: Sequence[nn.Module]) -> Iterator[Block]:
    if module in order and can_lose_heads(module):
        places = _by_head(module.num_heads, module.head_dim, module.num_heads)
        read = Share(f"{path}.out_proj".lstrip("."), module.out_proj, True, places)
        yield Block("heads", (Share(path, module, False, places),), (read,), ())


def _told(names: tuple[str, ...], each: int, width: int | None) -> Told:
    return Told("", names, each, each, width, 0)


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


def _feed_forward(model: nn.Module, seen: Trace, paths: dict[nn.Module, str], taken: set[nn.Module]) -> Iterator[Block]:
    order = [layer for layer in seen.order if layer in paths]
    for place, reader in enumerate(order):
        before = list(order[max(0, place - 2) : place])
        if reader in taken or not is_linear(reader) or not before or not is_linear(before[-1]) or before[-1] in taken:
            continue
        neurons, width = linear_sizes(reader)
        gated = len(before) == 2 and before[0] not in taken and seen.reads.get(before[0]) == seen.reads.get(before[1])
        layers, each = _givers(before if gated else before[-1:], neurons, width)
        if not layers:
            continue
        places = torch.arange(each * neurons).view(each, neurons).t()
        given = tuple(Share(paths[layer], layer, False, places) for layer in layers)
        read = Share(paths[reader], reader, True, torch.arange(neurons)[:, None])
        parent = paths[reader].rpartition(".")[0]
        sizes = tuple(Size(parent, *size) for size in hidden_sizes(model.get_submodule(parent), neurons))
        taken.update((*layers, reader))
        yield Block("neurons", given, (read,), sizes, (_told(NEURONS, 1, None),))


def _givers(before: Sequence[nn.Module], neurons: int, width: int) -> tuple[list[nn.Module], int]:
    """Return the layers that give the neurons which a layer reads, and how many channels of each make one."""
    last = before[-1]
    if len(before) == 2 and all(is_linear(layer) and linear_sizes(layer) == (width, neurons) for layer in before):
        return list(before), 1
    if linear_sizes(last) == (width, neurons):
        return [last], 1
    return ([last], 2) if linear_sizes(last) == (width, 2 * neurons) else ([], 0)
