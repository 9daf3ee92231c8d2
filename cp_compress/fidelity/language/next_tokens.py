"""What is known of a language model whose logits nobody gives: the most likely tokens at each place of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.inputs.tokens import Tokenizer

NO_DIVERGENCE = (
    "a served or frozen model tells the most likely tokens alone, and a divergence needs the probabilities of all; "
    "require token_agreement, top_k_overlap or perplexity_ratio"
)
"""Why nothing is known of a divergence."""
_OF_LOGITS = ("token_kl", "kl_quantile")

Likely = tuple["int | str", float]
"""A token, by its id or as it reads, and its log-probability."""


@dataclass(frozen=True, eq=False)
class NextTokens:
    """What a model says of one document of `length` tokens, at the places of its second token and all later ones.

    Attributes:
        logprobs: The log-probability (length - 1,), float64, in nats, of the token that the document has; NaN where
            it is not known.
        likely: At each place the most likely tokens, at most as many as were asked for, the largest first; none where
            nothing is known of it.
    """

    logprobs: Tensor
    likely: Sequence[Sequence[Likely]]


def require_known(owner: str, models: Sequence[object], metrics: Sequence[str]) -> None:
    """Raise InvalidArgumentError for metrics of which nothing is known where a model gives no logits."""
    if any(isinstance(model, NextTokenModel) for model in models):
        for metric in metrics:
            if metric.startswith(_OF_LOGITS):
                reject(owner, "metric", metric, f"its value is not known: {NO_DIVERGENCE}")


@runtime_checkable
class NextTokenModel(Protocol):
    """A language model that tells the most likely next tokens, and no logits, such as one that a server runs."""

    def next_tokens(
        self, documents: Sequence[Tensor], top_k: int, tokenizer: Tokenizer | None = None, first: int = 0
    ) -> list[NextTokens]:
        """Return what is known of each document of ids, int64 (length,), with the `top_k` most likely tokens.

        `tokenizer` says how ids read, for models that know tokens by their texts alone, and `first` is the number of
        the first document, for errors. Raises ObservationError where the model cannot answer all of them.
        """

    def remarks(self) -> list[str]:
        """Return sentences on how it was asked, which a reader must see beside the numbers."""
