"""The best documents of each query, found in blocks of scores, with ties in the order of the documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Similarity = Literal["cosine", "dot", "euclidean", "model"]
_QUERIES, _SCORES = 256, 2**22
"""How many queries are ranked at once, and how many scores of them with documents are held: 32 MiB in float64."""
_NOT_RANKED = torch.iinfo(torch.int64).min


class Ranked(NamedTuple):
    """The best documents (queries, k) of each query, int64, best first, and their scores (queries, k), float32.

    Where fewer than k are ranked, the rest are −1 with a score of −inf.
    """

    documents: Tensor
    scores: Tensor


class Vectors:
    """The embeddings of queries and documents of one model, and how similar they are.

    Scores are computed in float64 and rounded to float32, so that documents with equal embeddings have equal scores in
    whichever block they stand.
    """

    def __init__(self, queries: Tensor, documents: Tensor, similarity: Similarity, device: torch.device) -> None:
        self.queries, self.documents, self.device = queries, documents, device
        self._kind = similarity

    def scores(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Return the similarity (..., n, m), float32, of queries (..., n, d) to documents (..., m, d)."""
        left, right = queries.to(self.device).double(), documents.to(self.device).double()
        if self._kind == "euclidean":
            # not by inner products, which leave noise of distances that are 0
            found = -torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")
        else:
            if self._kind == "cosine":
                left, right = (each / each.norm(dim=-1, keepdim=True) for each in (left, right))
            found = left @ right.transpose(-1, -2)
        return found.float() + 0.0

    def best(self, k: int) -> Ranked:
        """Return the k best documents of each query."""
        parts = []
        for some in torch.split(self.queries, _QUERIES):
            keys = torch.empty(len(some), 0, dtype=torch.int64, device=self.device)
            for start, block in _blocks(self.documents, max(k, _SCORES // len(some))):
                scores = self.scores(some, block)
                places = torch.arange(start, start + len(block), device=self.device)
                keys = torch.cat([keys, as_keys(scores, places)], dim=1)
                keys = keys.topk(min(k, keys.shape[1]), dim=1).values
            parts.append(keys.cpu())
        return from_keys(torch.cat(parts))

    def of(self, documents: Tensor) -> Tensor:
        """Return the scores (queries, k) of documents (queries, k)."""
        width = documents.shape[1] * self.documents.shape[1]
        rows = max(1, _SCORES // max(1, width))
        parts = [
            self.scores(some[:, None], self.documents[chosen])[:, 0]
            for some, chosen in zip(torch.split(self.queries, rows), torch.split(documents, rows), strict=True)
        ]
        return torch.cat(parts).cpu()


def _blocks(documents: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(documents), size):
        yield start, documents[start : start + size]


def as_keys(scores: Tensor, documents: Tensor) -> Tensor:
    """Return one whole number, int64, for each score, float32, and its document: the larger the earlier it is ranked.

    Of equal scores the document of the smaller number is first.
    """
    bits = (scores + 0.0).contiguous().view(torch.int32)  # + 0.0 makes −0 and 0 one value
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    return (ordered << 32) | (0xFFFFFFFF - documents)


def from_keys(keys: Tensor) -> Ranked:
    """Return the documents and scores that sorted keys (queries, k) stand for."""
    ordered = (keys >> 32).int()
    bits = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered)
    scores = bits.contiguous().view(torch.float32)
    absent = keys == _NOT_RANKED
    documents = 0xFFFFFFFF - (keys & 0xFFFFFFFF)
    return Ranked(documents.masked_fill(absent, -1), scores.masked_fill(absent, -torch.inf))


class Shortlisted:
    """The scores that a reranker gives the documents of each query's shortlist, all documents where there are none."""

    def __init__(self, documents: list[Tensor], scores: list[Tensor]) -> None:
        self._documents, self._scores = documents, scores

    def best(self, k: int) -> Ranked:
        """Return the k best documents of each query."""
        keys = torch.full((len(self._scores), k), _NOT_RANKED)
        for query, (documents, scores) in enumerate(zip(self._documents, self._scores, strict=True)):
            best = as_keys(scores, documents).topk(min(k, len(documents))).values
            keys[query, : len(best)] = best
        return from_keys(keys)

    def of(self, documents: Tensor) -> Tensor:
        """Return the scores (queries, k) of documents (queries, k) of the shortlists, −inf for −1."""
        found = torch.full(documents.shape, -torch.inf)
        for query, (own, scores) in enumerate(zip(self._documents, self._scores, strict=True)):
            asked = documents[query][documents[query] >= 0]
            found[query, : len(asked)] = scores[torch.searchsorted(own, asked)]
        return found


Ranker = Vectors | Shortlisted


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Return the share (queries,), float64, of the documents (queries, k) of the first that are among the second's."""
    shared = ((first[:, :, None] == second[:, None, :]) & (first[:, :, None] >= 0)).any(dim=2)
    return shared.sum(dim=1).double() / (first >= 0).sum(dim=1)


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Kendall's tau-b (queries,), float64, of two scores (queries, k) of the same documents.

    It is NaN where the first ties everywhere or has fewer than two documents, and 0 where only the second does; places
    with a score of −inf in the first do not count.

    >>> rank_correlation(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[3.0, 1.0, 2.0]])).item()
    0.3333333333333333
    """
    rows = max(1, _SCORES // max(1, first.shape[1] ** 2))
    pairs = zip(torch.split(first, rows), torch.split(second, rows), strict=True)
    return torch.cat([_tau(*pair) for pair in pairs])


def _tau(first: Tensor, second: Tensor) -> Tensor:
    counted = torch.isfinite(first)
    both = counted[:, :, None] & counted[:, None, :]
    signs = []
    for scores in (first, second):
        larger = scores[:, :, None] > scores[:, None, :]
        signs.append((larger.to(torch.int8) - larger.transpose(1, 2).to(torch.int8)).double() * both)
    agreement = (signs[0] * signs[1]).sum(dim=(1, 2))
    untied = [sign.abs().sum(dim=(1, 2)) for sign in signs]
    scale = (untied[0] * untied[1]).sqrt()
    found = torch.where(scale > 0, agreement / scale.clamp_min(1), torch.zeros_like(scale))
    return found.masked_fill(untied[0] == 0, torch.nan)
