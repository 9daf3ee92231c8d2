"""Level C: does the model still look at the same parts of its inputs?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, check_real, reject
from cp_compress.base.batching import slices
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.attribution_maps import AttributionMaps, attribution_maps
from cp_compress.fidelity.attribution_methods import AttributionMethod, IntegratedGradients, as_attribution_method
from cp_compress.fidelity.intervals import BoundedMean, Evidence, Interval, Quantile
from cp_compress.fidelity.jaccard import jaccard_of_units, unit_maps
from cp_compress.fidelity.measurement import ExampleChange, Measurement
from cp_compress.fidelity.observation import Observation
from cp_compress.fidelity.predictions import check_comparable
from cp_compress.fidelity.sampling import choose_examples

_OWNER = "compare_attributions"
_LISTED_EXAMPLES = 20
_CHANCE_ROUNDS = 5
_CHUNK_VALUES = 2**22
_FLOOR_DEFINITION = (
    "mean split Jaccard index of the reference's map of one example and the candidate's map of another, over up to "
    f"{_CHANCE_ROUNDS} seeded pairings in which no example meets itself"
)


@dataclass(frozen=True)
class CorrectedMean:
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


def compare_attributions(
    candidate: Observation,
    reference: Observation,
    method: AttributionMethod | str = "saliency",
    *,
    examples: int | Sequence[int] | Tensor | None = None,
    quantiles: Sequence[float] = (),
    max_completeness_gap: float = 0.1,
    batch_size: int | None = None,
    seed: int = 0,
) -> Measurement:
    """Measure how much a candidate's attribution maps have in common with its reference's.

    Both models are asked about the reference's predicted class, each on its own inputs. Maps are compared by
    `split_jaccard` (IoU), a number in [0, 1] for each example; two all-zero maps count as 1, one all-zero map as
    0. `method` is an attribution method or its expression; `examples` a number of examples spread evenly over the
    data set, their indices, or None for all; `batch_size` the largest number of inputs in one call, by default 32
    on a CPU and 512 elsewhere; `seed` draws the pairings of the chance floor.

    Metrics: `mean_iou`, `median_iou`; `chance_iou`, the mean IoU of maps of different examples; `corrected_iou` =
    (mean − chance) / (1 − chance), 1 for equal maps and about 0 for unrelated ones; `iou_quantile_<q>` for each
    of `quantiles`, numbers in (0, 1). With fewer than two examples there is no chance floor: `chance_iou` and
    `corrected_iou` are then NaN with a count of 0.

    Raises InvalidArgumentError for malformed arguments; ObservationError for observations that are not of the
    same examples, for a model without the gradients or the layer that the method needs, for NaN attributions,
    when all maps of both models are zero, and when integrated gradients miss more than the share
    `max_completeness_gap` of what they explain.

    >>> from cp_compress.fidelity import observe
    >>> model, data = torch.nn.Linear(2, 2), (torch.eye(2), torch.tensor([0, 1]))
    >>> compare_attributions(observe(model, data), observe(model, data)).metrics["mean_iou"]
    1.0
    """
    asked = as_attribution_method(method)
    levels = _check_quantiles(quantiles)
    limit = check_real(
        _OWNER, "max_completeness_gap", max_completeness_gap, "must be a positive share of the logits' change", above=0
    )
    check_integer(_OWNER, "seed", seed, "seed must be a whole number of 0 or more", at_least=0)
    chosen = choose_examples(_OWNER, examples, len(reference))
    check_comparable(candidate, reference)
    _check_inputs(candidate, reference, chosen)
    targets = reference.predictions[chosen]
    before = attribution_maps(reference, asked, chosen, targets, batch_size)
    after = attribution_maps(candidate, asked, chosen, targets, batch_size)
    if before.maps.shape != after.maps.shape:
        raise ObservationError(
            f"{asked} gives maps of shape {tuple(after.maps.shape[1:])} for the candidate and "
            f"{tuple(before.maps.shape[1:])} for the reference: maps of different sizes cannot be compared"
        )
    gaps = {"reference": before.completeness_gap, "candidate": after.completeness_gap}
    _check_completeness(asked, gaps, limit)
    index = _paired_index(after.maps, before.maps, torch.arange(len(chosen)), torch.arange(len(chosen)))
    zeros = _count_zero_maps(before, after)
    if zeros["both"] == len(chosen):
        raise ObservationError(f"{asked} gives all-zero maps for both models on every example: nothing was compared")
    floor = _chance_floor(after.maps, before.maps, seed)
    metrics, counts, evidence = _summarise(index, floor, levels)
    agree = candidate.predictions[chosen] == targets
    return Measurement(
        comparison="attributions",
        metrics=metrics,
        counts=counts,
        evidence=evidence,
        per_example={"iou": index, "example": chosen},
        examples=_least_alike(index, chosen, candidate, reference),
        details={
            "method": str(asked),
            "strata": [_stratum("agree", index[agree]), _stratum("disagree", index[~agree])],
            "zero_maps": zeros,
            "completeness_gap": gaps,
            "chance_floor": _FLOOR_DEFINITION,
        },
        notes=_notes(gaps, zeros, int((~agree).sum()), len(chosen)),
    )


def _check_quantiles(quantiles: Sequence[float]) -> tuple[float, ...]:
    if isinstance(quantiles, (str, float)):
        reject(_OWNER, "quantiles", quantiles, "give a sequence of numbers in (0, 1)")
    rule = "quantiles must lie in (0, 1)"
    return tuple(check_real(_OWNER, "quantiles", level, rule, above=0, below=1) for level in quantiles)


def _check_inputs(candidate: Observation, reference: Observation, chosen: Tensor) -> None:
    ours, theirs = (seen.data.select(chosen[:1])[0].shape[1:] for seen in (candidate, reference))
    if ours != theirs:
        raise ObservationError(
            f"the candidate's inputs have shape {tuple(ours)}, the reference's {tuple(theirs)}: "
            "maps are compared place by place, so the sizes must be equal"
        )


def _check_completeness(method: AttributionMethod, gaps: dict[str, float | None], limit: float) -> None:
    for subject, gap in gaps.items():
        if gap is not None and not gap <= limit:
            steps = method.steps if isinstance(method, IntegratedGradients) else 0
            raise ObservationError(
                f"{method} misses {gap:.1%} of the {subject}'s logit changes, more than the {limit:.1%} allowed: "
                f"use more steps, such as integrated_gradients(steps={2 * steps})"
            )


def _paired_index(first: Tensor, second: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """Return the index (k,) of maps first[rows] and second[others], in chunks of bounded memory."""
    size = max(1, _CHUNK_VALUES // max(1, first[0].numel()))
    parts = [
        jaccard_of_units(unit_maps(first[rows[part]]), unit_maps(second[others[part]]))
        for part in slices(len(rows), size)
    ]
    return torch.cat(parts)


def _chance_floor(after: Tensor, before: Tensor, seed: int) -> Tensor:
    """Return the index of the pairs (rounds · n,) in which every example meets another, none twice the same."""
    count = len(before)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    # a shifted random order has no fixed point, and different shifts have no pair in common
    others = torch.cat([order.roll(shift) for shift in range(1, min(_CHANCE_ROUNDS, count - 1) + 1)] or [order[:0]])
    rows = order.repeat(len(others) // count)
    return _paired_index(after, before, rows, others) if len(rows) else torch.zeros(0, dtype=torch.float64)


def _count_zero_maps(before: AttributionMaps, after: AttributionMaps) -> dict[str, int]:
    zero_before, zero_after = (~found.maps.flatten(1).any(dim=1) for found in (before, after))
    return {
        "both": int((zero_before & zero_after).sum()),
        "reference": int((zero_before & ~zero_after).sum()),
        "candidate": int((~zero_before & zero_after).sum()),
    }


def _summarise(
    index: Tensor, floor: Tensor, levels: tuple[float, ...]
) -> tuple[dict[str, float], dict[str, int], dict[str, Evidence]]:
    values, count = index.numpy(), len(index)
    mean, chance = float(values.mean()), float(floor.mean())
    evidence: dict[str, Evidence] = {"mean_iou": BoundedMean.of(values), "median_iou": Quantile(values, 0.5)}
    metrics = {"mean_iou": mean, "median_iou": float(np.quantile(values, 0.5)), "chance_iou": chance}
    metrics["corrected_iou"] = _corrected(mean, chance, math.nan)
    for level in levels:
        metrics[f"iou_quantile_{level:g}"] = float(np.quantile(values, level))
        evidence[f"iou_quantile_{level:g}"] = Quantile(values, level)
    counts = {name: 0 if math.isnan(value) else count for name, value in metrics.items()}
    if counts["corrected_iou"]:
        pairs = dataclasses.replace(BoundedMean.of(floor.numpy()), size=count // 2)
        evidence["chance_iou"] = pairs
        evidence["corrected_iou"] = CorrectedMean(BoundedMean.of(values), pairs)
    return metrics, counts, evidence


def _corrected(index: float, floor: float, undefined: float) -> float:
    return (index - floor) / (1 - floor) if floor < 1 else undefined


def _stratum(name: str, index: Tensor) -> dict[str, Any]:
    return {"predictions": name, "count": len(index), "mean_iou": float(index.mean()) if len(index) else None}


def _least_alike(
    index: Tensor, chosen: Tensor, candidate: Observation, reference: Observation
) -> tuple[ExampleChange, ...]:
    names, changes = reference.class_names, []
    for position in torch.argsort(index, stable=True)[:_LISTED_EXAMPLES].tolist():
        example = int(chosen[position])
        now, was = int(candidate.predictions[example]), int(reference.predictions[example])
        flip = f", predicts {names[now]}" if now != was else ""
        changes.append(
            ExampleChange(
                index=example,
                label=names[int(reference.labels[example])],
                before=names[was],
                after=f"IoU {float(index[position]):.2f}{flip}",
            )
        )
    return tuple(changes)


def _notes(gaps: dict[str, float | None], zeros: dict[str, int], flips: int, count: int) -> tuple[str, ...]:
    notes = []
    if gaps["reference"] is not None:
        shares = f"{gaps['reference']:.2%} for the reference, {gaps['candidate']:.2%} for the candidate"
        notes.append(f"completeness gap of integrated gradients: {shares}")
    if any(zeros.values()):
        notes.append(
            f"all-zero maps: {zeros['both']} of {count} pairs in both (counted as 1), "
            f"{zeros['reference']} in the reference only, {zeros['candidate']} in the candidate only (counted as 0)"
        )
    if flips:
        notes.append(f"predictions differ on {flips} of {count} examples; both models were asked for the reference's")
    if count < 2:
        notes.append("one example has no other to be shuffled with: there is no chance floor")
    return tuple(notes)
