"""Attention that is made of linear layers: how many heads it has, and which numbers of a module say so.

A module is known by what it holds, not by its class: linear layers for queries, keys and values, together or one each,
and whole numbers that are named after heads. Whether it computes as its names say is for its caller to check.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from cp_compress.model.layers import is_linear, is_transposed_linear, transposed_sizes

_ROLE = r"(?:\w+_)?(?:to_|w_?)?{letter}(?:{word})?(?:_\w+)?"
_ROLES = {
    "query": re.compile(_ROLE.format(letter="q", word="uery")),
    "key": re.compile(_ROLE.format(letter="k", word="ey")),
    "value": re.compile(_ROLE.format(letter="v", word="alue")),
}
_FUSED = re.compile(r"\w*(?:qkv|query_key_value|c_attn)\w*", re.IGNORECASE)
_BY_GROUP = "query_key_value"  # GPT-NeoX, BLOOM and Falcon hold the rows of one group next to one another
_WIDTHS = frozenset({"all_head_size", "inner_dim", "attn_dim", "split_size", "attention_dim", "q_size", "inner_size"})
_FUSED_WIDTHS = frozenset({"embed_dim", "n_embd", "hidden_size"})  # by which a fused result is split
_NARROW = frozenset({"kv_size", "kv_dim"})
_RATIOS = frozenset({"num_key_value_groups", "num_kv_groups", "n_rep", "num_queries_per_kv"})
_HIDDEN = frozenset({"intermediate_size", "ffn_dim", "n_inner", "dim_feedforward", "mlp_dim", "ffn_hidden_size"})
_DIM = re.compile(r"dim|size|channels|^d_")
_FEW = re.compile(r"kv|key_value")


@dataclass(frozen=True)
class Projections:
    """The linear layers of one attention module, by their names in it, and the sizes of its heads.

    `fused` is the one layer that gives queries, keys and values, or None where `separate` gives one each. Of `heads`
    query heads as many share each of `groups` key and value heads; each head has `width` channels.
    """

    fused: str | None
    separate: tuple[str, ...]
    heads: int
    groups: int
    width: int

    @property
    def by_group(self) -> bool:
        """Whether a fused layer holds the rows of one group next to one another, and not all queries first."""
        return self.fused is not None and _BY_GROUP in self.fused

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the layers that give queries, keys and values."""
        return self.separate if self.fused is None else (self.fused,)


def find_projections(module: nn.Module) -> Projections | None:
    """Return the projections of an attention module, or None for a module that does not look like one.

    >>> class Attention(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.head_dim, self.q_proj = 4, nn.Linear(16, 16)
    ...         self.k_proj, self.v_proj = nn.Linear(16, 8), nn.Linear(16, 8)
    >>> found = find_projections(Attention())
    >>> found.heads, found.groups, found.width
    (4, 2, 4)
    """
    numbers = whole_numbers(module)
    told = {name: value for name, value in numbers.items() if "head" in name.lower() or name == "key_value_proj_dim"}
    layers = {name: child for name, child in module.named_children() if is_linear(child)}
    if not told or not layers:
        return None
    widths = [value for name, value in told.items() if _DIM.search(name) and name not in _WIDTHS]
    counts = [value for name, value in told.items() if _is_count(name) and not _FEW.search(name)]
    few = [value for name, value in told.items() if _is_count(name) and _FEW.search(name)]
    fused = [name for name in layers if _FUSED.fullmatch(name)]
    if len(fused) == 1:
        return _of_fused(fused[0], linear_sizes(layers[fused[0]])[1], widths, counts, few)
    separate = [[name for name in layers if role.fullmatch(name)] for role in _ROLES.values()]
    if fused or any(len(names) != 1 for names in separate):
        return None
    names = tuple(name for found in separate for name in found)
    queries, keys, values = (linear_sizes(layers[name])[1] for name in names)
    width = widths[0] if widths else queries // counts[0] if counts else 0
    return _checked(None, names, queries, keys, width) if keys == values else None


def looks_like_attention(module: nn.Module) -> bool:
    """Tell whether a module is named attention and counts heads, in whichever way it computes."""
    name = type(module).__name__.lower()
    return ("attention" in name or "attn" in name) and any(map(_is_count, whole_numbers(module)))


def whole_numbers(module: nn.Module) -> dict[str, int]:
    """Return the attributes of a module that are whole numbers above zero."""
    return {name: value for name, value in vars(module).items() if type(value) is int and value > 0}


def size_names(module: nn.Module) -> list[str]:
    """Return the attributes of a module that may tell how many heads or hidden neurons it has."""
    return [name for name in whole_numbers(module) if _is_size(name)]


def attention_sizes(module: nn.Module, found: Projections) -> Iterator[tuple[str, int]]:
    """Yield the attributes that change with the number of units, and by how much for each.

    A unit is a key/value head with the query heads that share it, or one query head where all share one.
    """
    shared = found.groups == 1 and found.heads > 1
    queries = 1 if shared else found.heads // found.groups
    for name, value in whole_numbers(module).items():
        if name in _RATIOS:
            if shared and value == found.heads:
                yield name, 1
        elif name in _WIDTHS or (found.fused is not None and name in _FUSED_WIDTHS):
            if value == found.heads * found.width:
                yield name, queries * found.width
        elif name in _NARROW:
            if not shared and value == found.groups * found.width:
                yield name, found.width
        elif _is_count(name) and _FEW.search(name):
            if not shared and value == found.groups:
                yield name, 1
        elif _is_count(name) and value == found.heads:
            yield name, queries


def hidden_sizes(module: nn.Module, neurons: int) -> Iterator[tuple[str, int]]:
    """Yield the attributes of a module that tell its number of hidden neurons, and by how much each changes it."""
    yield from ((name, 1) for name, value in whole_numbers(module).items() if name in _HIDDEN and value == neurons)


def linear_sizes(layer: Any) -> tuple[int, int]:
    """Return the numbers of inputs and outputs of a linear layer."""
    return transposed_sizes(layer) if is_transposed_linear(layer) else (layer.in_features, layer.out_features)


def _of_fused(name: str, rows: int, widths: list[int], counts: list[int], few: list[int]) -> Projections | None:
    if widths:
        groups = few[0] if few else rows // (3 * widths[0])
        return _checked(name, (), rows - 2 * groups * widths[0], groups * widths[0], widths[0])
    if not counts:
        return None
    width = rows // (counts[0] + 2 * (few[0] if few else counts[0]))
    keys = (few[0] if few else counts[0]) * width
    return _checked(name, (), rows - 2 * keys, keys, width)


def _checked(fused: str | None, separate: tuple[str, ...], queries: int, keys: int, width: int) -> Projections | None:
    if width < 1 or queries < 1 or keys < 1 or queries % width or keys % width or queries % keys:
        return None
    return Projections(fused, separate, queries // width, keys // width, width)


def _is_count(name: str) -> bool:
    return "head" in name and not _DIM.search(name) and name not in _RATIOS


def _is_size(name: str) -> bool:
    return name in _WIDTHS | _FUSED_WIDTHS | _NARROW | _RATIOS | _HIDDEN or _is_count(name)
