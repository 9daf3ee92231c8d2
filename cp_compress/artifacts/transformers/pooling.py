"""How an encoder of transformers gives one embedding a text: as its folder's files or a user say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.artifacts.transformers.folders import read_json
from cp_compress.artifacts.transformers.names import POOLINGS
from cp_compress.base.arguments import explains_keywords
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ArtifactError, ObservationError

_MODULES, _LONGEST_PATH = "modules.json", 100
# the modes of pooling by the names that sentence-transformers has for them
_MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}
_NAMES = {"mean": "mean", "cls": "cls", "lasttoken": "last", "max": "max"}


@dataclass(frozen=True)
class Pooling:
    """How outputs become an embedding, and whether it is brought to length 1 then."""

    mode: str
    normalized: bool = False


def read_pooling(path: Path, root: Path, asked: str | None) -> Pooling:
    """Return how the encoder in a folder pools: as asked, else as its sentence-transformers files say.

    Raises ArtifactError where they say nothing, or name steps that are not read.
    """
    declared = _declared(path, root) if (path / _MODULES).is_file() else None
    if asked is not None:
        return Pooling(asked, declared is not None and declared.normalized)
    if declared is None:
        listed = ", ".join(POOLINGS)
        raise ArtifactError(path, f"does not say how outputs become embeddings: give pooling=, one of {listed}")
    return declared


def _declared(path: Path, root: Path) -> Pooling:
    rows = read_json(path / _MODULES, root, kind=list)
    kinds = [str(row.get("type", "")).rpartition(".")[2] if isinstance(row, dict) else "" for row in rows]
    plain = kinds[:2] == ["Transformer", "Pooling"] and kinds[2:] in ([], ["Normalize"])
    place = rows[1].get("path") if plain else None
    if not isinstance(place, str) or not place.isprintable() or len(place) > _LONGEST_PATH:
        told = f"lists the steps {shortened(kinds, 120)}; only Transformer, Pooling and Normalize are read"
        raise ArtifactError(path / _MODULES, told)
    file = path / place / "config.json"
    settings = read_json(file, root)
    modes = [name for key, name in _MODES.items() if settings.get(key)]
    others = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value and key not in _MODES]
    named = settings.get("pooling_mode")
    if isinstance(named, str):
        modes, others = [_NAMES[named]] if named in _NAMES else [], [] if named in _NAMES else [named]
    if len(modes) != 1 or others:
        told = f"pools by {shortened([*modes, *others], 120)}; one of {', '.join(POOLINGS)} is read"
        raise ArtifactError(file, told)
    return Pooling(modes[0], kinds[2:] == ["Normalize"])


@explains_keywords
class TransformerEmbedding(nn.Module):
    """An encoder of transformers that maps texts to embeddings; `load_transformer` makes it.

    `network` is the library's module, `pooling` says how its outputs for tokens become one embedding a text. Places
    that the attention mask leaves out have no part in it; without a mask these are those of the network's padding.
    """

    def __init__(self, network: Any, pooling: Pooling) -> None:
        super().__init__()
        self.network = network
        self.pooling = pooling.mode
        self.normalized = pooling.normalized

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **others: Any) -> Tensor:
        """Return the embeddings (n, d) of token ids (n, length), with a mask (n, length) of 0 and 1 for padding.

        Raises ObservationError for texts of no token.
        """
        if attention_mask is None:
            padding = getattr(self.network.config, "pad_token_id", None)
            attention_mask = torch.ones_like(input_ids) if padding is None else (input_ids != padding).long()
        hidden = self.network(
            input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **others
        ).last_hidden_state
        kept = attention_mask.to(hidden.device) != 0
        if not bool(kept.any(dim=1).all()):
            raise ObservationError("a text has no token that counts: its attention mask is 0 everywhere")
        found = self._pooled(hidden, kept)
        return nn.functional.normalize(found, dim=1) if self.normalized else found

    def _pooled(self, hidden: Tensor, kept: Tensor) -> Tensor:
        counted = kept[:, :, None]
        if self.pooling == "mean":
            return (hidden * counted).sum(dim=1) / counted.sum(dim=1)
        if self.pooling == "max":
            return hidden.masked_fill(~counted, -torch.inf).amax(dim=1)
        # the first of the places that count, or the last one, wherever padding stands
        order = kept.int() if self.pooling == "cls" else kept.flip(1).int()
        place = order.argmax(dim=1) if self.pooling == "cls" else kept.shape[1] - 1 - order.argmax(dim=1)
        return hidden[torch.arange(len(hidden), device=hidden.device), place]
