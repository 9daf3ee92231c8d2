"""Which scheme may follow which on the same weight: a later step must not undo what an earlier one was for."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from cp_compress.base.errors import CompressionError
from cp_compress.model.record import read_steps

_UNSTRUCTURED = ("prune", "block_prune", "nm_prune")
_PATTERNED = ("block_prune", "nm_prune")
_STRUCTURED = ("filter_prune", "neuron_prune", "structure_prune")


def require_order(scheme: object, model: nn.Module, names: Iterable[str]) -> None:
    """Raise CompressionError when a step recorded on a model forbids that a scheme now changes the named weights."""
    later = str(scheme)
    wanted = set(names)
    for step in read_steps(model):
        reason = _reason(step.scheme, later)
        touched = [change.tensor for change in step.changes if change.tensor in wanted]
        if reason and touched:
            raise CompressionError(f"{later} cannot follow {step.scheme} (both on {touched[0]}): {reason}")


def _reason(earlier: str, later: str) -> str | None:
    before, after = earlier.partition("(")[0], later.partition("(")[0]
    if after == "low_rank" and before in _UNSTRUCTURED:
        return "the factors of a pruned weight are dense, so its zeros would be lost; put low_rank first"
    if after == "low_rank" and before in _STRUCTURED and "shrink=False" in earlier:
        return "the factors of a masked weight are dense, so its zeros would be lost; put low_rank first"
    if after in _STRUCTURED and before in _PATTERNED and "shrink=False" not in later:
        return "removing channels moves the weights that stay out of their pattern; remove channels first"
    return None
