"""What a few short documents say of a language model: whether it is repeatable, and what its answers depend on."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.language.models import LanguageModel
from cp_compress.fidelity.observing.batch_dependence import coarsest_dtype, look_again
from cp_compress.fidelity.observing.determinism import beyond_rounding
from cp_compress.inputs.tokens import TokenData, pad

KEY = "padding_dependence"
"""The key under which the details of a measurement say what depends on padding."""
_DOCUMENTS, _PADDED, _LENGTH, _MORE, _COLUMNS = 4, 2, 8, 3, 4096
_FIRST_IDS = torch.zeros(1, 2, dtype=torch.int64)  # which every vocabulary has


@dataclasses.dataclass(frozen=True)
class PaddingDependence:
    """How far the logits of a few documents moved when they were padded, as shares of the largest logit.

    Attributes:
        right: With padding after the last token; 0 where it is rounding, None where the model cannot take it.
        left: With padding before the first one; None for a model that takes no mask, too.
    """

    right: float | None = None
    left: float | None = None


def probe(model: LanguageModel, data: TokenData) -> PaddingDependence:
    """Ask about the beginnings of a few documents, alone, in other batches and with padding.

    It sets the model's vocabulary and `batch_dependence`. Raises ObservationError for a model that answers at random
    and for one that cannot take the documents.
    """
    documents = data.read(range(min(_DOCUMENTS, len(data)))).ids

    def ask(ids: Tensor, mask: Tensor | None = None) -> Tensor:
        logits = model.logits(ids, torch.ones_like(ids) if mask is None else mask)
        # what depends on neighbours or padding shows in a part of the vocabulary, too
        return logits[..., :: max(1, logits.shape[2] // _COLUMNS)].cpu()

    ids, known = _first_answers(model, documents, ask)
    model.batch_dependence = look_again(ask, ids, known, lambda few: few.argmax(dim=-1), model.runner).dependence
    rounding = coarsest_dtype(model.runner, known)
    largest = float(known.double().abs().max()) or 1.0

    def moved(*sides: bool) -> list[float | None]:
        # another id than 0, with which batches are filled up
        padded = [pad(list(ids[:_PADDED]), left=left, more=_MORE, fill=known.shape[2] - 1) for left in sides]
        wider, masks = (torch.cat([one[place] for one in padded]) for place in (0, 1))
        try:
            answers = torch.split(ask(wider, masks), len(padded[0][0]))
        except ObservationError:  # such as a model of fixed lengths
            return [None] if len(sides) == 1 else [one for left in sides for one in moved(left)]
        kept = [found[:, _MORE:] if left else found[:, :-_MORE] for found, left in zip(answers, sides, strict=True)]
        alone = known[:_PADDED]
        return [
            float((found.double() - alone.double()).abs().max()) / largest
            if beyond_rounding(found, alone, rounding) > 0
            else 0.0
            for found in kept
        ]

    # one call, since each reads all weights
    return PaddingDependence(*(moved(False, True) if model.takes_mask else moved(False)))


def _first_answers(model: LanguageModel, documents: list[Tensor], ask: Any) -> tuple[Tensor, Tensor]:
    """Return the ids (k, length) of the first tokens of documents and the logits for them as one batch."""
    length = min(_LENGTH, *map(len, documents))
    # of fewer documents, later pieces too: neighbours show among four
    pieces = [document[: len(document) // length * length].view(-1, length) for document in documents]
    ids = torch.cat([*(piece[:1] for piece in pieces), *(piece[1:] for piece in pieces)])[:_DOCUMENTS]
    try:
        if model.runner.device.type != "cpu":  # where ids beyond the vocabulary may stop the device for good
            ask(_FIRST_IDS)
            require_known_ids(documents, _vocabulary(model), 0)
        known = ask(ids)
        require_known_ids(documents, _vocabulary(model), 0)
        return ids, known
    except ObservationError as error:
        with contextlib.suppress(ObservationError):
            ask(_FIRST_IDS)
        if model.vocabulary is not None:
            require_known_ids(documents, model.vocabulary, 0)
            raise
        whole = [document for document in documents if len(document) == len(documents[0])]
        if len(documents[0]) == length:
            raise
        try:  # it may take documents of one length only, as an exported program does
            ids = torch.stack(whole)
            return ids, ask(ids)
        except ObservationError:
            raise error from None


def _vocabulary(model: LanguageModel) -> int:
    assert model.vocabulary is not None  # known since the model was asked
    return model.vocabulary


def require_known_ids(documents: list[Tensor], vocabulary: int, start: int) -> None:
    """Raise ObservationError for documents, of which the first is number `start`, with ids that no logit stands for."""
    largest = [int(ids.max()) for ids in documents]
    if max(largest) < vocabulary:
        return
    position = next(place for place, value in enumerate(largest) if value >= vocabulary)
    raise ObservationError(
        f"document #{start + position} holds the token id {largest[position]}, but the models have logits for "
        f"{vocabulary} tokens: the ids may be those of another tokenizer"
    )


def padding_notes(candidate: PaddingDependence, reference: PaddingDependence, *, padded_left: bool) -> tuple[str, ...]:
    """Return notes on answers that depend on padding, such as those of a model that ignores its mask."""
    notes = []
    for who, found, other in (("candidate", candidate, reference), ("reference", reference, candidate)):
        if found.right:
            notes.append(
                f"the {who}'s answers depend on padding after the last token (logits move by {found.right:.1%} of the "
                "largest one): they depend on the documents that stand in one batch, and on what comes later in a text"
            )
        if found.left and (padded_left or other.left == 0):
            notes.append(
                f"the {who}'s answers depend on padding before the first token (logits move by {found.left:.1%} of the "
                f"largest one{', the other model does not' if other.left == 0 else ''}): it may ignore its mask"
            )
    return tuple(notes)
