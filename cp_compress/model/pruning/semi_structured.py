"""Models pruned to 2 of 4, run on sparse tensor cores."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.errors import CompressionError
from cp_compress.model.layers import copy_model
from cp_compress.model.pruning.patterns import zero_all_but_n
from cp_compress.model.record import Change, Skip, Step, add_step

_OWNER = "to_semi_structured"


@explains_keywords
def to_semi_structured(model: nn.Module) -> nn.Module:
    """Return a copy whose 2:4 pruned linear layers run as semi-structured sparse matrices; for inference on CUDA.

    A layer is converted when every 4 neighbouring inputs hold at most 2 weights and its dtype and shape are among
    those that `torch.sparse.to_sparse_semi_structured` takes (float16: multiples of 16 or of 32 by 64); the others stay
    dense, and the record of the copy names them with the reason. Store the model that was given, not the copy. Raises
    CompressionError when no layer can be converted, as without CUDA. Use `mode="dynamic"` of `Quantize` for a model
    that computes in 16 bits.
    """
    candidate = copy_model(_OWNER, model)
    changes, skips = [], []
    for path, layer in candidate.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        name = f"{path}.weight".lstrip(".")
        reason = _convert(layer)
        if reason is None:
            changes.append(Change(name, "runs as a 2:4 semi-structured sparse matrix"))
        else:
            skips.append(Skip(name, reason))
    if not changes:
        listed = "; ".join(f"{skip.tensor}: {skip.reason}" for skip in skips[:5])
        raise CompressionError(f"{_OWNER}: no layer can run as a 2:4 sparse matrix ({listed or 'no linear layers'})")
    add_step(candidate, Step(_OWNER, tuple(changes), tuple(skips)))
    return candidate


def _convert(layer: nn.Linear) -> str | None:
    """Give a layer a sparse weight, or return why that is not possible."""
    weight = layer._parameters.get("weight")
    if weight is None:
        return "its weight is computed from other tensors"
    if not holds_two_of_four(weight):
        return "some 4 neighbouring inputs hold more than 2 weights; prune it with NMPrune(2, 4)"
    try:
        sparse = to_sparse_semi_structured(weight.detach().contiguous())
    except (RuntimeError, NotImplementedError, ValueError) as error:
        return str(error).replace("\n", " ")
    layer.weight = nn.Parameter(sparse, requires_grad=False)
    return None


def holds_two_of_four(weight: Tensor) -> bool:
    """Tell whether every 4 neighbours in the last dimension of a matrix hold at most 2 values that are not zero.

    >>> holds_two_of_four(torch.tensor([[1.0, 0.0, 2.0, 0.0]])), holds_two_of_four(torch.ones(1, 4))
    (True, False)
    """
    kept = weight.detach().clone()
    zero_all_but_n(kept, 2, 4)
    return torch.equal(kept, weight.detach())
