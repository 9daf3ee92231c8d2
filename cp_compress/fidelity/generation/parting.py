"""Where generations part, and what models without any work would get against those of a reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cp_compress.fidelity.generation.distances import common_length, edit_distance
from cp_compress.fidelity.generation.generating import Written
from cp_compress.fidelity.judging.measurement import unskilled
from cp_compress.inputs.prompts import GenerationData


def apart(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return of pairs of pieces the longer length, where they part, the share before it, and the share of edits."""
    longer = torch.tensor([max(len(one), len(other)) for one, other in pairs])
    parts = torch.tensor([common_length(one, other) for one, other in pairs])
    edits = torch.tensor([edit_distance(one, other) for one, other in pairs]).double() / longer.clamp_min(1)
    return longer, parts, torch.where(longer > 0, parts.double() / longer.clamp_min(1), 1.0), edits


def parting_margins(before: Sequence[Written], parts: Tensor, exact: Tensor) -> Tensor | None:
    """Return the reference's margin (n,) where both part, NaN where they do not; None if it gives none."""
    if any(one.margins is None for one in before):
        return None
    found = torch.full((len(before),), torch.nan, dtype=torch.float64)
    for place, one in enumerate(before):
        assert one.margins is not None
        if not exact[place] and len(one.margins):
            # a candidate that goes on where the reference ends parts after its last token
            found[place] = float(one.margins[min(int(parts[place]), len(one.margins) - 1)])
    return found


def without_skill(
    before: Sequence[Written], data: GenerationData, tie: float, words: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return what models would get that write one text for every prompt, or the prompt and nothing more."""
    different = len(torch.unique(data.prompts.repeated()))
    if different < 2:
        return []
    often, _ = Counter(tuple(one.pieces.tolist()) for one in before).most_common(1)[0]
    same = torch.tensor(often, dtype=torch.int64)
    told = "a model that writes the same for every prompt"
    found = [unskilled(told, _compared(before, [same] * len(before), tie), different)]
    prompts = [_pieces_of(data.prompts.batch([place]), words) for place in range(len(before))]
    echoes = [prompt for prompt in prompts if prompt is not None and len(prompt)]
    if len(echoes) == len(before) and all(
        common_length(one.pieces, echo) == len(echo) for one, echo in zip(before, echoes, strict=True)
    ):
        told = "a model that writes nothing beyond the prompt, with which all generations begin,"
        found.append(unskilled(told, _compared(before, echoes, tie), different))
    return found


def _pieces_of(batch: Any, words: Mapping[str, int]) -> Tensor | None:
    """Return a prompt, a batch of one, in what generations are made of; None where it is neither ids nor words."""
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else batch
    if isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point():
        mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        return ids[0].long() if mask is None else ids[0][torch.as_tensor(mask)[0] != 0].long()
    if isinstance(ids, list) and len(ids) == 1 and isinstance(ids[0], str):
        return torch.tensor([words.get(word, -1) for word in ids[0].split()], dtype=torch.int64)
    return None


def _compared(before: Sequence[Written], others: Sequence[Tensor], tie: float) -> dict[str, float]:
    """Return the metrics of other pieces against those of the reference."""
    longer, parts, prefix, edits = apart([(one.pieces, other) for one, other in zip(before, others, strict=True)])
    exact = parts == longer
    metrics = {
        "exact_generations": float(exact.double().mean()),
        "common_prefix": float(prefix.mean()),
        "edit_distance": float(edits.mean()),
    }
    margins = parting_margins(before, parts, exact)
    if margins is not None:
        metrics["damaged_generations"] = float((margins.nan_to_num(0.0) > tie).double().mean())
    return metrics
