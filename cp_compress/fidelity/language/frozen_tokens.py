"""A language model that was frozen: the most likely next tokens at each place of the documents it was asked about."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cp_compress.base.errors import ArtifactError, ObservationError
from cp_compress.fidelity.frozen.content import IDS, LENGTHS, NLL, FrozenContent
from cp_compress.fidelity.frozen.subject import FrozenSubject
from cp_compress.fidelity.language.next_tokens import NextTokens
from cp_compress.inputs.tokens import TokenData, Tokenizer


class FrozenTokens(FrozenSubject):
    """What a language model said of documents, read from a file; `load_observation` makes it.

    It stands in the place of a model where language models are compared, on the documents that were frozen.
    """

    def __init__(self, content: FrozenContent) -> None:
        self.describe_model(content)
        lengths, ids = content.tensor(LENGTHS), content.tensor(IDS)
        places = int(lengths.sum()) - len(lengths)
        whole = bool((lengths >= 2).all()) and int(lengths.sum()) == len(ids) and places == len(content.tensors[NLL])
        vocabulary = content.facts["outputs"]["classes"]
        if not whole or not bool(((ids >= 0) & (ids < vocabulary)).all()) or not content.top.possible(vocabulary):
            raise ArtifactError(content.name, "is damaged: its documents and their most likely tokens do not fit")
        self.documents: Sequence[Tensor] = torch.split(ids.long(), lengths.tolist())
        self._starts = (lengths - 1).cumsum(0) - (lengths - 1)

    def __repr__(self) -> str:
        return f"<FrozenTokens of {self.__name__} on {len(self.documents):,} documents, from {self.content.name}>"

    @property
    def data(self) -> TokenData:
        """The documents."""
        return TokenData(list(self.documents))

    def remarks(self) -> list[str]:
        """Return what a reader must be told of it."""
        return [f"{self.content.name} holds the {self.content.kept} most likely tokens of each place"]

    def next_tokens(
        self, documents: Sequence[Tensor], top_k: int, tokenizer: Tokenizer | None = None, first: int = 0
    ) -> list[NextTokens]:
        """Return what the model said of documents, of which the first is number `first`.

        Raises ObservationError for documents that are not those that were frozen, at their places, and where fewer
        tokens were frozen than are asked for.
        """
        kept = self.content.kept or 0
        if top_k > kept:
            raise ObservationError(
                f"{self.content.name} holds the {kept} most likely tokens of each place, and {top_k} are asked for: "
                "observe the model with a larger top_k (--top-k)"
            )
        return [self._of(number, ids, top_k) for number, ids in enumerate(documents, first)]

    def _of(self, number: int, ids: Tensor, top_k: int) -> NextTokens:
        if number >= len(self.documents) or not torch.equal(self.documents[number], ids):
            where = next((place for place, one in enumerate(self.documents) if torch.equal(one, ids)), None)
            told = "it is none of those that were frozen" if where is None else f"it was frozen as #{where}"
            raise ObservationError(
                f"{self.content.name} does not fit the data: document #{number} is another one than was frozen there; "
                f"{told}. Are texts tokenised and cut as they were?"
            )
        start = int(self._starts[number])
        part = slice(start, start + len(ids) - 1)
        top = self.content.top
        logprobs = top.values[part, :top_k].double() - top.log_totals[part, None]
        pairs = zip(top.places[part, :top_k].tolist(), logprobs.clamp_max(0).tolist(), strict=True)
        likely = [list(zip(tokens, values, strict=True)) for tokens, values in pairs]
        return NextTokens((-self.content.tensor(NLL)[part]).clamp_max(0), likely)
