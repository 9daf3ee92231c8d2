"""Queries, the documents among which they search, and which of those are relevant, in every form that users have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.digests import Digested, digest_text
from cp_compress.base.errors import ObservationError
from cp_compress.inputs.items import Items

Relevance = Mapping[Any, Any] | Sequence[Any] | Tensor
_PARTS = {
    "queries": ("queries", "query"),
    "corpus": ("corpus", "documents", "passages"),
    "relevant": ("relevant", "qrels"),
    "shortlists": ("shortlists", "candidates"),
}


@explains_keywords
class RetrievalData(Digested):
    """Queries and the documents among which they search, with judgements of relevance where there are any.

    Args:
        queries: The queries, in a form that an encoder takes in batches: a tensor (n, …), what a tokenizer returns, a
            list or map-style data set of texts, tensors or tokenized rows, or a mapping from names to them.
        corpus: The documents, in such a form too.
        relevant: Which documents are relevant to each query; None where nobody has judged it. A mapping from queries
            (names, or positions where they have none) to documents or to mappings from documents to grades; a sequence
            with such an entry for each query; or integers (pairs, 2 or 3): query, document and grade, by position.
            Grades are whole numbers; those of 0 or less, and documents that are not named, are not relevant.
        shortlists: For each query the documents that are ranked, in the same forms without grades; None for all. A
            reranker ranks those that an earlier stage found.

    Raises:
        ObservationError: If an argument is not as described, or names a query or a document that there is not.

    >>> data = RetrievalData(["a question"], ["one text", "another"], relevant=[[1]])
    >>> len(data), data.relevant
    (1, ({1: 1},))
    """

    def __init__(
        self,
        queries: Any,
        corpus: Any,
        relevant: Relevance | None = None,
        shortlists: Relevance | None = None,
    ) -> None:
        self.source: Any = self
        self.queries, self.corpus = Items(queries, "the queries"), Items(corpus, "the documents")
        self.relevant: tuple[dict[int, int], ...] | None = None
        self.shortlists: tuple[Tensor, ...] | None = None
        places = _places(self.corpus)
        if relevant is not None:
            rows = _by_query(relevant, self.queries, "relevant")
            self.relevant = tuple(_grades(row, places, f"relevant[{query}]") for query, row in enumerate(rows))
            if not any(grade > 0 for row in self.relevant for grade in row.values()):
                raise ObservationError("relevant names no relevant document: leave it out where nobody has judged")
        if shortlists is not None:
            rows = _by_query(shortlists, self.queries, "shortlists")
            found = [sorted(_grades(row, places, f"shortlists[{query}]")) for query, row in enumerate(rows)]
            empty = next((query for query, row in enumerate(found) if not row), None)
            if empty is not None:
                raise ObservationError(f"shortlists[{empty}] names no document to rank")
            self.shortlists = tuple(torch.tensor(row) for row in found)

    @classmethod
    def of(cls, source: Any) -> RetrievalData:
        """Return retrieval data: itself, a mapping of its parts, or a tuple (queries, corpus[, relevant])."""
        if isinstance(source, cls):
            return source
        given: dict[str, Any] = {}
        if isinstance(source, Mapping):
            for part, names in _PARTS.items():
                for name in names:
                    if name in source:
                        given[part] = source[name]
            unknown = [name for name in source if not any(name in names for names in _PARTS.values())]
            if unknown or not {"queries", "corpus"} <= given.keys():
                told = f"dataset is a mapping of {', '.join(map(str, source)) or 'nothing'}"
                raise ObservationError(f"{told}; it takes queries, corpus, relevant and shortlists")
        elif isinstance(source, tuple) and len(source) in (2, 3):
            given = dict(zip(_PARTS, source, strict=False))
        else:
            raise ObservationError(
                f"dataset is a {type(source).__name__}; it must be RetrievalData(queries, corpus, relevant), a mapping "
                "of these parts, or a tuple of them"
            )
        made = cls(**given)
        made.source = source
        return made

    def __len__(self) -> int:
        return len(self.queries)

    def digest(self) -> str:
        """Return the hex digest of queries, documents, judgements and shortlists."""
        lists = None if self.shortlists is None else [one.tolist() for one in self.shortlists]
        judged = None if self.relevant is None else [sorted(row.items()) for row in self.relevant]
        return digest_text(self.queries.digest(), self.corpus.digest(), repr(judged), repr(lists))

    def example_digests(self) -> list[frozenset[str]]:
        """Return the digests of the queries and of the documents by which data that a model was made with are known."""
        return [*self.queries.example_digests(), *self.corpus.example_digests()]

    def first_input(self) -> Any:
        """Return the first query as a batch."""
        return self.queries.batch([0])


def _places(items: Items) -> dict[Any, int]:
    """Return the position of each item by its name, or by its position where items have none."""
    return {name: place for place, name in enumerate(items.names if items.names is not None else range(len(items)))}


def _by_query(given: Any, queries: Items, what: str) -> list[Any]:
    """Return what is said of each query; None where nothing is."""
    if isinstance(given, (Tensor, np.ndarray)):
        pairs = torch.as_tensor(given)
        if pairs.ndim != 2 or pairs.shape[1] not in (2, 3) or pairs.is_floating_point():
            told = f"{what} is a tensor {tuple(pairs.shape)} of {pairs.dtype}"
            raise ObservationError(f"{told}; it must be integers (pairs, 2 or 3): query, document, grade")
        rows: list[Any] = [{} for _ in range(len(queries))]
        for query, document, *grade in pairs.tolist():
            if not 0 <= query < len(rows):
                raise ObservationError(f"{what} names the query {query}; there are {len(rows)}")
            rows[query][document] = grade[0] if grade else 1
        return rows
    if isinstance(given, Mapping):
        places = _places(queries)
        unknown = [name for name in given if name not in places]
        if unknown:
            some = list(places)[:3]
            raise ObservationError(f"{what} names the query {unknown[0]!r}, which there is not; queries are {some}…")
        by_place = {places[name]: value for name, value in given.items()}
        return [by_place.get(place) for place in range(len(queries))]
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence) or len(given) != len(queries):
        found = len(given) if isinstance(given, Sequence) else type(given).__name__
        raise ObservationError(f"{what} must have an entry for each of {len(queries)} queries; found {found}")
    return list(given)


def _grades(row: Any, places: Mapping[Any, int], what: str) -> dict[int, int]:
    """Return the grade of each document that a query names, by position."""
    if row is None:
        return {}
    if isinstance(row, Tensor):
        row = row.tolist()
    if not isinstance(row, (Mapping, Sequence, set, frozenset, np.ndarray)) or isinstance(row, str):
        row = [row]
    grades = row if isinstance(row, Mapping) else dict.fromkeys(row, 1)
    found = {}
    for name, grade in grades.items():
        if name not in places:
            some = list(places)[:3]
            raise ObservationError(f"{what} names the document {name!r}, which there is not; documents are {some}…")
        if isinstance(grade, bool) or int(grade) != grade:
            raise ObservationError(f"{what} gives {name!r} the grade {grade!r}; grades are whole numbers")
        found[places[name]] = int(grade)
    return found
