"""Does a language model still predict the next token as its reference does?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, check_real, explains_keywords, reject
from cp_compress.base.error_reasons import shortened
from cp_compress.fidelity.judging.batches import with_batches
from cp_compress.fidelity.judging.intervals import Evidence
from cp_compress.fidelity.judging.measurement import WITHOUT_SKILL, ExampleChange, Measurement, unskilled
from cp_compress.fidelity.judging.units import ClusteredQuantile, Units
from cp_compress.fidelity.language.models import LanguageModel
from cp_compress.fidelity.language.probing import KEY, padding_notes
from cp_compress.fidelity.language.streaming import Streamed, perplexity, stream
from cp_compress.fidelity.observing.refusals import require_known_batches
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.predictions.tables import Slices, read_slices
from cp_compress.fidelity.side_by_side.sides import EQUAL, both_sides
from cp_compress.inputs.clusters import Clusters, joined_clusters, read_clusters
from cp_compress.inputs.tokens import TokenData, Tokenizer

_OWNER = "compare_language"
_LISTED = 20
_DECILES = 10
_CONTEXT = 12
_LONGEST_TEXT = 120


@explains_keywords
def compare_language(
    candidate: Model,
    reference: Model,
    data: Any,
    *,
    slices: Slices | None = None,
    clusters: Clusters | None = None,
    top_k: int = 5,
    quantiles: Sequence[float] = (0.99,),
    tokenizer: Tokenizer | None = None,
    device: torch.device | str | None = None,
    batch_size: int = 256,
    deployed_batch_size: int | None = None,
) -> Measurement:
    """Measure how far a language model predicts the next token as its reference does.

    Both models run batch by batch on the same documents, and each batch of logits is folded at once into 25 bytes a
    token. Targets are the ids, shifted by one place; padding and each document's first token do not count.

    Metrics: `perplexity_ratio` = exp(mean NLL of the candidate − mean NLL of the reference), over all tokens, and of
    each model `perplexity` and `reference_perplexity` = exp(mean NLL), as exp of the loss of `transformers` is;
    `token_kl`, the mean over tokens of KL(reference ‖ candidate) = Σ p_ref · (log p_ref − log p_cand) over the
    vocabulary, in nats, as `llama-perplexity --kl-divergence` computes it; `kl_quantile_q`, a quantile of it over
    tokens for each q of `quantiles`; `token_agreement`, the share of tokens at which both models give the largest logit
    to one token; `top_k_overlap`, the mean share of the reference's `top_k` tokens that are among the candidate's; with
    slices `worst_slice_perplexity_ratio`.

    Claims at a confidence are about documents, or clusters of them: tokens of one document are not independent, and
    equal documents are one.

    Args:
        candidate: The compressed model: any callable from ids (n, length), and a mask if it has a parameter
            `attention_mask` or `mask`, to logits (n, length, vocabulary) or an object with `.logits`.
        reference: The model that it is compared with.
        data: Token ids (n, length), with a mask where documents are padded, or documents of several lengths, in a form
            that `TokenData` takes.
        slices: Named subsets of the documents, as masks (n,) or indices.
        clusters: Which documents are not independent of each other: one whole number or text a document, equal within a
            cluster, or a column of the data set's metadata.
        top_k: How many tokens count for `top_k_overlap`, 1 to 255.
        quantiles: The levels, in (0, 1), of `kl_quantile`.
        tokenizer: Has a method `decode(ids)`; the worst tokens are then shown as text.
        device: Where to run; by default where each model is.
        batch_size: The largest number of documents in one call; fewer are run where the logits of one model would take
            more than 256 MiB.
        deployed_batch_size: The batch size of the deployed model, where answers depend on it.

    Returns:
        The measurement. `per_example` has a row a document; `details` hold the results by decile of the position, of
        the worst documents and tokens, and of slices.

    Raises:
        InvalidArgumentError: If an argument is not as described.
        ObservationError: If the data cannot be read, a document has fewer than two tokens, a model cannot be run on it,
            answers at random or returns NaN, the vocabularies differ, or answers depend on who else is in the batch and
            no deployed batch size is given.

    >>> def model(shift): return lambda ids: torch.nn.functional.one_hot(ids + shift, 9).float()
    >>> found = compare_language(model(1), model(1), torch.tensor([[1, 2, 3, 4]]))
    >>> found.metrics["token_kl"], found.counts["token_kl"]
    (0.0, 3)
    """
    top_k = check_integer(_OWNER, "top_k", top_k, "must be a whole number of 1 to 255", at_least=1, at_most=255)
    levels = [check_real(_OWNER, "quantiles", one, "levels must lie in (0, 1)", above=0, below=1) for one in quantiles]
    if tokenizer is not None and not callable(getattr(tokenizer, "decode", None)):
        reject(_OWNER, "tokenizer", type(tokenizer).__name__, "must have a method decode(ids) that returns text")
    documents = data if isinstance(data, TokenData) else TokenData(data)
    subsets = read_slices(_OWNER, slices, len(documents))
    known = read_clusters(_OWNER, clusters, documents, len(documents))
    models = both_sides(
        _OWNER,
        LanguageModel,
        (candidate, reference),
        device=device,
        batch_size=batch_size,
        deployed_batch_size=deployed_batch_size,
    )
    found = stream(_OWNER, models[0], models[1], documents, top_k)
    require_known_batches(models[0], models[1])
    units = found.repeated if known is None else joined_clusters(known, found.repeated)
    assert units is not None  # joined from two
    measured = _measure(found, subsets, Units(units[found.documents]), top_k, levels)
    worst = _worst_tokens(found, documents, tokenizer)
    details = {**measured.details, "tokens": worst, "top_k": top_k, "vocabulary": found.vocabulary}
    return with_batches(dataclasses.replace(measured, details=details), models[0], models[1])


def _measure(
    found: Streamed, subsets: Mapping[str, Tensor], units: Units, top_k: int, levels: Sequence[float]
) -> Measurement:
    tokens, total = found.tokens, len(found.tokens.kl)
    same, overlap = tokens.same, tokens.shared.double() / top_k
    by_document = _Sums.of(found, found.documents, len(found.lengths))
    everything = by_document.within(torch.zeros(len(found.lengths), dtype=torch.int64), 1)
    metrics = {
        "perplexity_ratio": float(everything.ratio[0]),
        "reference_perplexity": perplexity(float(everything.reference_nll[0])),
        "perplexity": perplexity(float(everything.nll[0])),
        "token_kl": float(everything.kl[0]),
        **{f"kl_quantile_{level:g}": _quantile(tokens.kl, level) for level in levels},
        "token_agreement": float(everything.agreement[0]),
        "top_k_overlap": float(overlap.mean()),
    }
    evidence: dict[str, Evidence] = {
        "token_agreement": units.share(same),
        "top_k_overlap": units.mean(overlap),
        **{f"kl_quantile_{level:g}": ClusteredQuantile.of(tokens.kl, units, level) for level in levels},
    }
    counts = dict.fromkeys(metrics, total)
    rows = _slice_rows(by_document, subsets)
    if rows:
        worst = max(rows, key=lambda row: row["perplexity_ratio"])
        metrics["worst_slice_perplexity_ratio"] = worst["perplexity_ratio"]
        counts["worst_slice_perplexity_ratio"] = worst["count"]
    return Measurement(
        comparison="language",
        metrics=metrics,
        counts=counts,
        evidence=evidence,
        per_example={
            "tokens": found.lengths,
            "agreement": by_document.agreement,
            "kl": by_document.kl,
            "reference_nll": by_document.reference_nll,
            "nll": by_document.nll,
        },
        examples=_changes(by_document),
        details={
            "positions": _position_rows(found),
            "documents": _document_rows(by_document),
            "token_slices": rows,
            "clusters": units.to_json(),
            EQUAL: found.equal,
            "data_digest": found.digest,
            WITHOUT_SKILL: [_without_skill(found)],
            KEY: {
                who: dataclasses.asdict(one) for who, one in zip(("candidate", "reference"), found.padding, strict=True)
            },
        },
        notes=_notes(found, metrics["reference_perplexity"]),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over the tokens of groups, float64, (groups,) each."""

    counts: Tensor
    sums: Mapping[str, Tensor]

    @classmethod
    def of(cls, found: Streamed, groups: Tensor, number: int) -> _Sums:
        """Return the sums of the groups (tokens,) that tokens belong to."""
        tokens = found.tokens
        values = {
            "same": tokens.same,
            "kl": tokens.kl,
            "reference_nll": tokens.reference_nll,
            "nll": tokens.nll,
        }
        sums = {name: torch.bincount(groups, each.double(), minlength=number) for name, each in values.items()}
        return cls(torch.bincount(groups, minlength=number), sums)

    def within(self, groups: Tensor, number: int) -> _Sums:
        """Return the sums of groups of these groups."""
        sums = {name: torch.bincount(groups, each, minlength=number) for name, each in self.sums.items()}
        return _Sums(torch.bincount(groups, self.counts.double(), minlength=number).long(), sums)

    def among(self, members: Tensor) -> _Sums:
        """Return the sums of all members, as one group."""
        sums = {name: each[members].sum()[None] for name, each in self.sums.items()}
        return _Sums(self.counts[members].sum()[None], sums)

    @property
    def agreement(self) -> Tensor:
        return self.sums["same"] / self.counts

    @property
    def kl(self) -> Tensor:
        return self.sums["kl"] / self.counts

    @property
    def reference_nll(self) -> Tensor:
        return self.sums["reference_nll"] / self.counts

    @property
    def nll(self) -> Tensor:
        return self.sums["nll"] / self.counts

    @property
    def ratio(self) -> Tensor:
        return (self.nll - self.reference_nll).exp()

    def row(self, place: int) -> dict[str, Any]:
        """Return what a table says of one group."""
        return {
            "count": int(self.counts[place]),
            "agreement": float(self.agreement[place]),
            "token_kl": float(self.kl[place]),
            "perplexity_ratio": float(self.ratio[place]),
            "reference_perplexity": perplexity(float(self.reference_nll[place])),
            "perplexity": perplexity(float(self.nll[place])),
        }


def _quantile(values: Tensor, level: float) -> float:
    """Return the smallest value that a share `level` of all does not exceed."""
    place = max(0, math.ceil(level * len(values) - 1e-9) - 1)
    return float(np.partition(values.numpy(), place)[place])


def _slice_rows(by_document: _Sums, subsets: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    return [{"slice": name, **by_document.among(members).row(0)} for name, members in subsets.items()]


def _position_rows(found: Streamed) -> list[dict[str, Any]]:
    """Return the results by decile of the position, each of about a tenth of the tokens."""
    positions = found.positions
    each = torch.bincount(positions)
    middle = (each.cumsum(0) - each / 2) / each.sum()
    deciles = (middle * _DECILES).long().clamp_max(_DECILES - 1)
    sums = _Sums.of(found, deciles[positions], _DECILES)
    rows = []
    for decile in range(_DECILES):
        places = ((deciles == decile) & (each > 0)).nonzero().flatten()
        if len(places):
            rows.append({"first": int(places[0]), "last": int(places[-1]), **sums.row(decile)})
    return rows


def _worst_first(by_document: _Sums) -> list[int]:
    order = torch.argsort(by_document.kl, descending=True, stable=True)[:_LISTED].tolist()
    return [place for place in order if by_document.kl[place] > 0 or by_document.agreement[place] < 1]


def _document_rows(by_document: _Sums) -> list[dict[str, Any]]:
    return [{"document": place, **by_document.row(place)} for place in _worst_first(by_document)]


def _changes(by_document: _Sums) -> tuple[ExampleChange, ...]:
    changes = []
    for place in _worst_first(by_document):
        row = by_document.row(place)
        after = f"{row['perplexity']:.4g}, KL {row['token_kl']:.3g} nats a token, {1 - row['agreement']:.1%} of next "
        before = f"perplexity {row['reference_perplexity']:.4g}"
        changes.append(ExampleChange(place, f"{row['count']} tokens", before, f"{after}tokens changed"))
    return tuple(changes)


def _worst_tokens(found: Streamed, data: TokenData, tokenizer: Tokenizer | None) -> list[dict[str, Any]]:
    """Return the tokens of the largest divergence, with what both models answer and the text before them."""
    tokens, rows = found.tokens, []
    order = torch.topk(tokens.kl, min(_LISTED, len(tokens.kl))).indices.sort().values
    order = order[tokens.kl[order].argsort(descending=True, stable=True)]
    documents, positions = found.documents[order].tolist(), found.positions[order].tolist()
    for place, document, position in zip(order.tolist(), documents, positions, strict=True):
        if tokens.kl[place] <= 0:
            continue
        ids = data.read([document]).ids[0].tolist()
        row = {
            "document": document,
            "position": position,
            "token": ids[position],
            "reference_answer": int(tokens.reference_answer[place]),
            "answer": int(tokens.answer[place]),
            "kl": float(tokens.kl[place]),
            "reference_nll": float(tokens.reference_nll[place]),
            "nll": float(tokens.nll[place]),
            "margin": float(tokens.margin[place]),
        }
        if tokenizer is not None:
            named = (row["token"], row["reference_answer"], row["answer"])
            texts = (ids[max(0, position - _CONTEXT) : position], *([one] for one in named))
            names = ("context", "text", "reference_text", "candidate_text")
            shown = (shortened(repr(str(tokenizer.decode(text))), _LONGEST_TEXT) for text in texts)
            row |= dict(zip(names, shown, strict=True))
        rows.append(row)
    return rows


def _without_skill(found: Streamed) -> dict[str, Any]:
    """Return what a model would get that answers one token everywhere.

    How it would do on perplexity is left to the note on a reference that is no better than a guess: a check of an
    untrained model may be about nothing but the steps.
    """
    answers = found.tokens.reference_answer
    often = int(torch.unique(answers, return_counts=True)[1].max())
    told = "a model that answers one token everywhere"
    return unskilled(told, {"token_agreement": often / len(answers)}, len(answers))


def _notes(found: Streamed, reference_perplexity: float) -> tuple[str, ...]:
    notes = [f"{int(found.lengths.sum())} tokens of {len(found.lengths)} documents"]
    repeated = len(found.lengths) - len(torch.unique(found.repeated))
    if repeated:
        notes.append(f"{repeated} documents are equal to others: claims at a confidence count each once")
    if reference_perplexity >= found.vocabulary:
        notes.append(
            f"the reference's perplexity of {reference_perplexity:.4g} is no better than a guess among all "
            f"{found.vocabulary} tokens: it is untrained, or the ids are those of another tokenizer"
        )
    answers = found.tokens.reference_answer
    if len(answers) > 1 and bool((answers == answers[0]).all()):
        notes.append(
            f"the reference answers token {int(answers[0])} to all {len(answers)} tokens: token_agreement says nothing"
        )
    return (*notes, *padding_notes(*found.padding, padded_left=found.padded_left))
