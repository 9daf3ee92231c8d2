"""What a comparison of language models lists: results by document, position and slice, and the worst tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.error_reasons import shortened
from cp_compress.fidelity.judging.measurement import ExampleChange
from cp_compress.fidelity.language.streaming import Streamed, perplexity
from cp_compress.inputs.tokens import TokenData, Tokenizer

_LISTED = 20
_DECILES = 10
_CONTEXT = 12
_LONGEST_TEXT = 120


@dataclasses.dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the tokens of groups, float64, (groups,) each."""

    counts: Tensor
    sums: Mapping[str, Tensor]

    @classmethod
    def of(cls, found: Streamed, groups: Tensor, number: int) -> Sums:
        """Return the sums of the groups (tokens,) that tokens belong to."""
        tokens = found.tokens
        values = {"same": tokens.same, "reference_nll": tokens.reference_nll, "nll": tokens.nll}
        if tokens.kl is not None:
            values["kl"] = tokens.kl
        sums = {name: torch.bincount(groups, each.double(), minlength=number) for name, each in values.items()}
        return cls(torch.bincount(groups, minlength=number), sums)

    def within(self, groups: Tensor, number: int) -> Sums:
        """Return the sums of groups of these groups."""
        sums = {name: torch.bincount(groups, each, minlength=number) for name, each in self.sums.items()}
        return Sums(torch.bincount(groups, self.counts.double(), minlength=number).long(), sums)

    def among(self, members: Tensor) -> Sums:
        """Return the sums of all members, as one group."""
        sums = {name: each[members].sum()[None] for name, each in self.sums.items()}
        return Sums(self.counts[members].sum()[None], sums)

    @property
    def agreement(self) -> Tensor:
        return self.sums["same"] / self.counts

    @property
    def kl(self) -> Tensor | None:
        """The mean divergence, None where it is not known."""
        return self.sums["kl"] / self.counts if "kl" in self.sums else None

    @property
    def reference_nll(self) -> Tensor:
        return self.sums["reference_nll"] / self.counts

    @property
    def nll(self) -> Tensor:
        return self.sums["nll"] / self.counts

    @property
    def ratio(self) -> Tensor:
        return (self.nll - self.reference_nll).exp()

    @property
    def change(self) -> Tensor:
        """How far a group has changed, the largest the worst: by divergence, else likelihoods, else answers."""
        if self.kl is not None:
            return self.kl
        moved = (self.nll - self.reference_nll).abs()
        return moved if bool(moved.isfinite().all()) else 1 - self.agreement

    def row(self, place: int) -> dict[str, Any]:
        """Return what a table says of one group; None stands for what is not known."""
        return {
            "count": int(self.counts[place]),
            "agreement": float(self.agreement[place]),
            "token_kl": None if self.kl is None else float(self.kl[place]),
            "perplexity_ratio": _known(float(self.ratio[place])),
            "reference_perplexity": _known(perplexity(float(self.reference_nll[place]))),
            "perplexity": _known(perplexity(float(self.nll[place]))),
        }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def slice_rows(by_document: Sums, subsets: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Return the rows of named subsets of the documents."""
    return [{"slice": name, **by_document.among(members).row(0)} for name, members in subsets.items()]


def position_rows(found: Streamed) -> list[dict[str, Any]]:
    """Return the results by decile of the position, each of about a tenth of the tokens."""
    positions = found.positions
    each = torch.bincount(positions)
    middle = (each.cumsum(0) - each / 2) / each.sum()
    deciles = (middle * _DECILES).long().clamp_max(_DECILES - 1)
    sums = Sums.of(found, deciles[positions], _DECILES)
    rows = []
    for decile in range(_DECILES):
        places = ((deciles == decile) & (each > 0)).nonzero().flatten()
        if len(places):
            rows.append({"first": int(places[0]), "last": int(places[-1]), **sums.row(decile)})
    return rows


def _worst_first(by_document: Sums) -> list[int]:
    change = by_document.change
    order = torch.argsort(change, descending=True, stable=True)[:_LISTED].tolist()
    return [place for place in order if change[place] > 0 or by_document.agreement[place] < 1]


def document_rows(by_document: Sums) -> list[dict[str, Any]]:
    """Return the rows of the documents that changed most."""
    return [{"document": place, **by_document.row(place)} for place in _worst_first(by_document)]


def changes_of(by_document: Sums) -> tuple[ExampleChange, ...]:
    """Return the documents that changed most as examples."""
    changes = []
    for place in _worst_first(by_document):
        row = by_document.row(place)
        told = [] if row["perplexity"] is None else [f"{row['perplexity']:.4g}"]
        told += [] if row["token_kl"] is None else [f"KL {row['token_kl']:.3g} nats a token"]
        told.append(f"{1 - row['agreement']:.1%} of next tokens changed")
        before = "" if row["reference_perplexity"] is None else f"perplexity {row['reference_perplexity']:.4g}"
        changes.append(ExampleChange(place, f"{row['count']} tokens", before, ", ".join(told)))
    return tuple(changes)


def worst_tokens(found: Streamed, data: TokenData, tokenizer: Tokenizer | None) -> list[dict[str, Any]]:
    """Return the tokens that changed most, with what both models answer and the text before them.

    They are those of the largest divergence; where it is not known, those of the largest change of the likelihood.
    """
    tokens, rows = found.tokens, []
    change = (tokens.nll - tokens.reference_nll).abs().nan_to_num(0.0) if tokens.kl is None else tokens.kl
    order = torch.topk(change, min(_LISTED, len(change))).indices.sort().values
    order = order[change[order].argsort(descending=True, stable=True)]
    documents, positions = found.documents[order].tolist(), found.positions[order].tolist()
    for place, document, position in zip(order.tolist(), documents, positions, strict=True):
        if change[place] <= 0:
            continue
        ids = data.read([document]).ids[0].tolist()
        row: dict[str, Any] = {
            "document": document,
            "position": position,
            "token": ids[position],
            "reference_answer": int(tokens.reference_answer[place]),
            "answer": int(tokens.answer[place]),
            "kl": None if tokens.kl is None else float(tokens.kl[place]),
            "reference_nll": float(tokens.reference_nll[place]),
            "nll": float(tokens.nll[place]),
            "margin": _known(float(tokens.margin[place])),
        }
        if tokenizer is not None:
            context = ids[max(0, position - _CONTEXT) : position]
            row |= {"context": _shown(tokenizer.decode(context)), "text": _shown(tokenizer.decode([row["token"]]))}
            for name, answer in (("reference_text", row["reference_answer"]), ("candidate_text", row["answer"])):
                told = tokenizer.decode([answer]) if answer >= 0 else found.texts.get(answer)
                row[name] = "unreadable" if told is None else _shown(told)
        rows.append(row)
    return rows


def _shown(text: Any) -> str:
    return shortened(repr(str(text)), _LONGEST_TEXT)
