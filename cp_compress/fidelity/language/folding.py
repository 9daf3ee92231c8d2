"""Logits of two language models folded at once into a few numbers a token, so that whole logits are never kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.batching import slices
from cp_compress.base.errors import ObservationError
from cp_compress.base.largest import BLOCK, largest_by_block
from cp_compress.fidelity.predictions.logit_rows import pass_over

_ROWS, _ACCELERATOR_VALUES = 64, 2**24


@dataclass(frozen=True, eq=False)
class Folded:
    """What two models say of tokens, each field (tokens,).

    Attributes:
        reference_answer: The token, int32, to which the reference gives the largest logit, the first among equals.
        answer: The candidate's.
        kl: KL(reference ‖ candidate) over the vocabulary, float32, in nats; None where a model gives no logits.
        reference_nll: The reference's negative log-likelihood of the token, float32, in nats; NaN where not known.
        nll: The candidate's.
        shared: How many of the reference's top k tokens are among the candidate's, uint8.
        margin: How far the reference's largest logit lies above its second one, float32.
    """

    reference_answer: Tensor
    answer: Tensor
    kl: Tensor | None
    reference_nll: Tensor
    nll: Tensor
    shared: Tensor
    margin: Tensor

    @property
    def same(self) -> Tensor:
        """Whether both answers are one token."""
        return self.reference_answer == self.answer

    def each(self, change: Callable[[Tensor], Tensor]) -> Folded:
        """Return the same of other tokens: each field as a function changes it."""
        changed: dict[str, Any] = {
            name: None if values is None else change(values) for name, values in vars(self).items()
        }
        return Folded(**changed)

    def joined(self, others: list[Folded]) -> Folded:
        """Return these tokens and those of others, in their order."""
        parts = [self, *others]
        columns = {name: [getattr(part, name) for part in parts] for name in vars(self)}
        joined: dict[str, Any] = {name: None if each[0] is None else torch.cat(each) for name, each in columns.items()}
        return Folded(**joined)


def fold(before: Tensor, after: Tensor, ids: Tensor, mask: Tensor, top_k: int) -> Folded:
    """Return what the logits of a batch say of its tokens, without the first of each document and without padding.

    KL is that of llama.cpp's `--kl-divergence`: the sum over the vocabulary of p_ref · (log p_ref − log p_cand) at each
    place. It is computed in float32 (in float64 of float64 logits), within 2e-6 nats or 2e-6 of itself; the negative
    log-likelihoods are within 2e-6 of themselves.

    Args:
        before: The reference's logits (n, length, vocabulary).
        after: The candidate's, on the same device.
        ids: The token ids (n, length).
        mask: The places (n, length) that hold tokens.
        top_k: How many tokens count for `shared`, 1 to 255 and less than the vocabulary.

    Raises:
        ObservationError: If a model returns NaN or infinite logits there.
    """
    counts, targets = _targets(ids, mask, before.device)
    old, new = before.flatten(0, 1), after.flatten(0, 1)
    kept = counts.nonzero().flatten()
    steps = slices(len(kept), _rows_at_once(before))
    parts = [_fold_rows(old, new, targets[kept[part]], kept[part], top_k) for part in steps]
    found = parts[0].joined(parts[1:])
    return found.each(Tensor.cpu)


@dataclass(frozen=True, eq=False)
class MostLikely:
    """What logits say of tokens.

    Attributes:
        tokens: The ids (tokens, k) of the most likely ones, the first among equals first.
        logits: Their logits (tokens, k), as the model gives them.
        log_totals: The logarithm (tokens,), float64, of the sum of the exponentials of all logits.
        nll: The negative log-likelihood (tokens,), float64, in nats, of the token that follows.
        lead: How far (tokens,) the largest logit lies above the second one.
    """

    tokens: Tensor
    logits: Tensor
    log_totals: Tensor
    nll: Tensor
    lead: Tensor


def most_likely(logits: Tensor, ids: Tensor, mask: Tensor, top_k: int, who: str) -> MostLikely:
    """Return what logits (n, length, vocabulary) say of a batch's tokens, those that `fold` looks at, on the CPU.

    Raises ObservationError for NaN or infinite logits; `who` the model is called.
    """
    counts, targets = _targets(ids, mask, logits.device)
    rows, targets = logits.flatten(0, 1)[counts], targets[counts]
    if not bool(rows.isfinite().all()):
        _refuse_infinite(who, rows)
    found = []
    for part in slices(len(rows), _rows_at_once(logits)):
        some = rows[part] if rows.dtype == torch.float64 else rows[part].float()
        total = some.logsumexp(dim=1).double()
        nll = total - some.gather(1, targets[part, None])[:, 0]
        top = _largest(some, torch.arange(len(some), device=some.device), largest_by_block(some), max(2, top_k))
        others = top.indices[:, :top_k]
        # the first among equals may stand at another place there, or beyond the last one
        again = others == top.first[:, None]
        again[:, -1] |= ~again.any(dim=1)
        answers = torch.cat([top.first[:, None], others[~again].view(-1, top_k - 1)], dim=1)
        lead = (top.values[:, 0] - top.values[:, 1]).float()
        found.append((answers, rows[part].gather(1, answers), total, nll, lead))
    return MostLikely(*(torch.cat(each).cpu() for each in zip(*found, strict=True)))


def _rows_at_once(logits: Tensor) -> int:
    return _ROWS if logits.device.type == "cpu" else max(_ROWS, _ACCELERATOR_VALUES // logits.shape[-1])


def _targets(ids: Tensor, mask: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return which places (n · length,) of a batch have a next token, and that token's id."""
    places = torch.zeros_like(mask, dtype=torch.bool)
    places[:, :-1] = (mask[:, :-1] != 0) & (mask[:, 1:] != 0)
    return places.flatten().to(device), ids.roll(-1, 1).flatten().to(device)


def _fold_rows(before: Tensor, after: Tensor, targets: Tensor, rows: Tensor, top_k: int) -> Folded:
    """Return what some rows (k,) of logits (n, vocabulary) say of their targets (k,)."""
    passed = pass_over(before, after, rows)
    if not bool(passed.kl.isfinite().all()):
        _explain(before[rows], after[rows])
    models = tuple(zip((before, after), passed.heads, passed.log_totals, strict=True))
    old, new = (_largest(logits, rows, heads, max(2, top_k)) for logits, heads, _ in models)
    reference_nll, nll = (total - logits[rows, targets].double() for logits, _, total in models)
    mine, theirs = new.indices[:, :top_k], old.indices[:, :top_k]
    return Folded(
        old.first.int(),
        new.first.int(),
        passed.kl.clamp_min(0).float(),  # rounding may take it below what it can be
        reference_nll.float(),
        nll.float(),
        (theirs[:, :, None] == mine[:, None, :]).any(dim=2).sum(dim=1).to(torch.uint8),
        (old.values[:, 0].float() - old.values[:, 1].float()),
    )


@dataclass(frozen=True, eq=False)
class _Largest:
    """The largest values of rows: the place (rows,) of the first among the largest, and k values and their places."""

    first: Tensor
    values: Tensor
    indices: Tensor


def _largest(logits: Tensor, rows: Tensor, heads: Tensor, count: int) -> _Largest:
    """Return the largest values of rows (k,) of logits (n, values): they lie in the blocks of the largest `heads`.

    Looking for them there takes a tenth of the time of `torch.topk` on a vocabulary of 50,000.
    """
    size, blocks = logits.shape[1], heads.shape[1]
    if blocks <= 4 * count:
        chosen = logits[rows]
        values, indices = chosen.topk(count, dim=1)
        return _Largest(chosen.argmax(dim=1), values, indices)
    highest = heads.topk(count + 1, dim=1)
    places = (highest.indices[:, :count, None] * BLOCK + torch.arange(BLOCK, device=rows.device)).flatten(1)
    found = logits[rows[:, None], places.clamp_max(size - 1)].masked_fill_(places >= size, -torch.inf)
    values, chosen = found.topk(count, dim=1)
    first = places.masked_fill(found < values[:, :1], size).amin(dim=1)
    many = highest.values[:, 0] == highest.values[:, count]  # then more blocks than these hold the largest value
    if bool(many.any()):
        first[many] = logits[rows[many]].argmax(dim=1)
    return _Largest(first, values, places.gather(1, chosen))


def _explain(before: Tensor, after: Tensor) -> None:
    for who, logits in (("reference", before), ("candidate", after)):
        if not bool(logits.isfinite().all()):
            _refuse_infinite(who, logits)
    raise ObservationError("the logits of the two models lie too far apart for their divergence to be a number")


def _refuse_infinite(who: str, logits: Tensor) -> None:
    kinds = "NaN" if bool(logits.isnan().any()) else "infinite"
    count = int((~logits.isfinite()).any(dim=1).sum())
    raise ObservationError(
        f"the {who} returns {kinds} logits, here at {count} of {len(logits)} tokens that were looked at: such "
        "outputs cannot be compared"
    )
