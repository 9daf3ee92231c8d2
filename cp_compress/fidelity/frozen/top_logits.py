"""The largest logits of each example, with the logarithm of the normaliser: what they tell of the others is bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cp_compress.base.batching import slices

_BLOCK_VALUES = 2**22


@dataclass(frozen=True, eq=False)
class TopLogits:
    """The largest of the logits (n, classes) of a model.

    Attributes:
        values: The logits (n, k), the largest first, as the model gave them.
        places: The classes (n, k), int64, that they are of; of equal ones the first stands first.
        log_totals: The logarithm (n,), float64, of the sum of the exponentials of all logits.
    """

    values: Tensor
    places: Tensor
    log_totals: Tensor

    def first(self, count: int) -> TopLogits:
        """Return the `count` largest."""
        return TopLogits(self.values[:, :count], self.places[:, :count], self.log_totals)

    def possible(self, classes: int) -> bool:
        """Tell whether a model of so many classes can have such logits."""
        finite = bool(self.values.isfinite().all()) and bool(self.log_totals.isfinite().all())
        falling = bool((self.values[:, 1:] <= self.values[:, :-1]).all())
        ordered = self.places.sort(dim=1).values
        distinct = bool((ordered[:, 1:] > ordered[:, :-1]).all())
        return finite and falling and distinct and bool(((ordered >= 0) & (ordered < classes)).all())

    def equals(self, other: TopLogits) -> bool:
        """Tell whether others are the same classes with the same values, bit for bit."""
        return torch.equal(self.values, other.values) and torch.equal(self.places, other.places)


def top_logits(logits: Tensor, count: int, as_logits: Callable[[Tensor], Tensor] = lambda block: block) -> TopLogits:
    """Return the `count` largest of logits (n, classes), read a block of rows at a time.

    `as_logits` makes logits of what a model gives in their place, such as probabilities.

    >>> found = top_logits(torch.tensor([[0.0, 2.0, 2.0, 1.0]]), 2)
    >>> found.places.tolist(), found.values.tolist()
    ([[1, 2]], [[2.0, 2.0]])
    """
    parts = []
    for part in slices(len(logits), max(1, _BLOCK_VALUES // logits.shape[1])):
        block = logits[part]
        places = block.topk(count, dim=1).indices.sort(dim=1).values
        answers = block.argmax(dim=1, keepdim=True)
        lost = ~(places == answers).any(dim=1)  # where more classes than these have the largest value
        places[lost, -1:] = answers[lost]
        places[lost] = places[lost].sort(dim=1).values
        order = block.gather(1, places).argsort(dim=1, descending=True, stable=True)
        places = places.gather(1, order)
        parts.append((block.gather(1, places), places, torch.logsumexp(as_logits(block).double(), dim=1)))
    values, places, log_totals = (torch.cat(each) for each in zip(*parts, strict=True))
    return TopLogits(values, places, log_totals)


def divergence_bounds(reference: TopLogits, candidate: Tensor, as_logits: Callable[[Tensor], Tensor]) -> Tensor:
    """Return between which values (n, 2), in nats, KL(reference ‖ candidate) lies, where only the candidate's outputs
    (n, classes) are known whole.

    The least is that of the k largest classes and all others as one (the data processing inequality). None of the
    others is more likely than the least likely of the k: the divergence is convex in how their probability is shared
    out, so that it is largest where as many as possible of those that the candidate gives the least have that much.

    >>> logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]), torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    >>> bounds = divergence_bounds(top_logits(logits[0], 2), logits[1], lambda block: block)
    >>> mine, theirs = (each.double().log_softmax(1) for each in logits[::-1])
    >>> low, high = bounds[0].tolist()
    >>> low < float((theirs.exp() * (theirs - mine)).sum()) < high
    True
    """
    rows = max(1, _BLOCK_VALUES // candidate.shape[1])
    found = []
    for part in slices(len(candidate), rows):
        ours = torch.log_softmax(as_logits(candidate[part]).double(), dim=1)
        places = reference.places[part]
        theirs = as_logits(reference.values[part]).double() - reference.log_totals[part, None]
        shares = theirs.exp()
        known = (shares * (theirs - ours.gather(1, places))).sum(dim=1)
        rest = (1 - shares.sum(dim=1)).clamp_min(0)
        others = ours.scatter(1, places, -torch.inf)
        low = known + torch.xlogy(rest, rest) - _times(rest, torch.logsumexp(others, dim=1))
        high = known + _worst(rest, shares[:, -1], ours.scatter(1, places, torch.inf).sort(dim=1).values)
        found.append(torch.stack([low.clamp_min(0), torch.maximum(high, low).clamp_min(0)], dim=1))
    return torch.cat(found)


def _times(share: Tensor, logarithm: Tensor) -> Tensor:
    """Return a product that is 0 where the share is, whatever the logarithm."""
    return torch.where(share > 0, share * logarithm, 0.0)


def _worst(rest: Tensor, most: Tensor, ascending: Tensor) -> Tensor:
    """Return the largest part of a divergence that `rest` of the probability, at most `most` a class, can make among
    classes with these log-probabilities (n, classes) of the candidate, infinite ones last.
    """
    count = ascending.shape[1]
    before = torch.arange(count, dtype=torch.float64) * most[:, None]
    given = torch.minimum(most[:, None], (rest[:, None] - before).clamp_min(0))
    given = torch.where(ascending.isinf() & (ascending > 0), 0.0, given)
    parts = torch.xlogy(given, given) - torch.where(given > 0, given * ascending, 0.0)
    return parts.sum(dim=1)
