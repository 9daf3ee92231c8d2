"""Two language models run batch by batch on the same documents, each batch folded at once into results a token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.base.digests import start_digest, update_with_bytes
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.language.folding import Folded, fold
from cp_compress.fidelity.language.models import LanguageModel
from cp_compress.fidelity.language.probing import PaddingDependence, probe, require_known_ids
from cp_compress.fidelity.side_by_side.sides import evaluating, run_both
from cp_compress.inputs.tokens import TokenData, TokenDigest, pad

_LARGEST_LOGITS = 2**26
"""How many logits of one model a batch may have, 256 MiB in float32."""


@dataclass(frozen=True, eq=False)
class Streamed:
    """What two models say of the tokens of documents: 25 bytes a token.

    Attributes:
        tokens: The results of each token.
        lengths: The number of tokens (documents,) that were compared of each document: all but the first.
        equal: Whether all logits of both models are equal, bit for bit.
        digest: The digest of the documents.
        repeated: The number (documents,) of each document's content, one for those that are equal.
        vocabulary: The number of tokens that the models choose from, None where neither gives logits.
        padding: What the candidate's, and the reference's, answers to padded documents say.
        padded_left: Whether documents were padded before their first token.
        firsts: The place (documents,) of the first token that was compared, None for 1 in all documents.
        texts: How tokens read whose ids are not known: those with a number below 0.
    """

    tokens: Folded
    lengths: Tensor
    equal: bool
    digest: str
    repeated: Tensor
    vocabulary: int | None
    padding: tuple[PaddingDependence, PaddingDependence]
    padded_left: bool
    firsts: Tensor | None = None
    texts: Mapping[int, str] = field(default_factory=dict)

    @property
    def documents(self) -> Tensor:
        """The document (tokens,), int64, of each token."""
        return torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths)

    @property
    def positions(self) -> Tensor:
        """The place (tokens,), int64, of each token within its document, 1 for the second token."""
        starts = self.lengths.cumsum(0) - self.lengths
        firsts = torch.ones_like(self.lengths) if self.firsts is None else self.firsts
        return torch.arange(int(self.lengths.sum())) + torch.repeat_interleave(firsts - starts, self.lengths)


def stream(owner: str, candidate: LanguageModel, reference: LanguageModel, data: TokenData, top_k: int) -> Streamed:
    """Run both models over all documents once, and return what they say of each token.

    A batch holds at most so many documents as both models' batch sizes say, and so few that the logits of one model
    are 256 MiB or less where a smaller batch can do it; a deployed batch size is kept whatever it takes. Its whole
    logits are kept until it is folded, and no longer.

    Raises:
        ObservationError: If a model cannot be run on the documents, answers at random or returns NaN or infinite
            logits, or the vocabularies differ.
        InvalidArgumentError: If `top_k` is not smaller than the vocabulary.
    """
    with evaluating(candidate, reference):
        padding = tuple(probe(model, data) for model in (candidate, reference))
        vocabulary = _one_vocabulary(candidate, reference)
        if top_k >= vocabulary:
            reject(owner, "top_k", top_k, f"must be less than the {vocabulary} tokens of the vocabulary")
        pass_over = _Pass(candidate, reference, data, top_k, vocabulary)
        pass_over.run()
    return pass_over.result((padding[0], padding[1]))


def _one_vocabulary(candidate: LanguageModel, reference: LanguageModel) -> int:
    one, other = candidate.vocabulary, reference.vocabulary
    if one is None or one != other:
        raise ObservationError(
            f"the candidate has logits for {one} tokens, the reference for {other}: models of two vocabularies cannot "
            "be compared token by token; where one is padded to a round number, cut its logits in a wrapper"
        )
    return one


class _Pass:
    """One pass over the data, and what it has found so far."""

    def __init__(
        self, candidate: LanguageModel, reference: LanguageModel, data: TokenData, top_k: int, vocabulary: int
    ) -> None:
        self.candidate, self.reference, self.data = candidate, reference, data
        self.top_k, self.vocabulary = top_k, vocabulary
        self.parts: list[Folded] = []
        self.lengths: list[int] = []
        self.digest = TokenDigest()
        self.known: dict[bytes, int] = {}
        self.contents: list[int] = []
        self.equal, self.padded_left = True, False

    def run(self) -> None:
        run_both(self.candidate, self.reference, len(self.data), self._run_part)

    def _run_part(self, part: slice) -> list[int]:
        documents, left = self.data.read(range(part.start, part.stop))
        require_known_ids(documents, self.vocabulary, part.start)
        if left:
            self._require_masks(part.start)
        found: list[Folded] = []
        sizes: list[int] = []
        equal = True
        for batch in in_batches(documents, self.vocabulary, whole=self.reference.deployed):
            ids, mask = pad(batch, left=left)
            before = self.reference.logits(ids, mask)
            after = self.candidate.logits(ids, mask).to(before.device)
            found.append(fold(before, after, ids, mask, self.top_k))
            sizes.append(len(batch))
            # padding has no part in it
            equal = equal and self.equal and torch.equal(*(_of_tokens(each, mask) for each in (before, after)))
        # what can run out of memory lies above, so that a repeated part adds nothing twice
        self.parts += found
        self.equal = equal and self.equal
        self.padded_left |= left
        self.digest.update(documents)
        self.contents += [self.known.setdefault(content_of(ids), len(self.known)) for ids in documents]
        self.lengths += [len(ids) - 1 for ids in documents]
        return sizes

    def _require_masks(self, start: int) -> None:
        for model in (self.candidate, self.reference):
            if not model.takes_mask:
                raise ObservationError(
                    f"documents are padded before their first token, from #{start} on or later, and the {model.who} "
                    "takes no attention_mask, so that it would read the padding as text: pad after the last token, or "
                    "give a model that takes the mask"
                )

    def result(self, padding: tuple[PaddingDependence, PaddingDependence]) -> Streamed:
        tokens = self.parts[0].joined(self.parts[1:])
        self.parts.clear()
        return Streamed(
            tokens,
            torch.tensor(self.lengths),
            self.equal,
            self.digest.hexdigest(),
            torch.tensor(self.contents),
            self.vocabulary,
            padding,
            self.padded_left,
        )


def in_batches(documents: list[Tensor], vocabulary: int, *, whole: bool) -> list[list[Tensor]]:
    """Return documents in batches whose logits are no more than allowed, or as one batch where it is kept `whole`."""
    if whole:
        return [documents]
    batches: list[list[Tensor]] = [[]]
    longest = 0
    for ids in documents:
        longest = max(longest, len(ids))
        if batches[-1] and (len(batches[-1]) + 1) * longest * vocabulary > _LARGEST_LOGITS:
            batches.append([])
            longest = len(ids)
        batches[-1].append(ids)
    return batches


def content_of(ids: Tensor) -> bytes:
    """Return the digest of a document, the same for equal ones."""
    digest = start_digest()
    update_with_bytes(digest, ids)
    return digest.digest()


def _of_tokens(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the logits (tokens, vocabulary) at places that are no padding, without copying where all are not."""
    flat = logits.flatten(0, 1)
    return flat if bool(mask.all()) else flat[mask.flatten().nonzero().flatten().to(flat.device)]


def perplexity(nll: float) -> float:
    """Return exp(nll), inf where it is too large for a number, and NaN where it is not known."""
    return math.inf if nll >= 700 else math.exp(nll)
