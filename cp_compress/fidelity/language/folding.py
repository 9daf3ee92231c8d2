"""Logits of two language models folded at once into a few numbers a token, so that whole logits are never kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.batching import slices
from cp_compress.base.errors import ObservationError

# tensors of this size stay in a CPU's caches, and their memory is used again instead of being asked for anew
_CPU_VALUES, _ACCELERATOR_VALUES = 2**17, 2**24
_ROWS, _BLOCK = 64, 256
_DENSE = 0.8


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
    place. Log-probabilities are computed in float32 (float64 of float64 logits), once a model, a few rows at a time.

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
    whole = torch.arange(len(counts), device=counts.device)
    # where nearly all count, it costs less to look at the others, too, than to copy those that do
    kept = whole[counts] if int(counts.sum()) < _DENSE * len(counts) else None
    rows = _ROWS if before.device.type == "cpu" else max(_ROWS, _ACCELERATOR_VALUES // before.shape[2])
    parts = []
    for part in slices(len(whole) if kept is None else len(kept), rows):
        chosen = part if kept is None else kept[part]
        parts.append(_fold_rows(old[chosen], new[chosen], targets[chosen], counts[chosen], top_k))
    found = parts[0].joined(parts[1:])
    return found.each(Tensor.cpu)


def most_likely(logits: Tensor, ids: Tensor, mask: Tensor, top_k: int, who: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return what logits (n, length, vocabulary) say of a batch's tokens, those that `fold` looks at, on the CPU.

    These are the ids (tokens, top_k) of the most likely ones, the first among equals first, the negative
    log-likelihood (tokens,), float64, and the lead (tokens,) of the largest logit.

    Raises ObservationError for NaN or infinite logits; `who` the model is called.
    """
    counts, targets = _targets(ids, mask, logits.device)
    rows, targets = logits.flatten(0, 1)[counts], targets[counts]
    if not bool(rows.isfinite().all()):
        _refuse_infinite(who, rows)
    found = []
    values = _CPU_VALUES if rows.device.type == "cpu" else _ACCELERATOR_VALUES
    for part in slices(len(rows), max(2, values // rows.shape[1])):
        nll = -torch.log_softmax(_precise(rows[part]), dim=1).gather(1, targets[part, None])[:, 0]
        top = _largest(rows[part], max(2, top_k))
        others = top.indices[:, :top_k]
        # the first among equals may stand at another place there, or beyond the last one
        again = others == top.first[:, None]
        again[:, -1] |= ~again.any(dim=1)
        answers = torch.cat([top.first[:, None], others[~again].view(-1, top_k - 1)], dim=1)
        found.append((answers, nll.double(), (top.values[:, 0] - top.values[:, 1]).float()))
    answers, nll, lead = (torch.cat(each).cpu() for each in zip(*found, strict=True))
    return answers, nll, lead


def _targets(ids: Tensor, mask: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return which places (n · length,) of a batch have a next token, and that token's id."""
    places = torch.zeros_like(mask, dtype=torch.bool)
    places[:, :-1] = (mask[:, :-1] != 0) & (mask[:, 1:] != 0)
    return places.flatten().to(device), ids.roll(-1, 1).flatten().to(device)


def _fold_rows(before: Tensor, after: Tensor, targets: Tensor, counts: Tensor, top_k: int) -> Folded:
    """Return what rows (n, vocabulary) of logits say, of those that count."""
    kl, reference_nll, nll = _divergence(before, after, targets)
    if not bool(kl[counts].isfinite().all()):
        _explain(before[counts], after[counts])
    reference_top, top = (_largest(each, max(2, top_k)) for each in (before, after))
    mine, theirs = top.indices[:, :top_k], reference_top.indices[:, :top_k]
    found = Folded(
        reference_top.first.int(),
        top.first.int(),
        kl.clamp_min(0).float(),  # rounding may take it below what it can be
        reference_nll.float(),
        nll.float(),
        (theirs[:, :, None] == mine[:, None, :]).any(dim=2).sum(dim=1).to(torch.uint8),
        (reference_top.values[:, 0].float() - reference_top.values[:, 1].float()),
    )
    return found if bool(counts.all()) else found.each(lambda values: values[counts])


def _divergence(before: Tensor, after: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return KL(before ‖ after), and the two negative log-likelihoods of the targets, (rows,) each."""
    values = _CPU_VALUES if before.device.type == "cpu" else _ACCELERATOR_VALUES
    found = []
    for part in slices(len(before), max(2, values // before.shape[1])):
        old, new = (torch.log_softmax(_precise(logits[part]), dim=1) for logits in (before, after))
        likelihoods = [-each.gather(1, targets[part, None])[:, 0] for each in (old, new)]
        found.append((old.exp().mul_(old.sub_(new)).sum(dim=1), *likelihoods))
    kl, reference_nll, nll = (torch.cat(parts) for parts in zip(*found, strict=True))
    return kl, reference_nll, nll


def _precise(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


@dataclass(frozen=True, eq=False)
class _Largest:
    """The largest values of rows: the place (rows,) of the first among the largest, and k values and their places."""

    first: Tensor
    values: Tensor
    indices: Tensor


def _largest(rows: Tensor, count: int) -> _Largest:
    """Return the largest values of rows (n, values): they lie in the blocks whose own largest values are largest.

    Looking for them there takes a third of the time of `torch.topk` on a vocabulary of 50,000.
    """
    size = rows.shape[1]
    if size <= 4 * _BLOCK * count:
        values, indices = rows.topk(count, dim=1)
        return _Largest(rows.argmax(dim=1), values, indices)
    whole = size // _BLOCK * _BLOCK
    heads = rows[:, :whole].reshape(len(rows), -1, _BLOCK).amax(dim=2)
    if whole < size:
        heads = torch.cat([heads, rows[:, whole:].amax(dim=1, keepdim=True)], dim=1)
    # the first block with the largest value of all holds the first of those; the others are looked at beside it
    blocks = torch.cat([heads.argmax(dim=1, keepdim=True), heads.topk(count, dim=1).indices], dim=1)
    within = torch.arange(_BLOCK, device=rows.device)
    places = (blocks[:, :, None] * _BLOCK + within).flatten(1)
    found = _gathered(rows, places)
    first = places.gather(1, found[:, :_BLOCK].argmax(dim=1, keepdim=True))[:, 0]
    values, chosen = found[:, _BLOCK:].topk(count, dim=1)
    return _Largest(first, values, places[:, _BLOCK:].gather(1, chosen))


def _gathered(rows: Tensor, places: Tensor) -> Tensor:
    """Return the values at places, −inf beyond the last one."""
    found = rows.gather(1, places.clamp_max(rows.shape[1] - 1))
    return found.masked_fill_(places >= rows.shape[1], -torch.inf)


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
