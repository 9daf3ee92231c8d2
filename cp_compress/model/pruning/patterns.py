"""Pruning in patterns that hardware can use: whole blocks of a weight matrix, and n of every m neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvTransposeNd

from cp_compress.base.arguments import explains_keywords
from cp_compress.model.layers import Owner, Weight, is_transposed_linear
from cp_compress.model.pruning.largest import keep_largest
from cp_compress.model.pruning.magnitude import kept_count
from cp_compress.model.pruning.zeroing import mask_weights
from cp_compress.model.record import Skip
from cp_compress.model.scheme import Piped
from cp_compress.model.settings import BlockPruneSettings, NMPruneSettings

if TYPE_CHECKING:
    from torch import nn

_PIECE = 1 << 22


@explains_keywords
@dataclass(frozen=True, repr=False)
class BlockPrune(Piped, BlockPruneSettings):
    """Keep the share `density` of the blocks of all weights, those of the largest norm, and set the others to zero.

    Exactly round(density·blocks) stay, halves rounded up and never fewer than one; of equal norms the first by index.
    The weight matrix of a layer has the weight's first dimension as rows (output channels, except in transposed
    convolutions; in `Conv1D` of transformers the second) and all others, in row-major order, as columns. Sizes that do
    not divide are padded: blocks at an edge are smaller, and their norm is that of the weights in them. Definition:
    block pruning as in Condensa (Joseph et al. 2020), with padding.

    Args:
        density: The share of the blocks to keep, in (0, 1].
        block_size: The (rows, columns) of a block in the weight matrix, or one size for each dimension of the weight;
            weights with another number of dimensions are then skipped.
        norm: The norm by which blocks are ranked: "l1", "l2", "max", or "mean" of the magnitudes.
        scope: "global" counts the blocks of all weight matrices together, "layer" those of each one separately.
        include: Patterns on the paths or types of layers, as in `Prune`.
        exclude: Patterns of the layers to leave unchanged.

    Raises:
        InvalidArgumentError: If an argument is not as described.

    >>> from torch import nn
    >>> BlockPrune(0.25, (2, 2)).compress(nn.Linear(4, 4)).weight.count_nonzero().item()
    4
    """

    leaves: ClassVar[tuple[str, ...]] = ("zeros", "pattern")
    undoes: ClassVar[tuple[str, ...]] = ()

    def compress(self, model: nn.Module) -> nn.Module:
        """Return a pruned copy of the model; raises as `Prune.compress`."""
        return mask_weights(self, model, self._zero, must_change=self.density < 1)

    def _zero(self, weights: list[Weight]) -> list[Skip]:
        tensors, skips = [], []
        for weight in weights:
            if len(self.block_size) in (2, weight.tensor.ndim):
                tensors.append(weight.matrix)
            else:
                skips.append(
                    Skip(weight.name, f"it has {weight.tensor.ndim} dimensions, a block {len(self.block_size)}")
                )
        for group in [tensors] if self.scope == "global" else [[tensor] for tensor in tensors]:
            self._zero_blocks(group)
        return skips

    def _zero_blocks(self, tensors: list[Tensor]) -> None:
        strengths = [block_norms(self._view(tensor), self.block_size, self.norm) for tensor in tensors]
        kept = keep_largest(strengths, kept_count(self.density, sum(map(Tensor.numel, strengths)))) if tensors else []
        for tensor, mask in zip(tensors, kept, strict=True):
            view = self._view(tensor)
            tensor.masked_fill_(~spread_blocks(mask, self.block_size, view.shape).view(tensor.shape), 0)

    def _view(self, tensor: Tensor) -> Tensor:
        return tensor.flatten(1) if len(self.block_size) == 2 else tensor


@explains_keywords
@dataclass(frozen=True, repr=False)
class NMPrune(Piped, NMPruneSettings):
    """Keep the `n` largest of every `m` neighbouring inputs of each output, and set the others to zero.

    Neighbours are consecutive in the input dimension of a weight: features, or input channels (of a group) at one place
    of the kernel. If m does not divide the number of inputs, the last group is shorter and keeps n of its weights. Of
    equal magnitudes the first by index stay. A model with 2 of 4 runs on sparse tensor cores: see `to_semi_structured`.
    Source: Mishra et al. 2021, "Accelerating sparse deep neural networks".

    Args:
        n: How many weights of each group stay, from 1 to m − 1.
        m: The number of neighbours in a group, 2 or more.
        include: Patterns on the paths or types of layers, as in `Prune`.
        exclude: Patterns of the layers to leave unchanged.

    Raises:
        InvalidArgumentError: If an argument is not as described.

    >>> from torch import nn
    >>> (NMPrune(2, 4).compress(nn.Linear(8, 3)).weight != 0).view(3, 2, 4).sum(2).unique().tolist()
    [2]
    """

    leaves: ClassVar[tuple[str, ...]] = ("zeros", "pattern")
    undoes: ClassVar[tuple[str, ...]] = ()

    def compress(self, model: nn.Module) -> nn.Module:
        """Return a pruned copy of the model; raises as `Prune.compress`."""
        return mask_weights(self, model, self._zero)

    def _zero(self, weights: list[Weight]) -> list[Skip]:
        skips = []
        for weight in weights:
            views = {_input_view(owner) for owner in weight.owners}
            if len(views) > 1:
                skips.append(Skip(weight.name, "it is shared by layers with different input dimensions"))
                continue
            dimension, groups = views.pop()
            rows = weight.tensor.detach().movedim(dimension, -1)
            rows = rows.view(*rows.shape[:-1], groups, -1)
            if rows.shape[-1] <= self.n:
                skips.append(Skip(weight.name, f"each output has {rows.shape[-1]} inputs, and {self.n} stay"))
            else:
                zero_all_but_n(rows, self.n, self.m)
        return skips


def _input_view(owner: Owner) -> tuple[int, int]:
    """Return the dimension of a weight that runs over the inputs of a layer, and into how many groups it falls."""
    module = owner.module
    if is_transposed_linear(module):
        return 0, 1
    return (0, module.groups) if isinstance(module, _ConvTransposeNd) else (1, 1)


def zero_all_but_n(rows: Tensor, n: int, m: int) -> None:
    """Set to zero, in place, all but the `n` largest magnitudes of every `m` neighbours in the last dimension."""
    flat = rows.reshape(-1, rows.shape[-1])  # a copy where the rows are not contiguous
    for part in torch.split(flat, max(1, _PIECE // flat.shape[1])):
        magnitudes = F.pad(part.abs(), (0, -part.shape[1] % m), value=-1.0).view(len(part), -1, m)
        # a stable sort keeps the first of equals
        order = magnitudes.argsort(dim=2, descending=True, stable=True)
        dropped = torch.zeros_like(magnitudes, dtype=torch.bool).scatter_(2, order[..., n:], True)
        part.masked_fill_(dropped.flatten(1)[:, : part.shape[1]], 0)
    if flat.data_ptr() != rows.data_ptr():
        rows.copy_(flat.view(rows.shape))


def block_norms(tensor: Tensor, block_size: Sequence[int], norm: str) -> Tensor:
    """Return the norm of each block of a tensor: one value for each block, float64, in the tensor's dimensions."""
    magnitudes = _split_blocks(tensor.detach().abs().double(), block_size)
    inner = tuple(range(1, magnitudes.ndim, 2))
    if norm == "max":
        return magnitudes.amax(inner)
    total = magnitudes.square().sum(inner) if norm == "l2" else magnitudes.sum(inner)
    if norm == "mean":
        total /= _split_blocks(torch.ones_like(tensor, dtype=torch.float64), block_size).sum(inner)
    return total


def spread_blocks(blocks: Tensor, block_size: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return a tensor of `shape` in which every element has the value of its block."""
    for dimension, (size, length) in enumerate(zip(block_size, shape, strict=True)):
        blocks = blocks.repeat_interleave(size, dimension).narrow(dimension, 0, length)
    return blocks


def _split_blocks(tensor: Tensor, block_size: Sequence[int]) -> Tensor:
    padding = [amount for size, length in zip(block_size, tensor.shape, strict=True) for amount in (-length % size, 0)]
    shape = [part for size, length in zip(block_size, tensor.shape, strict=True) for part in (-(-length // size), size)]
    return F.pad(tensor, padding[::-1]).view(shape)
