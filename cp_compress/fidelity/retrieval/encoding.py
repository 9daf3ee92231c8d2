"""Encoders and rerankers ready to run: from batches of inputs to embeddings, or to scores of pairs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.retrieval.ranking import Shortlisted, Similarity, Vectors
from cp_compress.fidelity.side_by_side.probing import probe_batches
from cp_compress.fidelity.side_by_side.sides import Side, run_both
from cp_compress.inputs.items import Items, to_device
from cp_compress.inputs.retrieval import RetrievalData

Encode = Callable[[Model, Any], Any]
Score = Callable[[Model, Any, Any], Any]
_NAMED = ("sentence_embedding", "text_embeds", "image_embeds")
_UNIT = 0.02
"""How far from 1 the length of a normalised embedding may be, as of one in bfloat16 or of eight bits."""


class Encoded(NamedTuple):
    """The embeddings (n, d), float32, of queries and documents."""

    queries: Tensor
    documents: Tensor

    def are_normalized(self) -> bool:
        """Tell whether all have length 1."""
        return all(bool(((part.double().norm(dim=1) - 1).abs() < _UNIT).all()) for part in self)


def embed_both(
    sides: tuple[Side, Side], data: RetrievalData, encode: tuple[Encode, Encode], *, documents: tuple[bool, bool]
) -> tuple[Encoded, Encoded]:
    """Return what candidate and reference make of queries and documents; `documents` says which of them reads these.

    The candidate has the reference's embeddings of the documents where it reads none.

    Raises ObservationError for embeddings that are none, NaN, of several lengths or that depend on chance.
    """
    queries = _parts(sides, data.queries, encode[0], (True, True), probing=True)
    rows = _parts(sides, data.corpus, encode[1], documents)
    candidate, reference = (
        Encoded(query, row if read else rows[1]) for query, row, read in zip(queries, rows, documents, strict=True)
    )
    for side, found in zip(sides, (candidate, reference), strict=True):
        if found.queries.shape[1] != found.documents.shape[1]:
            raise ObservationError(
                f"the {side.who} gives queries {found.queries.shape[1]} numbers, and the documents that they are "
                f"compared with have {found.documents.shape[1]}: they must be embeddings of one space"
            )
    return candidate, reference


def _parts(
    sides: tuple[Side, Side], items: Items, encode: Encode, read: tuple[bool, bool], *, probing: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the embeddings of both sides; nothing (0, d) for one that does not read the items."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])

    def run(part: slice) -> list[int]:
        rows = [
            _embed(side, encode, items, range(part.start, part.stop)) if asked else torch.empty(0, 1)
            for side, asked in zip(sides, read, strict=True)
        ]
        if part.start == 0 and probing:
            for side, row in zip(sides, rows, strict=True):
                probe_batches(side, functools.partial(_embed, side, encode, items), row)
        for kept, row in zip(found, rows, strict=True):
            kept.append(row)
        return [part.stop - part.start]

    run_both(*sides, len(items), run)
    joined = []
    for side, parts in zip(sides, found, strict=True):
        widths = {part.shape[1] for part in parts}
        if len(widths) > 1:
            raise ObservationError(f"the {side.who} gives {items.what} embeddings of {sorted(widths)} numbers")
        joined.append(_alike_where_equal(torch.cat(parts), items))
    return joined[0], joined[1]


def _alike_where_equal(rows: Tensor, items: Items) -> Tensor:
    """Give equal items the embedding of the first: in other batches it is rounded otherwise, and they would not tie."""
    numbers = items.repeated()
    if not len(rows) or int(numbers.max()) + 1 == len(items):
        return rows
    first = torch.full((int(numbers.max()) + 1,), len(items)).scatter_reduce(
        0, numbers, torch.arange(len(items)), "amin"
    )
    return rows[first[numbers]]


def _embed(side: Side, encode: Encode, items: Items, positions: Any) -> Tensor:
    """Return the embeddings (k, d), float32 on the CPU, of some items."""
    places = list(positions)
    batch = to_device(items.batch(places), side.runner.device)
    what = f"a batch of {len(places)} of {items.what}"
    output = side.output(lambda model: encode(model, batch), len(places), what)
    found = _as_tensor(output, side, items.what)
    if found.ndim != 2 or len(found) != len(places):
        raise ObservationError(
            f"the {side.who} returned shape {tuple(found.shape)} for {len(places)} of {items.what}; expected one "
            "embedding (d,) for each: pool what it gives for each token, in a wrapper or by encode="
        )
    return _finite(found, side, items.what, places[0])


def _as_tensor(output: Any, side: Side, what: str) -> Tensor:
    for name in _NAMED:
        named = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        output = output if named is None else named
    if isinstance(output, np.ndarray):
        output = torch.as_tensor(output)
    if not isinstance(output, Tensor) or not output.is_floating_point():
        found = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise ObservationError(
            f"the {side.who} returned {found} for {what}; expected a floating-point tensor: say by encode= how a batch "
            "becomes embeddings (n, d), such as encode=lambda model, batch: model(**batch).last_hidden_state[:, 0]"
        )
    return output


def _finite(found: Tensor, side: Side, what: str, first: int) -> Tensor:
    values = found.detach().float().cpu()
    bad = (~torch.isfinite(values).reshape(len(values), -1).all(dim=1)).nonzero().flatten()
    if len(bad):
        raise ObservationError(f"the {side.who} returned NaN or infinite values for #{first + int(bad[0])} of {what}")
    return values


def call_model(model: Model, batch: Any) -> Any:
    """Return what a model makes of a batch: a mapping is given by keyword."""
    return model(**batch) if isinstance(batch, Mapping) else model(batch)


def score_pairs(model: Model, queries: Any, documents: Any) -> Any:
    """Return what a model makes of pairs of queries and documents."""
    return model(queries, documents)


def rank_both(
    sides: tuple[Side, Side], data: RetrievalData, score: Score
) -> tuple[tuple[Shortlisted, Shortlisted], bool]:
    """Return the scores that candidate and reference give to pairs, and whether they are equal to the bit."""
    lists = data.shortlists or tuple(torch.arange(len(data.corpus)) for _ in range(len(data)))
    lengths = torch.tensor([len(one) for one in lists])
    queries, documents = torch.repeat_interleave(torch.arange(len(data)), lengths), torch.cat(lists)
    found: tuple[list[Tensor], list[Tensor]] = ([], [])

    def ask(side: Side, places: Any) -> Tensor:
        return _score(side, data, score, queries[places], documents[places])

    def run(part: slice) -> list[int]:
        rows = [ask(side, list(range(part.start, part.stop))) for side in sides]
        if part.start == 0:
            for side, row in zip(sides, rows, strict=True):
                probe_batches(side, functools.partial(ask, side), row)
        for kept, row in zip(found, rows, strict=True):
            kept.append(row)
        return [part.stop - part.start]

    run_both(*sides, len(queries), run)
    scores = [torch.cat(parts) for parts in found]
    ranked = [Shortlisted(list(lists), list(torch.split(one, lengths.tolist()))) for one in scores]
    return (ranked[0], ranked[1]), torch.equal(*scores)


def _score(side: Side, data: RetrievalData, score: Score, queries: Tensor, documents: Tensor) -> Tensor:
    pair = [
        to_device(items.batch(places.tolist()), side.runner.device)
        for items, places in ((data.queries, queries), (data.corpus, documents))
    ]
    what = f"{len(queries)} pairs of a query and a document"
    output = side.output(lambda model: score(model, *pair), len(queries), what)
    output = getattr(output, "logits", output)
    found = torch.as_tensor(output) if isinstance(output, np.ndarray) else output
    if isinstance(found, Tensor) and found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.shape != (len(queries),):
        told = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ObservationError(
            f"the {side.who} returned {told} for {what}; expected one number a pair: say by score= how pairs become "
            "scores (n,), such as score=lambda model, queries, documents: model.predict(list(zip(queries, documents)))"
        )
    return _finite(found, side, "pairs", 0)


def vectors_of(encoded: Encoded, similarity: Similarity, side: Side) -> Vectors:
    """Return embeddings as what ranks documents; raises ObservationError for one that has no direction."""
    if similarity == "cosine":
        for part, what in zip(encoded, ("query", "document"), strict=True):
            zero = (part.double().norm(dim=1) == 0).nonzero().flatten()
            if len(zero):
                raise ObservationError(
                    f"the {side.who} gives {what} #{int(zero[0])} nothing but zeros: it has no cosine"
                )
    device = side.runner.device
    # other accelerators have no float64
    return Vectors(*encoded, similarity, device if device.type == "cuda" else torch.device("cpu"))
