"""Tables of what changed in predictions: by class, by slice, by pair of classes, by example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.fidelity.judging.intervals import PairedDrop
from cp_compress.fidelity.judging.measurement import ExampleChange
from cp_compress.fidelity.judging.units import ClusteredMean, Units
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.observing.sampling import choose_examples

Slices = Mapping[str, Tensor | Sequence[bool] | Sequence[int]]
_LISTED_EXAMPLES = 20


def paired_drop(right_before: Tensor, right_after: Tensor) -> PairedDrop:
    """Return how many of the examples are newly wrong, newly right, and all."""
    lost = int((right_before & ~right_after).sum())
    gained = int((~right_before & right_after).sum())
    return PairedDrop(lost, gained, len(right_before))


def class_drops(
    right_before: Tensor, right_after: Tensor, labels: Tensor, units: Units, *, at_least: int = 1
) -> dict[int, PairedDrop | ClusteredMean]:
    """Return the drop of each true class that has `at_least` so many examples, by index.

    Raises InvalidArgumentError if no class has.
    """
    totals = torch.bincount(labels)
    kept = (totals >= at_least).nonzero().flatten().tolist()
    if not kept:
        reject("compare_predictions", "min_class_examples", at_least, f"the largest class has {int(totals.max())}")
    if units.clusters is not None:
        members = {index: labels == index for index in kept}
        return {index: units.among(one).drop(right_before[one], right_after[one]) for index, one in members.items()}
    lost = torch.bincount(labels[right_before & ~right_after], minlength=len(totals)).tolist()
    gained = torch.bincount(labels[~right_before & right_after], minlength=len(totals)).tolist()
    counts = totals.tolist()
    return {index: PairedDrop(lost[index], gained[index], counts[index]) for index in kept}


def class_table(
    right_before: Tensor, right_after: Tensor, labels: Tensor, names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Return each true class's count, accuracy before and after, and drop."""
    classes = len(names)
    totals = torch.bincount(labels, minlength=classes)
    before = torch.bincount(labels, weights=right_before.double(), minlength=classes) / totals
    after = torch.bincount(labels, weights=right_after.double(), minlength=classes) / totals
    rows = zip(names, totals.tolist(), before.tolist(), after.tolist(), strict=True)
    return [
        {"class": name, "count": count, "reference_accuracy": old, "accuracy": new, "drop": old - new}
        for name, count, old, new in rows
        if count
    ]


def flip_table(before: Tensor, after: Tensor, labels: Tensor | None, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return which class turned into which how often, and how many of those were right before, or are right now."""
    classes, changed = len(names), before != after
    old, new = before[changed], after[changed]
    found, place, counts = torch.unique(old * classes + new, return_inverse=True, return_counts=True)
    rows: list[dict[str, Any]] = [
        {"before": names[pair // classes], "after": names[pair % classes], "count": count}
        for pair, count in zip(found.tolist(), counts.tolist(), strict=True)
    ]
    if labels is not None:
        truth = labels[changed]
        right = [torch.bincount(place[truth == one], minlength=len(found)).tolist() for one in (old, new)]
        for row, was_right, is_right in zip(rows, *right, strict=True):
            never = row["count"] - was_right - is_right
            row |= {"was_right": was_right, "is_right": is_right, "never_right": never}
    return sorted(rows, key=lambda flip: (-flip["count"], flip["before"], flip["after"]))


def changed_answers(candidate: Observation, reference: Observation) -> Tensor:
    """Return which answers changed, a mask of the shape of the predictions; places that do not count never do."""
    changed = candidate.predictions != reference.predictions
    return changed if reference.task == "single_label" else changed & reference.counting


def flipped_examples(
    candidate: Observation,
    reference: Observation,
    costs: Tensor,
    confidence: Tensor,
) -> tuple[ExampleChange, ...]:
    """List the flips, the costliest and then those of which the reference has the most confidence (n,) first."""
    before, after, names = reference.predictions, candidate.predictions, reference.class_names
    flipped = (before != after).nonzero().flatten().tolist()
    flipped.sort(key=lambda index: (-float(costs[index]), -float(confidence[index]), index))
    return tuple(
        ExampleChange(
            index=index,
            label=reference.label_name(index),
            before=names[int(before[index])],
            after=names[int(after[index])],
        )
        for index in flipped[:_LISTED_EXAMPLES]
    )


def read_slices(owner: str, slices: Slices | None, count: int) -> dict[str, Tensor]:
    """Return the indices of each named subset of `count` examples, given as a mask (n,) or as indices.

    Raises InvalidArgumentError, as `owner`, for anything else and for a subset without examples.
    """
    if slices is not None and (not isinstance(slices, Mapping) or not slices):
        reject(owner, "slices", slices, "give a mapping from names to masks or indices, with at least one entry")
    found = {}
    for name, members in (slices or {}).items():
        values = _as_members(owner, name, members)
        if values.dtype == torch.bool and values.shape != (count,):
            reject(owner, "slices", {name: tuple(values.shape)}, f"a mask needs one entry per example ({count},)")
        chosen = values.nonzero().flatten() if values.dtype == torch.bool else values
        if not len(chosen):
            reject(owner, "slices", name, "holds no example, so there is nothing to compare")
        if str(name) in found:
            reject(owner, "slices", list(slices or {}), f"two slices have the name {name}; names must differ")
        found[str(name)] = choose_examples(owner, chosen.tolist(), count, f"slices[{name!r}]")
    return found


def _as_members(owner: str, name: str, members: object) -> Tensor:
    rule = "give a mask with one entry per example, or indices of examples"
    try:
        values = torch.as_tensor(members)
    except (TypeError, ValueError, RuntimeError):
        reject(owner, f"slices[{name!r}]", members, rule)
    if not values.ndim:
        reject(owner, f"slices[{name!r}]", members, rule)
    return values


def slice_table(
    same: Tensor, right: tuple[Tensor, Tensor] | None, slices: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """Return each slice's count and agreement, and where it is known what is `right`, accuracies and their drop."""
    rows: list[dict[str, Any]] = []
    for name, members in slices.items():
        row = {"slice": name, "count": len(members), "agreement": float(same[members].double().mean())}
        if right is not None:
            old, new = (float(one[members].double().mean()) for one in right)
            row |= {"reference_accuracy": old, "accuracy": new, "drop": old - new}
        rows.append(row)
    return rows


def deciding_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the count of the slice that each metric of the worst slice is about, the smallest among equals."""
    if not rows:
        return {}
    counts = {"min_slice_agreement": min(rows, key=lambda row: (row["agreement"], row["count"]))["count"]}
    if "drop" in rows[0]:
        counts["max_slice_accuracy_drop"] = min(rows, key=lambda row: (-row["drop"], row["count"]))["count"]
    return counts
