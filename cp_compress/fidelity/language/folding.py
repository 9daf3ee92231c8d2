"""Logits of two language models folded at once into a few numbers a token, so that whole logits are never kept."""

from __future__ import annotations

from dataclasses import dataclass

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
        kl: KL(reference ‖ candidate) over the vocabulary, float32, in nats.
        reference_nll: The reference's negative log-likelihood of the token, float32, in nats.
        nll: The candidate's.
        shared: How many of the reference's top k tokens are among the candidate's, uint8.
        margin: How far the reference's largest logit lies above its second one, float32.
    """

    reference_answer: Tensor
    answer: Tensor
    kl: Tensor
    reference_nll: Tensor
    nll: Tensor
    shared: Tensor
    margin: Tensor

    @property
    def same(self) -> Tensor:
        """Whether both answers are one token."""
        return self.reference_answer == self.answer

    def joined(self, others: list[Folded]) -> Folded:
        """Return these tokens and those of others, in their order."""
        parts = [self, *others]
        names = list(vars(self))
        return Folded(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


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
    places = torch.zeros_like(mask, dtype=torch.bool)
    places[:, :-1] = (mask[:, :-1] != 0) & (mask[:, 1:] != 0)
    counts, targets = places.flatten().to(before.device), ids.roll(-1, 1).flatten().to(before.device)
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
    return Folded(*(tensor.cpu() for tensor in vars(found).values()))


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
    return found if bool(counts.all()) else Folded(*(each[counts] for each in vars(found).values()))


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
        bad = ~logits.isfinite()
        if bool(bad.any()):
            kinds = "NaN" if bool(logits.isnan().any()) else "infinite"
            count = int(bad.any(dim=1).sum())
            raise ObservationError(
                f"the {who} returns {kinds} logits, here at {count} of {len(logits)} tokens that were looked at: such "
                "outputs cannot be compared"
            )
    raise ObservationError("the logits of the two models lie too far apart for their divergence to be a number")
