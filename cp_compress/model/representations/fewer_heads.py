"""Attention of `torch.nn` with fewer heads than its inputs would make: torch's own takes their size from these."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cp_compress.base.errors import CompressionError


class FewerHeadsAttention(nn.MultiheadAttention):
    """The attention of a `torch.nn.MultiheadAttention` from which heads were removed; the others keep their size.

    A mask of each head, of shape (batch · heads, queries, keys), has to have the heads that are left.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what torch's own attention returns: outputs, and weights where they are needed."""
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal is a hint on attn_mask, which has to be given too")
        batched = query.dim() == 3
        inputs = [query, key, value]
        if not batched:
            inputs = [one.unsqueeze(0) for one in inputs]
        elif not self.batch_first:
            inputs = [one.transpose(0, 1) for one in inputs]
        queries, keys, values = (
            self._by_head(functional.linear(one, weight, bias))
            for one, (weight, bias) in zip(inputs, self._in_projections(), strict=True)
        )
        mask = self._mask(attn_mask, key_padding_mask, queries, batched)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = queries @ keys.transpose(-2, -1) * self.head_dim**-0.5
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = functional.dropout(weights, dropout) if dropout else weights
            mixed = weights @ values
        else:
            mixed = functional.scaled_dot_product_attention(queries, keys, values, mask, dropout)
        output = functional.linear(mixed.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        if not batched:
            return output.squeeze(0), weights
        return (output if self.batch_first else output.transpose(0, 1)), weights

    def _by_head(self, inner: Tensor) -> Tensor:
        return inner.view(*inner.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)

    def _in_projections(self) -> list[tuple[Tensor, Tensor | None]]:
        weights: Any = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        biases: Any = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return list(zip(weights, biases, strict=True))

    def _mask(
        self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, queries: Tensor, batched: bool
    ) -> Tensor | None:
        """Return what is added to the scores, (batch or 1, heads or 1, queries, keys)."""
        if attn_mask is not None and attn_mask.dim() == 3:
            heads = (len(queries), self.num_heads)
            if attn_mask.shape[0] != heads[0] * heads[1]:
                raise RuntimeError(
                    f"attn_mask has {attn_mask.shape[0]} masks, and {heads[0]} examples of {heads[1]} heads need "
                    f"{heads[0] * heads[1]}: heads were removed from this attention"
                )
            attn_mask = attn_mask.view(*heads, *attn_mask.shape[1:])
        if key_padding_mask is not None:
            key_padding_mask = (key_padding_mask if batched else key_padding_mask[None])[:, None, None]
        found = [_added(mask, queries.dtype) for mask in (attn_mask, key_padding_mask) if mask is not None]
        return sum(found[1:], found[0]) if found else None


def can_lose_heads(layer: nn.Module) -> bool:
    """Tell whether heads of an attention layer can be removed: not where it adds keys of its own."""
    return (
        type(layer) in (nn.MultiheadAttention, FewerHeadsAttention) and layer.bias_k is None and not layer.add_zero_attn
    )


def set_heads(layer: Any, heads: int) -> None:
    """Let an attention layer have fewer heads, in place; what it holds is cut by the caller."""
    if not can_lose_heads(layer):
        raise CompressionError(f"heads of {type(layer).__name__} cannot be removed")
    layer.__class__ = FewerHeadsAttention
    layer.num_heads = heads
    # torch's fused kernels, chosen by this mark, would take the size of heads from the inputs
    layer._qkv_same_embed_dim = False


def attention_shapes(layer: nn.MultiheadAttention) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the parameters of an attention layer have by its number of heads."""
    inner = layer.num_heads * layer.head_dim
    return {
        "in_proj_weight": (3 * inner, layer.embed_dim),
        "in_proj_bias": (3 * inner,),
        "q_proj_weight": (inner, layer.embed_dim),
        "k_proj_weight": (inner, layer.kdim),
        "v_proj_weight": (inner, layer.vdim),
    }


def remove_heads(layer: Any, kept: list[int]) -> None:
    """Keep some inner dimensions of an attention layer, those of whole heads, in place."""
    heads, rest = divmod(len(kept), layer.head_dim)
    if rest:
        raise CompressionError(f"{len(kept)} inner dimensions are no whole number of heads of {layer.head_dim}")
    inner = layer.num_heads * layer.head_dim
    for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_weight", "in_proj_bias"):
        parameter = getattr(layer, name)
        if parameter is not None:
            places = torch.tensor(kept, device=parameter.device)
            parts = parameter.data.unflatten(0, (-1, inner))
            parameter.data = parts.index_select(1, places).flatten(0, 1)
    set_heads(layer, heads)


def settle_encoders(model: nn.Module) -> None:
    """Keep encoders from nested tensors, which only torch's fused attention takes, where heads were removed."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(
            isinstance(part, FewerHeadsAttention) for part in module.modules()
        ):
            module.use_nested_tensor = False


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -torch.inf)
