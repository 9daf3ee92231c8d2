"""Does a compressed encoder, or reranker, still put the same documents first?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from cp_compress.base.arguments import check_choice, check_integer, explains_keywords, reject
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.judging.batches import with_batches
from cp_compress.fidelity.judging.intervals import Evidence
from cp_compress.fidelity.judging.measurement import WITHOUT_SKILL, ExampleChange, Measurement, unskilled
from cp_compress.fidelity.judging.units import Units
from cp_compress.fidelity.observing.refusals import require_known_batches
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.predictions.tables import Slices, read_slices
from cp_compress.fidelity.retrieval.encoding import (
    Encode,
    Encoded,
    Score,
    call_model,
    embed_both,
    rank_both,
    score_pairs,
    vectors_of,
)
from cp_compress.fidelity.retrieval.judgements import (
    MEASURES,
    chance_of,
    doubts_of_skill,
    judge_rankings,
    judged_queries,
)
from cp_compress.fidelity.retrieval.ranking import Ranked, Ranker, Similarity, overlap, rank_correlation
from cp_compress.fidelity.side_by_side.independent import independent_units
from cp_compress.fidelity.side_by_side.sides import EQUAL, Side, both_sides, evaluating
from cp_compress.inputs.clusters import Clusters, read_clusters
from cp_compress.inputs.retrieval import RetrievalData

Index = Literal["candidate", "reference"]
_OWNER = "compare_retrieval"
_LISTED, _NAMED = 20, 3
_FEWEST_ALIKE = 20


@explains_keywords
def compare_retrieval(
    candidate: Model,
    reference: Model,
    data: Any,
    *,
    similarity: Similarity,
    k: int = 10,
    index: Index = "candidate",
    encode: Encode | None = None,
    encode_documents: Encode | None = None,
    score: Score | None = None,
    slices: Slices | None = None,
    clusters: Clusters | None = None,
    device: torch.device | str | None = None,
    batch_size: int = 256,
    deployed_batch_size: int | None = None,
) -> Measurement:
    """Measure how far an encoder, or a reranker, finds the documents that its reference finds.

    Both models encode queries and documents batch by batch; scores are computed in blocks, and of each query the `k`
    best documents are kept. Of equal scores the document that comes first in the corpus is first.

    Metrics: `result_overlap`, the mean share of the reference's k best documents that are among the candidate's k best;
    `first_result_agreement`, the share of queries with one best document; `result_rank_correlation`, the mean of
    Kendall's tau-b of the candidate's and the reference's scores of the reference's k best documents; with `slices`
    `min_slice_result_overlap`. With judgements of relevance, of each model and as the reference's less the candidate's:
    `recall` (@k), `mrr` (mean reciprocal rank, @k) and `ndcg` (@k, grades as gains), as `ir-measures` gives them; with
    slices `max_slice_ndcg_drop`.

    Claims at a confidence are about queries, or clusters of them; equal queries are one.

    Args:
        candidate: The compressed model: a callable from a batch of inputs to embeddings (n, d), or of `similarity`
            "model" from a batch of queries and one of documents to scores (n,).
        reference: The model that it is compared with.
        data: `RetrievalData`, or a mapping or tuple of queries, corpus and, where they are judged, relevant.
        similarity: How a query is compared with a document: "cosine" (embeddings are normalised here, whatever the
            models do), "dot" (the inner product of what the models give), "euclidean" (the smaller the distance the
            better), or "model" for a reranker, which scores pairs itself.
        k: How many documents of each query are looked at.
        index: "candidate" if documents are encoded anew by the candidate, or "reference" if the index of the reference
            is kept and the candidate encodes queries only.
        encode: What turns (model, batch) into embeddings, such as a function that tokenizes, pools and normalises; by
            default the model's own output.
        encode_documents: The same for documents, where it differs.
        score: What turns (model, queries, documents) into scores of a reranker.
        slices: Named subsets of the queries, as masks (n,) or indices.
        clusters: Which queries are not independent of each other: one whole number or text a query.
        device: Where to run; by default where each model is.
        batch_size: The largest number of inputs in one call.
        deployed_batch_size: The batch size of the deployed model, where answers depend on it.

    Returns:
        The measurement. `per_example` has a row a query.

    Raises:
        InvalidArgumentError: If an argument is not as described.
        ObservationError: If the data cannot be read, a model gives no embeddings or scores, answers at random or
            returns NaN, one model normalises its embeddings and the other does not, all documents are the same to the
            reference, or it is no better than chance by the judgements.

    >>> texts = torch.eye(4)
    >>> found = compare_retrieval(lambda one: one.flip(1), lambda one: one, (texts, texts), similarity="dot", k=1)
    >>> found.metrics["result_overlap"], found.counts["result_overlap"]
    (1.0, 4)
    """
    check_choice(_OWNER, "similarity", similarity, get_args(Similarity))
    check_choice(_OWNER, "index", index, get_args(Index))
    pairs = similarity == "model"
    for name, given in (("encode", encode), ("encode_documents", encode_documents), ("score", score)):
        if given is not None and not callable(given):
            reject(_OWNER, name, type(given).__name__, "must be a function of the model and what it is given")
        if given is not None and pairs != (name == "score"):
            rule = (
                'scores pairs, which is for similarity="model"' if name == "score" else "encodes, and a reranker scores"
            )
            reject(_OWNER, name, getattr(given, "__name__", type(given).__name__), f"{rule}: leave it out")
    if pairs and index == "reference":
        reject(_OWNER, "index", index, "a reranker has no index: leave it out")
    retrieval = RetrievalData.of(data)
    if not pairs and retrieval.shortlists is not None:
        reject(_OWNER, "shortlists", "given", 'only rerankers rank shortlists: similarity="model", or leave them out')
    most = int(_ranked(retrieval).max()) - 1
    rule = f"must be a whole number of 1 to {most}: of {most + 1} documents that are ranked, fewer than all"
    k = check_integer(_OWNER, "k", k, rule, at_least=1, at_most=most)
    subsets = read_slices(_OWNER, slices, len(retrieval))
    known = read_clusters(_OWNER, clusters, retrieval, len(retrieval))
    sides = both_sides(
        _OWNER,
        Side,
        (candidate, reference),
        device=device,
        batch_size=batch_size,
        deployed_batch_size=deployed_batch_size,
    )
    digest = retrieval.digest()  # data that change are told before a model is blamed for it
    rankers: tuple[Ranker, Ranker]
    with evaluating(*sides):
        if pairs:
            rankers, equal = rank_both(sides, retrieval, score or score_pairs)
        else:
            how = encode or call_model, encode_documents or encode or call_model
            encoded = embed_both(sides, retrieval, how, documents=(index == "candidate", True))
    require_known_batches(*sides)
    if not pairs:
        _require_one_normalization(*encoded, similarity)
        ours, theirs = (vectors_of(one, similarity, side) for one, side in zip(encoded, sides, strict=True))
        rankers, equal = (ours, theirs), all(torch.equal(*parts) for parts in zip(*encoded, strict=True))
    units = independent_units(known, retrieval.queries.repeated())
    measured = _measure(rankers, retrieval, k, subsets, units)
    details = {
        **measured.details,
        EQUAL: equal,
        "data_digest": digest,
        "k": k,
        "similarity": similarity,
        "index": index,
        "documents": len(retrieval.corpus),
    }
    return with_batches(dataclasses.replace(measured, details=details), *sides)


def _require_one_normalization(candidate: Encoded, reference: Encoded, similarity: Similarity) -> None:
    ours, theirs = candidate.are_normalized(), reference.are_normalized()
    if ours == theirs or (similarity == "cosine" and ours):
        return
    with_it, without = ("candidate", "reference") if ours else ("reference", "candidate")
    lengths = (reference if ours else candidate).queries.norm(dim=1)
    raise ObservationError(
        f"the {with_it}'s embeddings are normalised (each of length 1) and the {without}'s are not (queries have "
        f"lengths of {float(lengths.min()):.3g} to {float(lengths.max()):.3g}): one of them lacks its last step, so "
        "that the scores of an index would change. Normalise in both, in the model or by encode=, or in neither"
    )


def _ranked(data: RetrievalData) -> Tensor:
    """Return how many documents (queries,) are ranked for each query."""
    if data.shortlists is None:
        return torch.full((len(data),), len(data.corpus))
    return torch.tensor([len(one) for one in data.shortlists])


def _measure(
    rankers: tuple[Ranker, Ranker], data: RetrievalData, k: int, subsets: Mapping[str, Tensor], units: Units
) -> Measurement:
    after, before = (ranker.best(k) for ranker in rankers)
    notes = [f"{len(data)} queries among {len(data.corpus)} documents", *_alike_notes(before)]
    shared = overlap(before.documents, after.documents)
    first = before.documents[:, 0] == after.documents[:, 0]
    tau = rank_correlation(before.scores, rankers[0].of(before.documents))
    choosing = _ranked(data) > k  # where all are kept, whatever the order, nothing is told
    metrics: dict[str, float] = {
        "result_overlap": float(shared[choosing].mean()),
        "first_result_agreement": float(first.double().mean()),
    }
    counts = {"result_overlap": int(choosing.sum()), "first_result_agreement": len(data)}
    ranked = _ranked(data).double()
    chance = {
        "result_overlap": float((k / ranked[choosing]).mean()),
        "first_result_agreement": float((1 / ranked).mean()),
        "result_rank_correlation": 0.0,
    }
    evidence: dict[str, Evidence] = {
        "result_overlap": units.among(choosing).mean(shared[choosing]),
        "first_result_agreement": units.share(first),
    }
    defined = ~torch.isnan(tau)
    if bool(defined.any()):
        metrics["result_rank_correlation"] = float(tau[defined].mean())
        evidence["result_rank_correlation"] = units.among(defined).mean(tau[defined], -1.0, 1.0)
        counts["result_rank_correlation"] = int(defined.sum())
    rows: list[list[Any]] = [[name, len(members), float(shared[members].mean())] for name, members in subsets.items()]
    if rows:
        worst = min(rows, key=lambda row: row[2])
        metrics["min_slice_result_overlap"], counts["min_slice_result_overlap"] = worst[2], worst[1]
        chance["min_slice_result_overlap"] = min(
            float((k / ranked[members]).clamp_max(1).mean()) for members in subsets.values()
        )
    per_example = {"overlap": shared, "first_result": first, "rank_correlation": tau}
    tables = [{"caption": "slices", "columns": ["slice", "queries", "result overlap"], "rows": rows}] if rows else []
    if data.relevant is not None:
        judged = judged_queries(data.relevant)
        found = judge_rankings([after.documents, before.documents], data.relevant, judged, k)
        searched = _ranked(data)[judged].tolist()
        notes += doubts_of_skill(found[1]["ndcg"], data.relevant, judged, searched, k)
        # of shortlists, judgements can name documents that are not among them
        by_chance = chance_of(data.relevant, judged, len(data.corpus), k) if data.shortlists is None else {}
        if len(judged) < len(data):
            notes.append(
                f"{len(data) - len(judged)} queries have no relevant document: they count for no recall or nDCG"
            )
        places = torch.tensor(judged)
        some = units.among(places)
        for name in MEASURES:
            new, old = found[0][name], found[1][name]
            metrics |= {f"reference_{name}": float(old.mean()), name: float(new.mean())}
            metrics[f"{name}_drop"] = float((old - new).mean())
            chance[name] = by_chance.get(name, 0.0)
            chance[f"{name}_drop"] = float(old.mean()) - chance[name]
            evidence |= {f"reference_{name}": some.mean(old), name: some.mean(new)}
            evidence[f"{name}_drop"] = some.mean(old - new, -1.0, 1.0)
            counts |= dict.fromkeys((f"reference_{name}", name, f"{name}_drop"), len(judged))
            for label, values in ((f"reference_{name}", old), (name, new)):
                per_example[label] = torch.full((len(data),), torch.nan, dtype=torch.float64)
                per_example[label][places] = values
        judged_rows = _judged_slices(per_example, subsets)
        if judged_rows:
            worst = max(judged_rows, key=lambda row: row[4])
            metrics["max_slice_ndcg_drop"], counts["max_slice_ndcg_drop"] = worst[4], worst[1]
            columns = ["slice", "queries", "nDCG before", "after", "drop"]
            tables.append({"caption": "slices by relevance", "columns": columns, "rows": judged_rows})
    return Measurement(
        comparison="retrieval",
        metrics=metrics,
        counts=counts,
        evidence=evidence,
        per_example=per_example,
        examples=_changes(data, before, after, shared, first),
        details={
            "tables": tables,
            "clusters": units.to_json(),
            WITHOUT_SKILL: [unskilled("a model that puts documents in a random order", chance, len(data))],
        },
        notes=tuple(notes),
    )


def _judged_slices(per_example: Mapping[str, Tensor], subsets: Mapping[str, Tensor]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for name, members in subsets.items():
        old, new = (per_example[label][members] for label in ("reference_ndcg", "ndcg"))
        kept = ~torch.isnan(old)
        if bool(kept.any()):
            before, after = float(old[kept].mean()), float(new[kept].mean())
            rows.append([name, int(kept.sum()), before, after, before - after])
    return rows


def _alike_notes(before: Ranked) -> list[str]:
    """Return notes on a reference that does not regard the query; raises ObservationError where that is sure."""
    last = before.scores.masked_fill(~torch.isfinite(before.scores), torch.inf).amin(dim=1)
    if before.scores.shape[1] > 1 and bool((before.scores[:, 0] == last).all()):
        raise ObservationError(
            "the reference gives all documents the same score for all queries, so that nothing is ranked: check how "
            "inputs reach it, and that embeddings differ"
        )
    if len(before.documents) < 2 or not bool((before.documents == before.documents[0]).all()):
        return []
    told = f"the reference finds the same documents in the same order for all {len(before.documents)} queries"
    if len(before.documents) < _FEWEST_ALIKE:
        return [f"{told}: a model that does not read the query would, too"]
    raise ObservationError(f"{told}, so that a model that does not read the query would hold any requirement")


def _changes(
    data: RetrievalData, before: Ranked, after: Ranked, shared: Tensor, first: Tensor
) -> tuple[ExampleChange, ...]:
    worst = torch.argsort(shared + first.double() * 1e-6, stable=True)[:_LISTED].tolist()
    changes = []
    for query in worst:
        if shared[query] == 1 and bool(first[query]):
            continue
        texts = [", ".join(map(data.corpus.name, _listed(found.documents[query]))) for found in (before, after)]
        kept = f"{float(shared[query]):.0%} of the documents kept"
        changes.append(ExampleChange(query, data.queries.name(query), texts[0], f"{texts[1]} ({kept})"))
    return tuple(changes)


def _listed(documents: Tensor) -> list[int]:
    return [place for place in documents[:_NAMED].tolist() if place >= 0]
