"""Level A: do the predictions stay, and where not, which classes pay for it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.intervals import BoundedMean, Evidence, LargestDrop, PairedDrop, Proportion
from cp_compress.fidelity.measurement import ExampleChange, Measurement
from cp_compress.fidelity.observation import Observation

ClassDistance = Tensor | Sequence[Sequence[float]] | Mapping[str, Sequence[int | str]]
Weights = Tensor | Sequence[float] | Mapping[int | str, float]
_OWNER = "compare_predictions"
_LISTED_EXAMPLES = 20


def check_comparable(candidate: Observation, reference: Observation) -> None:
    """Raise ObservationError unless both observations are of the same labelled examples and classes.

    The inputs may differ, as they do when the candidate reads compressed data; the labels may not.
    """
    if len(candidate) != len(reference):
        raise ObservationError(f"the candidate saw {len(candidate)} examples, the reference {len(reference)}")
    if candidate.classes != reference.classes:
        raise ObservationError(f"the candidate has {candidate.classes} classes, the reference {reference.classes}")
    if not torch.equal(candidate.labels, reference.labels):
        first = int((candidate.labels != reference.labels).nonzero()[0])
        raise ObservationError(f"candidate and reference saw different labels, first at example #{first}")
    if candidate.data.source is reference.data.source and candidate.data_digest != reference.data_digest:
        raise ObservationError(
            "the data set gave other examples at its second reading: examples are compared one by one, "
            "so remove random augmentation from it"
        )


def compare_predictions(
    candidate: Observation,
    reference: Observation,
    *,
    class_distance: ClassDistance | None = None,
    weights: Weights | None = None,
) -> Measurement:
    """Measure how far a candidate's predictions are those of its reference.

    `class_distance` says what a change from one class to another costs: a matrix (classes, classes), or groups
    such as {"animals": [2, 3], "vehicles": [0, 1]} (indices or class names, every class in one group) by which
    a change costs 1 when it crosses groups and 0 within one; by default every change costs 1. `weights` gives
    each example's share: one number an example, or a mapping from class (index or name) to weight with 1 for
    the classes not named.

    Metrics: `agreement`, the share of equal predictions; `reference_accuracy`, `accuracy`; `accuracy_drop` =
    reference_accuracy − accuracy; `max_class_accuracy_drop`, the largest drop within a true class; `cost`, the
    weighted mean distance from the reference's class to the candidate's: Δ_{μ,d} of Joseph et al. 2020,
    section II-A, with μ the weights and d the class distance.

    The count of `cost` is the effective sample size (Σw)² / Σw². With unequal weights the cost is a value on the given
    data only: no claim about the population is made from it.

    Raises InvalidArgumentError for malformed distances or weights, ObservationError for observations that are
    not of the same labelled examples.
    """
    check_comparable(candidate, reference)
    names = reference.class_names
    distance = as_class_distance(class_distance, names)
    shares = _example_weights(weights, reference.labels, names)
    before, after, labels = reference.predictions, candidate.predictions, reference.labels
    same = before == after
    costs = distance[before, after]
    right_before, right_after = before == labels, after == labels
    drop = _paired_drop(right_before, right_after)
    by_class = _class_drops(right_before, right_after, labels, len(names))
    total = len(labels)
    metrics = {
        "agreement": same.double().mean().item(),
        "reference_accuracy": right_before.double().mean().item(),
        "accuracy": right_after.double().mean().item(),
        "accuracy_drop": (drop.lost - drop.gained) / total,
        "max_class_accuracy_drop": max((d.lost - d.gained) / d.total for d in by_class.values()),
        "cost": float((shares * costs).sum() / shares.sum()),
    }
    evidence: dict[str, Evidence] = {
        "agreement": Proportion(int(same.sum()), total),
        "reference_accuracy": Proportion(int(right_before.sum()), total),
        "accuracy": Proportion(int(right_after.sum()), total),
        "accuracy_drop": drop,
        "max_class_accuracy_drop": LargestDrop(tuple(by_class.values())),
    }
    if bool((shares == shares[0]).all()):
        # unequal weights may go with the costs: a sample without the heavy examples would claim too much
        evidence["cost"] = BoundedMean.of(costs.numpy(), 0.0, float(distance.max()))
    return Measurement(
        comparison="predictions",
        metrics=metrics,
        counts={**dict.fromkeys(metrics, total), "cost": round(float(shares.sum() ** 2 / (shares**2).sum()))},
        evidence=evidence,
        per_example={"same": same, "before": before, "after": after, "cost": costs},
        examples=_flipped_examples(candidate, reference, costs * shares, names),
        details={
            "classes": _class_table(right_before, right_after, labels, names),
            "flips": _flips(before, after, names),
        },
    )


def as_class_distance(class_distance: ClassDistance | None, names: tuple[str, ...], owner: str = _OWNER) -> Tensor:
    """Return a class distance as a float64 matrix (classes, classes).

    Raises InvalidArgumentError, as `owner`, for malformed ones.
    """
    classes = len(names)
    if class_distance is None:
        return 1 - torch.eye(classes, dtype=torch.float64)
    if isinstance(class_distance, Mapping):
        return _group_distance(class_distance, names, owner)
    try:
        matrix = torch.as_tensor(class_distance, dtype=torch.float64).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        reject(owner, "class_distance", class_distance, f"must be a matrix of numbers or a mapping of groups ({error})")
    if matrix.shape != (classes, classes):
        reject(owner, "class_distance", class_distance, f"a distance matrix must have shape ({classes}, {classes})")
    if not bool(torch.isfinite(matrix).all()) or bool((matrix < 0).any()) or bool((matrix.diagonal() != 0).any()):
        rule = "distances must be finite and not negative, and 0 from a class to itself"
        reject(owner, "class_distance", class_distance, rule)
    if not bool(matrix.any()):
        reject(owner, "class_distance", class_distance, "with all distances 0 no change would cost anything")
    return matrix


def _group_distance(groups: Mapping[str, Sequence[int | str]], names: tuple[str, ...], owner: str) -> Tensor:
    group_of = torch.full((len(names),), -1)
    for number, (group, members) in enumerate(groups.items()):
        for member in [members] if isinstance(members, str) else members:
            index = _class_index(member, names, "class_distance", owner)
            if group_of[index] >= 0:
                reject(owner, "class_distance", {group: member}, f"class {names[index]} is in two groups")
            group_of[index] = number
    missing = [names[index] for index in (group_of < 0).nonzero().flatten().tolist()]
    if missing:
        reject(owner, "class_distance", dict(groups), f"classes {', '.join(missing)} are in no group")
    if len(groups) < 2:
        reject(owner, "class_distance", dict(groups), "with a single group no change would cost anything")
    return (group_of[:, None] != group_of[None, :]).double()


def _class_index(member: int | str, names: tuple[str, ...], argument: str, owner: str) -> int:
    if isinstance(member, str) and member in names:
        return names.index(member)
    if isinstance(member, int) and not isinstance(member, bool) and 0 <= member < len(names):
        return member
    reject(owner, argument, member, f"not a class; classes are 0 to {len(names) - 1}, named {', '.join(names)}")


def as_class_weights(weights: Weights | None, names: tuple[str, ...], owner: str = _OWNER) -> Tensor:
    """Return a mapping from classes to weights as (classes,), float64, 1 where nothing is named.

    Raises InvalidArgumentError, as `owner`, for anything but a mapping, unknown classes and what is no weight.
    """
    by_class = torch.ones(len(names), dtype=torch.float64)
    if weights is not None and not isinstance(weights, Mapping):
        reject(owner, "weights", weights, "must be a mapping from classes to weights")
    for member, weight in (weights or {}).items():
        by_class[_class_index(member, names, "weights", owner)] = weight
    if not bool(torch.isfinite(by_class).all()) or bool((by_class < 0).any()):
        reject(owner, "weights", weights, "weights must be finite and not negative")
    return by_class


def _example_weights(weights: Weights | None, labels: Tensor, names: tuple[str, ...]) -> Tensor:
    if weights is None:
        return torch.ones(len(labels), dtype=torch.float64)
    if isinstance(weights, Mapping):
        values = as_class_weights(weights, names)[labels]
    else:
        try:
            values = torch.as_tensor(weights, dtype=torch.float64).cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            reject(_OWNER, "weights", weights, f"must be one number an example or a mapping from classes ({error})")
    if values.shape != labels.shape:
        reject(_OWNER, "weights", tuple(values.shape), f"one weight an example is needed, shape ({len(labels)},)")
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()) or not bool(values.any()):
        reject(_OWNER, "weights", weights, "weights must be finite, not negative and not all 0")
    return values


def _paired_drop(right_before: Tensor, right_after: Tensor) -> PairedDrop:
    lost = int((right_before & ~right_after).sum())
    gained = int((~right_before & right_after).sum())
    return PairedDrop(lost, gained, len(right_before))


def _class_drops(right_before: Tensor, right_after: Tensor, labels: Tensor, classes: int) -> dict[int, PairedDrop]:
    totals = torch.bincount(labels, minlength=classes)
    lost = torch.bincount(labels[right_before & ~right_after], minlength=classes)
    gained = torch.bincount(labels[~right_before & right_after], minlength=classes)
    return {
        index: PairedDrop(int(lost[index]), int(gained[index]), int(totals[index]))
        for index in totals.nonzero().flatten().tolist()
    }


def _class_table(
    right_before: Tensor, right_after: Tensor, labels: Tensor, names: tuple[str, ...]
) -> list[dict[str, Any]]:
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


def _flips(before: Tensor, after: Tensor, names: tuple[str, ...]) -> list[dict[str, Any]]:
    classes = len(names)
    pairs = torch.bincount(before * classes + after, minlength=classes * classes).view(classes, classes)
    pairs.fill_diagonal_(0)
    found = [
        {"before": names[old], "after": names[new], "count": int(pairs[old, new])}
        for old, new in pairs.nonzero().tolist()
    ]
    return sorted(found, key=lambda flip: (-int(flip["count"]), str(flip["before"]), str(flip["after"])))


def _flipped_examples(
    candidate: Observation, reference: Observation, costs: Tensor, names: tuple[str, ...]
) -> tuple[ExampleChange, ...]:
    """List the flips, the costliest and then the most confident of the reference's predictions first."""
    before, after = reference.predictions, candidate.predictions
    confidence = torch.softmax(reference.logits.double(), dim=1).amax(dim=1)
    flipped = (before != after).nonzero().flatten().tolist()
    flipped.sort(key=lambda index: (-float(costs[index]), -float(confidence[index]), index))
    return tuple(
        ExampleChange(
            index=index,
            label=names[int(reference.labels[index])],
            before=names[int(before[index])],
            after=names[int(after[index])],
        )
        for index in flipped[:_LISTED_EXAMPLES]
    )
