"""Pairs of attribution maps, example by example and at random, and the metrics and evidence that follow from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cp_compress.base.batching import slices
from cp_compress.base.showing.brief import Brief
from cp_compress.fidelity.attributions.jaccard import jaccard_of_units, unit_maps
from cp_compress.fidelity.attributions.similarity import correlation_of_ranks, iou_of_strengths, place_strengths
from cp_compress.fidelity.judging.intervals import BoundedMean, Evidence, Interval, Quantile

# rows that fit a CPU's cache: more of them at once are many times slower
_CHUNK_VALUES = 2**18
_CHANCE_ROUNDS, _CHANCE_PAIRS = 5, 2048
_CHANCE_PAIRS_OF_OTHERS = 64
FLOOR_DEFINITION = (
    "mean over pairs of the reference's map of one example and the candidate's map of another; of the index over as "
    f"many pairings as give {_CHANCE_PAIRS} pairs (one to {_CHANCE_ROUNDS}), of the others over up to "
    f"{_CHANCE_PAIRS_OF_OTHERS} pairs; pairings are seeded, and none pairs an example with itself"
)


@dataclass(frozen=True, repr=False)
class CorrectedMean(Brief):
    """The evidence of (J − J₀) / (1 − J₀) from a mean index J and its chance floor J₀, both in [0, 1].

    Each bound takes J and J₀ at the ends that hold at half the error each, so that they hold together. The floor
    is a mean over pairs, of which only every second is independent of the others: it counts as half the examples.
    """

    index: BoundedMean
    floor: BoundedMean

    @property
    def count(self) -> int:
        """The number of examples in the sample."""
        return self.index.count

    def interval(self, confidence: float) -> Interval:
        """Return the one-sided bounds at `confidence`."""
        half = 1 - (1 - confidence) / 2
        index, floor = self.index.interval(half), self.floor.interval(half)
        return Interval(_corrected(index.low, floor.high, -math.inf), _corrected(index.high, floor.low, math.inf))

    def scaled(self, factor: float) -> CorrectedMean:
        """Return the same means over `factor` times as many examples."""
        return CorrectedMean(self.index.scaled(factor), self.floor.scaled(factor))


@dataclass(frozen=True, repr=False)
class Similarities(Brief):
    """How alike pairs of maps are (k,): Jaccard index, rank correlation, and IoU of the strongest places."""

    index: Tensor
    rank: Tensor
    top: Tensor

    @classmethod
    def of(cls, first: Tensor, second: Tensor, fraction: float, counting: Tensor | None = None) -> Similarities:
        """Compare maps (k, ...) one by one; `fraction` of the places are the strongest.

        Of examples of several lengths `counting` (k, length) tells the places that are no padding, where maps are 0.
        """
        every = torch.arange(len(first))
        rank = torch.empty(len(first), dtype=torch.float64)
        top = torch.empty_like(rank)
        for rows, keep in _of_one_length(counting, len(first)):
            for part in slices(len(rows), _rows(first)):
                few = rows[part]
                a, b = (_without_padding(maps[few], None if keep is None else keep[few]) for maps in (first, second))
                rank[few] = correlation_of_ranks(a.flatten(1), b.flatten(1))
                top[few] = iou_of_strengths(place_strengths(a), place_strengths(b), fraction)
        return cls(paired_index(first, second, every, every), rank, top)

    def means(self, chosen: Tensor | None = None) -> dict[str, float | None]:
        """Return the three means over all pairs, or those where `chosen` (k,) is true; None without any."""
        named = {"mean_iou": self.index, "rank_correlation": self.rank, "top_fraction_iou": self.top}
        parts = {name: values if chosen is None else values[chosen] for name, values in named.items()}
        return {name: float(values.mean()) if len(values) else None for name, values in parts.items()}


@dataclass(frozen=True, repr=False)
class Chance(Brief):
    """What maps of different examples have in common: the index of pairs (k,), and the means of the other two."""

    index: Tensor
    rank: float | None
    top: float | None


def padded_behind(maps: tuple[Tensor, Tensor], counting: Tensor | None) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
    """Return maps (k, length, ...) whose places of padding stand behind all others, and which places these are.

    So maps of different examples are compared from the first place on, on whichever side they were padded.
    """
    if counting is None or bool((counting[:, :-1] >= counting[:, 1:]).all()):
        return maps, counting
    order = torch.argsort(~counting, dim=1, stable=True)
    rows = torch.arange(len(counting))[:, None]
    return (maps[0][rows, order], maps[1][rows, order]), counting[rows, order]


def _of_one_length(counting: Tensor | None, count: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield examples that have as many places each, and which these are; all together where none is padding."""
    if counting is None or bool(counting.all()):
        yield torch.arange(count), None
        return
    lengths = counting.sum(dim=1)
    for length in sorted(set(lengths.tolist())):
        yield (lengths == length).nonzero().flatten(), counting


def _without_padding(maps: Tensor, keep: Tensor | None) -> Tensor:
    if keep is None or bool(keep.all()):
        return maps
    return maps[keep].view(len(maps), -1, *maps.shape[2:])


def chance_level(after: Tensor, before: Tensor, fraction: float, seed: int, counting: Tensor | None = None) -> Chance:
    """Return how alike the pairs are in which every example is paired with others, no pair twice.

    Of examples of several lengths, as `counting` (k, length) has them, the places of either of a pair are compared.
    """
    count = len(before)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    rounds = min(_CHANCE_ROUNDS, count - 1, math.ceil(_CHANCE_PAIRS / count))
    if rounds == 0:
        return Chance(torch.zeros(0, dtype=torch.float64), None, None)
    # a shifted random order has no fixed point, and different shifts have no pair in common
    others = torch.cat([order.roll(shift) for shift in range(1, rounds + 1)])
    rows = order.repeat(rounds)
    index = paired_index(after, before, rows, others)
    few = slice(0, min(count, _CHANCE_PAIRS_OF_OTHERS))
    either = None if counting is None else counting[rows[few]] | counting[others[few]]
    means = Similarities.of(after[rows[few]], before[others[few]], fraction, either).means()
    return Chance(index, means["rank_correlation"], means["top_fraction_iou"])


def paired_index(first: Tensor, second: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """Return the index (k,) of maps first[rows] and second[others], in chunks of bounded memory."""
    parts = [
        jaccard_of_units(unit_maps(first[rows[part]]), unit_maps(second[others[part]]))
        for part in slices(len(rows), _rows(first))
    ]
    return torch.cat(parts)


def _rows(maps: Tensor) -> int:
    return max(1, _CHUNK_VALUES // max(1, maps[0].numel()))


@dataclass(frozen=True, repr=False)
class Summary(Brief):
    """The metrics of a comparison, the number of examples behind each, and the evidence."""

    metrics: dict[str, float]
    counts: dict[str, int]
    evidence: dict[str, Evidence]


def summarise(found: Similarities, chance: Chance, agree: Tensor, levels: tuple[float, ...]) -> Summary:
    """Return metrics and evidence; `agree` (k,) tells on which examples the predictions agree."""
    values, agreeing = found.index.numpy(), found.index[agree].numpy()
    mean = float(values.mean())
    floor = float(chance.index.mean())
    samples: dict[str, Evidence] = {
        "mean_iou": BoundedMean.of(values),
        "median_iou": Quantile(values, 0.5),
        "rank_correlation": BoundedMean.of(found.rank.numpy(), low=-1.0),
        "top_fraction_iou": BoundedMean.of(found.top.numpy()),
        **{f"iou_quantile_{level:g}": Quantile(values, level) for level in levels},
    }
    metrics = {
        "mean_iou": mean,
        "median_iou": float(np.quantile(values, 0.5)),
        "chance_iou": floor,
        "corrected_iou": _corrected(mean, floor, math.nan),
        "agreeing_mean_iou": float(agreeing.mean()) if len(agreeing) else math.nan,
        "rank_correlation": float(found.rank.mean()),
        "top_fraction_iou": float(found.top.mean()),
        **{f"iou_quantile_{level:g}": float(np.quantile(values, level)) for level in levels},
    }
    counts = {name: 0 if math.isnan(value) else len(values) for name, value in metrics.items()}
    counts["agreeing_mean_iou"] = len(agreeing)
    if len(agreeing):
        samples["agreeing_mean_iou"] = BoundedMean.of(agreeing)
    if counts["corrected_iou"]:
        pairs = dataclasses.replace(BoundedMean.of(chance.index.numpy()), size=len(values) // 2)
        samples["chance_iou"] = pairs
        samples["corrected_iou"] = CorrectedMean(BoundedMean.of(values), pairs)
    return Summary(metrics, counts, samples)


def strata(found: Similarities, agree: Tensor) -> list[dict[str, Any]]:
    """Return the means over the examples on which both models predict one class, and over the others."""
    parts = (("agree", agree), ("disagree", ~agree))
    return [{"predictions": name, "count": int(part.sum()), **found.means(part)} for name, part in parts]


def _corrected(index: float, floor: float, undefined: float) -> float:
    return (index - floor) / (1 - floor) if floor < 1 else undefined
