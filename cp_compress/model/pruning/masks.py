"""Zeros that a scheme made, held at zero while a model is trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cp_compress.model.layers import is_transposed_linear, resolve
from cp_compress.model.record import read_steps

Masks = Mapping[str, Tensor]


def find_masks(model: nn.Module, reference: nn.Module | None = None) -> dict[str, Tensor]:
    """Return where parameters may differ from zero, booleans by name, for each parameter that has zeros to hold.

    These are all zeros of the tensors that recorded steps changed, zeros that the `reference` does not have, and biases
    of zero, of a layer or of the norm behind it, whose whole row of weights is zero.
    """
    changed = {change.tensor for step in read_steps(model) for change in step.changes}
    before = {} if reference is None else dict(reference.named_parameters())
    masks = {}
    for name, parameter in model.named_parameters():
        zero = parameter.detach() == 0
        original = before.get(name)
        if name not in changed:
            known = original is not None and original.shape == parameter.shape
            zero = zero & (original.detach() != 0).to(zero.device) if known and original is not None else zero & False
        if bool(zero.any()):
            masks[name] = ~zero
    for name, kept in list(masks.items()):
        module, attribute = resolve(model, name)
        bias = module._parameters.get("bias") if attribute == "weight" else None
        by_output = kept.t() if is_transposed_linear(module) and kept.ndim == 2 else kept
        rows = by_output.flatten(1).any(1) if kept.ndim > 1 else kept
        if bias is not None and bias.shape == rows.shape:
            path = name.removesuffix("weight") + "bias"
            masks[path] = masks.get(path, torch.ones_like(rows)) & (rows | (bias.detach() != 0))
    return {name: mask for name, mask in masks.items() if not bool(mask.all())}


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Set to zero, in place, every parameter value that its mask does not keep."""
    for name, parameter in model.named_parameters():
        if name in masks:
            parameter.masked_fill_(~masks[name], 0)
