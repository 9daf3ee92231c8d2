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
from cp_compress.fidelity.judging.batches import with_batches
from cp_compress.fidelity.judging.intervals import Evidence
from cp_compress.fidelity.judging.measurement import NOT_KNOWN, WITHOUT_SKILL, Measurement, unskilled
from cp_compress.fidelity.judging.units import ClusteredQuantile, FoundSizes, Units
from cp_compress.fidelity.language.frozen_tokens import FrozenTokens
from cp_compress.fidelity.language.models import LanguageModel
from cp_compress.fidelity.language.next_tokens import NO_DIVERGENCE
from cp_compress.fidelity.language.probing import KEY, padding_notes
from cp_compress.fidelity.language.streaming import Streamed, perplexity, stream
from cp_compress.fidelity.language.tables import (
    Sums,
    changes_of,
    document_rows,
    position_rows,
    slice_rows,
    worst_tokens,
)
from cp_compress.fidelity.language.told import UNREADABLE, ToldModel, side_of, stream_told
from cp_compress.fidelity.observing.refusals import require_known_batches
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.predictions.tables import Slices, read_slices
from cp_compress.fidelity.side_by_side.sides import EQUAL, both_sides
from cp_compress.inputs.clusters import Clusters, joined_clusters, read_clusters
from cp_compress.inputs.tokens import TokenData, Tokenizer

_OWNER = "compare_language"
_ROUNDING = 1e-4
_UNKNOWN_TOKENS = (
    "some tokens of the documents are not among the most likely ones that a served model tells, so that their "
    "probability is not known: a larger top_k may know them all"
)


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
    slices `worst_slice_perplexity_ratio`. Where a model is served, divergences are not known, and perplexities only if
    the server tells the probabilities of all tokens: what is not known is left out, with a note.

    Claims at a confidence are about documents, or clusters of them: tokens of one document are not independent, and
    equal documents are one.

    Args:
        candidate: The compressed model: any callable from ids (n, length), and a mask if it has a parameter
            `attention_mask` or `mask`, to logits (n, length, vocabulary) or an object with `.logits`; or a
            `ServedModel`, or what `load_observation` reads of a language model.
        reference: The model that it is compared with.
        data: Token ids (n, length), with a mask where documents are padded, or documents of several lengths, in a form
            that `TokenData` takes; None for those that were frozen, where both models are.
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
    if data is None and isinstance(candidate, FrozenTokens) and isinstance(reference, FrozenTokens):
        data = reference.data
    documents = data if isinstance(data, TokenData) else TokenData(data)
    subsets = read_slices(_OWNER, slices, len(documents))
    known = read_clusters(_OWNER, clusters, documents, len(documents))
    models = both_sides(
        _OWNER,
        side_of,
        (candidate, reference),
        device=device,
        batch_size=batch_size,
        deployed_batch_size=deployed_batch_size,
    )
    if isinstance(models[0], LanguageModel) and isinstance(models[1], LanguageModel):
        found = stream(_OWNER, models[0], models[1], documents, top_k)
    else:
        found = stream_told(_OWNER, models[0], models[1], documents, top_k, tokenizer)
    require_known_batches(models[0], models[1])
    units = found.repeated if known is None else joined_clusters(known, found.repeated)
    assert units is not None  # joined from two
    measured = _measure(found, subsets, _units(found, units, known is None), top_k, levels)
    details = {
        **measured.details,
        "tokens": worst_tokens(found, documents, tokenizer),
        "top_k": top_k,
        "vocabulary": found.vocabulary,
    }
    notes = (
        *measured.notes,
        *(line for side in models if isinstance(side, ToldModel) for line in side.model.remarks()),
    )
    return with_batches(dataclasses.replace(measured, details=details, notes=notes), models[0], models[1])


def _units(found: Streamed, clusters: Tensor, by_document: bool) -> Units:
    """Return the clusters that tokens belong to, documents or clusters (documents,) of them."""
    equal = bool((found.lengths == found.lengths[0]).all())  # where texts were cut to one length, none is longer
    told = FoundSizes("documents" if by_document else "clusters of documents", "tokens")
    return Units(clusters[found.documents], None if equal else told)


def _measure(
    found: Streamed, subsets: Mapping[str, Tensor], units: Units, top_k: int, levels: Sequence[float]
) -> Measurement:
    tokens, total = found.tokens, len(found.tokens.nll)
    same, overlap = tokens.same, tokens.shared.double() / top_k
    by_document = Sums.of(found, found.documents, len(found.lengths))
    everything = by_document.within(torch.zeros(len(found.lengths), dtype=torch.int64), 1)
    metrics = {
        "perplexity_ratio": float(everything.ratio[0]),
        "reference_perplexity": perplexity(float(everything.reference_nll[0])),
        "perplexity": perplexity(float(everything.nll[0])),
    }
    unknown = {name: _UNKNOWN_TOKENS for name, value in metrics.items() if math.isnan(value)}
    evidence: dict[str, Evidence] = {"token_agreement": units.share(same), "top_k_overlap": units.mean(overlap)}
    quantiles = {f"kl_quantile_{level:g}": level for level in levels}
    if tokens.kl is None or everything.kl is None:
        unknown |= dict.fromkeys(["token_kl", *quantiles], NO_DIVERGENCE)
    else:
        metrics["token_kl"] = float(everything.kl[0])
        metrics |= {name: _quantile(tokens.kl, level) for name, level in quantiles.items()}
        evidence |= {name: ClusteredQuantile.of(tokens.kl, units, level) for name, level in quantiles.items()}
    metrics |= {"token_agreement": float(everything.agreement[0]), "top_k_overlap": float(overlap.mean())}
    counts = dict.fromkeys(metrics, total)
    rows = slice_rows(by_document, subsets)
    if rows and "perplexity_ratio" not in unknown:
        worst = max(rows, key=lambda row: row["perplexity_ratio"])
        metrics["worst_slice_perplexity_ratio"] = worst["perplexity_ratio"]
        counts["worst_slice_perplexity_ratio"] = worst["count"]
    elif rows:
        unknown["worst_slice_perplexity_ratio"] = _UNKNOWN_TOKENS
    for name in unknown:
        metrics.pop(name, None)
        counts.pop(name, None)
    per_example = {
        "tokens": found.lengths,
        "agreement": by_document.agreement,
        "kl": by_document.kl,
        "reference_nll": by_document.reference_nll,
        "nll": by_document.nll,
    }
    return Measurement(
        comparison="language",
        metrics=metrics,
        counts=counts,
        evidence=evidence,
        per_example={name: values for name, values in per_example.items() if values is not None},
        examples=changes_of(by_document),
        details={
            "positions": position_rows(found),
            "documents": document_rows(by_document),
            "token_slices": rows,
            "clusters": units.to_json(),
            **({NOT_KNOWN: unknown} if unknown else {}),
            EQUAL: found.equal,
            "data_digest": found.digest,
            WITHOUT_SKILL: [_without_skill(found)],
            KEY: {
                who: dataclasses.asdict(one) for who, one in zip(("candidate", "reference"), found.padding, strict=True)
            },
        },
        notes=_notes(found, metrics.get("reference_perplexity", 0.0)),
    )


def _quantile(values: Tensor, level: float) -> float:
    """Return the smallest value that a share `level` of all does not exceed."""
    place = max(0, math.ceil(level * len(values) - 1e-9) - 1)
    return float(np.partition(values.numpy(), place)[place])


def _without_skill(found: Streamed) -> dict[str, Any]:
    """Return what a model would get that answers one token everywhere.

    How it would do on perplexity is left to the note on a reference that is no better than a guess: a check of an
    untrained model may be about nothing but the steps.
    """
    answers = found.tokens.reference_answer
    often = int(torch.unique(answers[answers != UNREADABLE["reference"]], return_counts=True)[1].amax())
    told = "a model that answers one token everywhere"
    return unskilled(told, {"token_agreement": often / len(answers)}, len(answers))


def _notes(found: Streamed, reference_perplexity: float) -> tuple[str, ...]:
    notes = [f"{int(found.lengths.sum())} tokens of {len(found.lengths)} documents"]
    repeated = len(found.lengths) - len(torch.unique(found.repeated))
    if repeated:
        notes.append(f"{repeated} documents are equal to others: claims at a confidence count each once")
    if found.vocabulary is not None and reference_perplexity >= found.vocabulary:
        notes.append(
            f"the reference's perplexity of {reference_perplexity:.4g} is no better than a guess among all "
            f"{found.vocabulary} tokens: it is untrained, or the ids are those of another tokenizer"
        )
    answers = found.tokens.reference_answer
    for who, told in (("reference", answers), ("candidate", found.tokens.answer)):
        lost = int((told == UNREADABLE[who]).sum())
        if lost:
            notes.append(
                f"{lost} answers of the {who} are parts of characters, of which nobody can tell which tokens they are: "
                "they count as changed"
            )
    if found.tokens.kl is None:
        change = (found.tokens.nll - found.tokens.reference_nll).abs()
        moved = float(change[~change.isnan()].max()) if not bool(change.isnan().all()) else math.inf
        if moved < _ROUNDING:
            notes.append(
                f"no likelihood moved by more than {moved:.2g} nats, as by rounding: the server may have the reference"
            )
        notes.append(f"token_kl and its quantiles are not known: {NO_DIVERGENCE}")
    if len(answers) > 1 and bool((answers == answers[0]).all()):
        notes.append(
            f"the reference answers token {int(answers[0])} to all {len(answers)} tokens: token_agreement says nothing"
        )
    return (*notes, *padding_notes(*found.padding, padded_left=found.padded_left))
