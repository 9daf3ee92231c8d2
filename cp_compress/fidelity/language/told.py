"""Two language models of which one at least tells the most likely next tokens, and no logits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.base.batching import BatchSize
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.language.folding import Folded, MostLikely, most_likely
from cp_compress.fidelity.language.models import LanguageModel
from cp_compress.fidelity.language.next_tokens import NextTokenModel, NextTokens
from cp_compress.fidelity.language.probing import PaddingDependence, probe, require_known_ids
from cp_compress.fidelity.language.streaming import Streamed, content_of, in_batches
from cp_compress.fidelity.side_by_side.sides import evaluating
from cp_compress.inputs.tokens import Readings, TokenData, TokenDigest, Tokenizer, is_whole, pad

UNREADABLE = {"candidate": -1, "reference": -2}
"""The ids of tokens of which nobody can tell which they are; no two of them are one."""
_FIRST_UNKNOWN = -3
_REPEATED = 0.25
_DOCUMENTS = 16


class ToldModel:
    """A model that tells next tokens, as one of the two sides of a comparison."""

    def __init__(self, model: NextTokenModel, who: str, batch_size: int) -> None:
        self.model, self.who = model, who
        self.batch_size = BatchSize(batch_size)
        self.deployed, self.batches = False, (1, 1)
        self.batch_dependence = None
        self.chosen_batch = None
        self._again: tuple[int, Tensor, NextTokens] | None = None

    def ask(self, documents: Sequence[Tensor], top_k: int, tokenizer: Tokenizer | None, start: int) -> list[NextTokens]:
        """Return what it says of documents, of which the first is number `start`; raises ObservationError, as `who`."""
        try:
            found = self.model.next_tokens(documents, top_k, tokenizer, first=start)
        except ObservationError as error:
            raise ObservationError(f"the {self.who}: {error}") from error
        if len(found) != len(documents):
            raise ObservationError(f"the {self.who} answered {len(found)} of {len(documents)} documents")
        for number, (ids, one) in enumerate(zip(documents, found, strict=True), start):
            self._require_answer(number, ids, one)
        if self._again is None:
            self._again = start, documents[0], found[0]
        return found

    def _require_answer(self, number: int, ids: Tensor, found: NextTokens) -> None:
        if len(found.logprobs) != len(ids) - 1 or len(found.likely) != len(ids) - 1:
            raise ObservationError(f"the {self.who} tells of {len(found.likely)} places of document #{number}")
        told = [bool(one) for one in found.likely]
        if not any(told):
            raise ObservationError(
                f"the {self.who} tells nothing of document #{number}, of {len(ids)} tokens: leave out such short ones"
            )
        if not all(told[told.index(True) :]):
            raise ObservationError(f"the {self.who} tells nothing of some places within document #{number}")
        if bool((found.logprobs > 0).any()) or bool(found.logprobs.isinf().any()):
            raise ObservationError(f"the {self.who} gives no log-probabilities for document #{number}")

    def require_documents(self, count: int) -> None:
        """Raise ObservationError where it tells of another number of documents than there are."""
        known = getattr(self.model, "documents", None)
        if known is not None and len(known) != count:
            raise ObservationError(f"the {self.who} tells of {len(known)} documents, and the data has {count}")

    def require_repeatable(self, top_k: int, tokenizer: Tokenizer | None) -> None:
        """Ask about the first document once more; raises ObservationError for other answers."""
        assert self._again is not None  # asked before
        start, ids, known = self._again
        found = self.ask([ids], top_k, tokenizer, start)[0]
        before, after = (torch.tensor([one[0][1] if one else 0.0 for one in each.likely]) for each in (known, found))
        moved = float((before - after).abs().max())
        if moved > _REPEATED:
            raise ObservationError(
                f"the {self.who} answers something else when it is asked about document #{start} again: a "
                f"log-probability moved by {moved:.3g} nats. It answers at random, or another model is served now"
            )


class _Names:
    """One number for each token, whether it was told by its id or as it reads."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._readings = None if tokenizer is None else Readings(tokenizer)
        self._numbers: dict[str, int] = {}
        self._ids: dict[int, int] = {}
        self.texts: dict[int, str] = {}
        self.by_text = False

    def of_ids(self, ids: Tensor) -> Tensor:
        """Return the numbers of ids (n, k): themselves, where no model tells texts, and else equal where texts are."""
        if not self.by_text:
            return ids
        assert self._readings is not None  # a model that tells texts has asked for it
        known, places = torch.unique(ids, return_inverse=True)
        numbers = []
        for token in known.tolist():
            text = self._readings.of(token)
            number = self._numbers.setdefault(text, token) if is_whole(text) else token
            self._ids.setdefault(number, token)
            numbers.append(number)
        return torch.tensor(numbers, dtype=torch.int64)[places]

    def of_told(self, key: int | str, who: str) -> int:
        """Return the number of a token that a model has told: negative where its id is not known."""
        if isinstance(key, int) and not self.by_text:
            return key
        if isinstance(key, int):
            return int(self.of_ids(torch.tensor([[key]]))[0, 0])
        if not is_whole(key):
            return UNREADABLE[who]
        number = self._numbers.setdefault(key, _FIRST_UNKNOWN - len(self._numbers))
        self.texts[number] = key
        return number

    def settled(self, numbers: Tensor) -> Tensor:
        """Return numbers (n,), int32, with ids in the places of those that stand for texts whose ids were met later."""
        known, places = torch.unique(numbers, return_inverse=True)
        ids = [self._ids.get(one, one) if one <= _FIRST_UNKNOWN else one for one in known.tolist()]
        return torch.tensor(ids, dtype=torch.int32)[places]


OneSide = LanguageModel | ToldModel


def side_of(model: Any, device: Any, batch_size: int, *, who: str, deployed: bool = False) -> OneSide:
    """Return a model as one of two sides: one that gives logits, or tells next tokens."""
    if isinstance(model, NextTokenModel):
        return ToldModel(model, who, batch_size)
    return LanguageModel(model, device, batch_size, who=who, deployed=deployed)


def stream_told(
    owner: str,
    candidate: OneSide,
    reference: OneSide,
    data: TokenData,
    top_k: int,
    tokenizer: Tokenizer | None,
) -> Streamed:
    """Ask both models about all documents once, and return what is known of their tokens.

    There is no divergence, and no likelihood where it is not known. Places of which a model tells nothing, as of the
    first token that a server is asked about, are left out.

    Raises:
        ObservationError: As `stream`, and where a model that is asked does not answer all documents, or something else
            when it is asked again.
        InvalidArgumentError: If `top_k` is not smaller than the vocabulary.
    """
    both: dict[str, OneSide] = {"candidate": candidate, "reference": reference}
    live = [side for side in both.values() if isinstance(side, LanguageModel)]
    names = _Names(tokenizer)
    parts: list[Folded] = []
    lengths: list[int] = []
    firsts: list[int] = []
    contents: list[int] = []
    known: dict[bytes, int] = {}
    digest = TokenDigest()
    padded_left = False
    for one in both.values():
        if isinstance(one, ToldModel):
            one.require_documents(len(data))
    with evaluating(*live):
        padding = {who: probe(side, data) if isinstance(side, LanguageModel) else None for who, side in both.items()}
        for side in live:
            if side.vocabulary is not None and top_k >= side.vocabulary:
                reject(owner, "top_k", top_k, f"must be less than the {side.vocabulary} tokens of the vocabulary")
        many = next((side.batch_size.limit for side in live if side.deployed), _DOCUMENTS)
        for start in range(0, len(data), many):
            documents, left = data.read(range(start, min(start + many, len(data))))
            padded_left |= left
            for side in live:
                require_known_ids(documents, side.vocabulary or 0, start)
            told = {
                who: side.ask(documents, top_k, tokenizer, start)
                for who, side in both.items()
                if isinstance(side, ToldModel)
            }
            names.by_text |= any(isinstance(key, str) for each in told.values() for one in each for key in _keys(one))
            if names.by_text and tokenizer is None:
                raise ObservationError("a model tells tokens by their texts: give tokenizer=, with decode(ids)")
            asked = {
                who: _of_live(side, documents, top_k, names)
                if isinstance(side, LanguageModel)
                else _of_told(told[who], top_k, names, who)
                for who, side in both.items()
            }
            kept = asked["candidate"].kept & asked["reference"].kept
            parts.append(_folded(asked["candidate"], asked["reference"], kept))
            places = torch.cat([torch.full((len(ids) - 1,), place) for place, ids in enumerate(documents)])
            counts = torch.bincount(places[kept], minlength=len(documents))
            lengths += counts.tolist()
            firsts += [len(ids) - int(count) for ids, count in zip(documents, counts, strict=True)]
            digest.update(documents)
            contents += [known.setdefault(content, len(known)) for content in map(content_of, documents)]
        for one in both.values():
            if isinstance(one, ToldModel):
                one.require_repeatable(top_k, tokenizer)
    tokens = parts[0].joined(parts[1:])
    tokens = dataclasses.replace(
        tokens, reference_answer=names.settled(tokens.reference_answer), answer=names.settled(tokens.answer)
    )
    equal = _tells_the_same(tokens, top_k)
    nothing = PaddingDependence()
    return Streamed(
        tokens,
        torch.tensor(lengths),
        equal,
        digest.hexdigest(),
        torch.tensor(contents),
        next((side.vocabulary for side in live), None),
        (padding["candidate"] or nothing, padding["reference"] or nothing),
        padded_left,
        torch.tensor(firsts),
        names.texts,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Asked:
    """What one model says of the tokens of a batch: the numbers (tokens, k) of the most likely ones, the largest first,
    the negative log-likelihood (tokens,), float64, and lead (tokens,) of the first one, and of which tokens it tells.
    """

    top: Tensor
    nll: Tensor
    lead: Tensor
    kept: Tensor


def _tells_the_same(tokens: Folded, top_k: int) -> bool:
    """Tell whether two models tell the same of all tokens: answers, top tokens, and likelihoods, of which some may not
    be known, but not all.
    """
    known = ~tokens.nll.isnan()
    if not bool(known.any()) or not torch.equal(known, ~tokens.reference_nll.isnan()):
        return False
    alike = bool((tokens.nll == tokens.reference_nll)[known].all()) and bool(tokens.same.all())
    return alike and (bool(known.all()) or bool((tokens.shared == top_k).all()))


def _keys(found: NextTokens) -> Iterator[int | str]:
    return (key for likely in found.likely for key, _ in likely)


def _of_live(side: LanguageModel, documents: Sequence[Tensor], top_k: int, names: _Names) -> _Asked:
    found: list[MostLikely] = []

    def run(part: slice) -> None:
        one: list[MostLikely] = []
        for batch in in_batches(list(documents[part]), side.vocabulary or 1, whole=side.deployed):
            ids, mask = pad(batch)
            one.append(most_likely(side.logits(ids, mask), ids, mask, top_k, side.who))
            side.batches = side.batches[0] or len(batch), len(batch)
        found.extend(one)

    side.batch_size.run(len(documents), run)
    top, nll, lead = (torch.cat([getattr(one, name) for one in found]) for name in ("tokens", "nll", "lead"))
    return _Asked(names.of_ids(top), nll, lead, torch.ones(len(nll), dtype=torch.bool))


def _of_told(found: Sequence[NextTokens], top_k: int, names: _Names, who: str) -> _Asked:
    places = [likely for one in found for likely in one.likely]
    top = torch.full((len(places), top_k), UNREADABLE[who])
    lead = torch.full((len(places),), math.nan)
    for row, likely in enumerate(places):
        numbers = [names.of_told(key, who) for key, _ in likely[:top_k]]
        top[row, : len(numbers)] = torch.tensor(numbers, dtype=torch.int64)
        if len(likely) > 1:
            lead[row] = likely[0][1] - likely[1][1]
    nll = -torch.cat([one.logprobs.double() for one in found])
    return _Asked(top, nll, lead, torch.tensor([bool(likely) for likely in places]))


def _folded(candidate: _Asked, reference: _Asked, kept: Tensor) -> Folded:
    mine, theirs = candidate.top[kept], reference.top[kept]
    return Folded(
        theirs[:, 0].int(),
        mine[:, 0].int(),
        None,
        reference.nll[kept].float(),
        candidate.nll[kept].float(),
        (theirs[:, :, None] == mine[:, None, :]).any(dim=2).sum(dim=1).to(torch.uint8),
        reference.lead[kept].float(),
    )
