"""What judgements of relevance say of rankings: recall, reciprocal rank, nDCG, and whether chance does as well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cp_compress.base.errors import MissingExtraError, ObservationError

MEASURES = ("recall", "mrr", "ndcg")
_FEWEST = 20
_ERROR = 2.326
"""The standard errors that a normal variable exceeds with a probability of 1 %."""
_SKILL = 0.1


def judge_rankings(
    documents: Sequence[Tensor], relevant: Sequence[Mapping[int, int]], judged: Sequence[int], k: int
) -> list[dict[str, Tensor]]:
    """Return recall@k, reciprocal rank@k and nDCG@k, each (judged,) float64, of several rankings.

    They are those of `ir_measures`, which asks trec_eval: nDCG has grades as gains.

    Args:
        documents: The documents (queries, k) of each ranking, best first, −1 for none.
        relevant: The grade of each relevant document, for each query.
        judged: The queries that count.
        k: How many documents are looked at.

    Raises:
        MissingExtraError: If `ir-measures` is not installed.
    """
    try:
        import ir_measures
        from ir_measures import RR, R, nDCG
    except ImportError as error:
        raise MissingExtraError("judgements of relevance", "retrieval") from error
    measures = {"recall": R @ k, "mrr": RR @ k, "ndcg": nDCG @ k}
    grades = [
        ir_measures.Qrel(str(query), str(document), grade)
        for query in judged
        for document, grade in relevant[query].items()
    ]
    evaluator = ir_measures.evaluator(list(measures.values()), grades)
    places = {str(query): place for place, query in enumerate(judged)}
    names = {measure: name for name, measure in measures.items()}
    found = []
    for ranking in documents:
        run = [
            # by rank: trec_eval would put equal scores into an order of its own
            ir_measures.ScoredDoc(str(query), str(document), float(-rank))
            for query in judged
            for rank, document in enumerate(ranking[query].tolist())
            if document >= 0
        ]
        values = {name: torch.zeros(len(judged), dtype=torch.float64) for name in measures}
        for one in evaluator.iter_calc(run):
            values[names[one.measure]][places[one.query_id]] = one.value
        found.append(values)
    return found


def judged_queries(relevant: Sequence[Mapping[int, int]]) -> list[int]:
    """Return the queries that have a relevant document."""
    return [query for query, row in enumerate(relevant) if any(grade > 0 for grade in row.values())]


def doubts_of_skill(
    ndcg: Tensor, relevant: Sequence[Mapping[int, int]], judged: Sequence[int], ranked: Sequence[int], k: int
) -> list[str]:
    """Return a note where a reference's nDCG (judged,) is not shown to be better than that of a random order.

    `ranked` is the number of documents among which each judged query searches. Raises ObservationError where, of 20
    queries or more, a skill of a tenth of the way from chance to 1 is refuted at an error of 1 %.
    """
    chance = torch.tensor(
        [_by_chance(relevant[query], count, k) for query, count in zip(judged, ranked, strict=True)],
        dtype=torch.float64,
    )
    telling = chance < 1 - 1e-9
    if not bool(telling.any()):
        return ["every order of the documents is as good as any other by these judgements: they tell nothing"]
    skill = ((ndcg - chance) / (1 - chance))[telling]
    count, mean = len(skill), float(skill.mean())
    error = _ERROR * float(skill.std()) / math.sqrt(count) if count > 1 else math.inf
    told = (
        f"the reference's nDCG@{k} is {float(ndcg.mean()):.3g} over {len(ndcg)} queries, where a random order gives "
        f"{float(chance.mean()):.3g}"
    )
    if mean - error > 0:
        return []
    if mean + error < _SKILL and count >= _FEWEST:
        raise ObservationError(
            f"{told}: it is no better than chance by these judgements, so that a ruined model would lose nothing. "
            "Check that queries and documents are numbered or named as the judgements name them, or leave relevant out"
        )
    return [f"{told}: too little to show that it is better than chance, so what rests on relevance may say nothing"]


def _by_chance(grades: Mapping[int, int], count: int, k: int) -> float:
    """Return the expected nDCG@k of documents in a random order."""
    gains = sorted((grade for grade in grades.values() if grade > 0), reverse=True)
    discounts = [1 / math.log2(place + 2) for place in range(min(k, count))]
    ideal = sum(gain * discount for gain, discount in zip(gains, discounts, strict=False))
    return sum(gains) / count * sum(discounts) / ideal


def chance_of(relevant: Sequence[Mapping[int, int]], judged: Sequence[int], count: int, k: int) -> dict[str, float]:
    """Return the expected recall, reciprocal rank and nDCG, @k, of `count` documents in a random order.

    >>> chance_of([{0: 1}], [0], 4, 2)["recall"], chance_of([{0: 1}], [0], 4, 2)["mrr"]
    (0.5, 0.375)
    """
    rows = [relevant[query] for query in judged]
    first = [_first_by_chance(sum(grade > 0 for grade in row.values()), count, k) for row in rows]
    ndcg = [_by_chance(row, count, k) for row in rows]
    return {"recall": k / count, "mrr": sum(first) / len(rows), "ndcg": sum(ndcg) / len(rows)}


def _first_by_chance(number: int, count: int, k: int) -> float:
    """Return the expected reciprocal rank, @k, of the first of `number` relevant among `count` documents."""
    found, none_before = 0.0, 1.0
    for place in range(min(k, count - number + 1)):
        hit = number / (count - place)
        found += none_before * hit / (place + 1)
        none_before *= 1 - hit
    return found
