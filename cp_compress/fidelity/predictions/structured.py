"""Level A for examples with several predictions: several labels, or a class at each position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.base.batching import slices
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.judging.groups import LargestDrop, SmallestShare
from cp_compress.fidelity.judging.intervals import Evidence
from cp_compress.fidelity.judging.measurement import ExampleChange, Measurement
from cp_compress.fidelity.judging.metrics import without_labels
from cp_compress.fidelity.judging.units import Drop, Units
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.predictions.logit_rows import pass_over
from cp_compress.fidelity.predictions.output_changes import (
    PROBABILITIES_NOTE,
    as_log_probabilities,
    divergence_from,
    logit_distance,
    require_equal_outputs,
)
from cp_compress.fidelity.predictions.tables import deciding_counts, flip_table, slice_table
from cp_compress.inputs.unlabeled import NO_LABELS_NOTE

_LISTED_EXAMPLES = 20
_BLOCK_VALUES = 2**22
_MANY_CLASSES = 4096


def compare_structured(
    candidate: Observation,
    reference: Observation,
    subsets: Mapping[str, Tensor] | None = None,
    units: Units | None = None,
) -> Measurement:
    """Measure how far the answers of two models agree, for multi-label, dense and sequence tasks.

    An answer is one label of one example, or the class at one place; places whose target is ignored do not count.
    Examples are what is independent, so that every share is made for each example first:

    `agreement`, the mean share of equal answers; `exact_agreement`, the share of examples with all answers equal;
    `accuracy` and `reference_accuracy`, the mean shares of right answers, and `accuracy_drop`; `newly_wrong` and
    `newly_right`, the mean shares of answers that only the reference, or only the candidate, gets right; for dense and
    sequence tasks `mean_kl` and `mean_logit_distance`, of the logits at a place as `compare_predictions` has them (of
    more than 4,096 classes in float32, within 2e-6); with `subsets`, indices of examples by name,
    `max_slice_accuracy_drop` and `min_slice_agreement`; over all answers `mean_class_iou` and
    `reference_mean_class_iou`, the mean over classes of intersection over union with the truth (Everingham et al.
    2010), `mean_class_iou_drop`, and `agreement_iou`, the same between the two models. Classes that neither occur nor
    are answered have no part.

    `max_class_accuracy_drop` is the largest drop among classes, each the mean over the examples in which the class is
    true of the share of right answers there (of a label: over all examples in which it counts).

    `details` count answers by flip and beside the truth as those of single-label data, and list the examples,
    `newly_wrong` and `newly_right`, that have such an answer.

    Claims are about examples, or about the clusters of `units`.

    Raises InvalidArgumentError for a subset without an answer that counts, and ObservationError for models of which one
    or both give probabilities where logits are needed.
    """
    units = Units() if units is None else units
    before, after, truth = reference.predictions, candidate.predictions, reference.targets
    counts = reference.counting
    same = _share(before == after, counts)
    was_right, is_right = before == truth, after == truth
    right_before, right_after = _share(was_right, counts), _share(is_right, counts)
    judged = ~same.isnan()
    changes = {
        "newly_wrong": _share(was_right & ~is_right, counts),
        "newly_right": _share(~was_right & is_right, counts),
    }
    many = reference.task == "multi_label"
    for who, seen in (("reference", reference), ("candidate", candidate)) if many else ():
        _require_logits(who, seen)
    probabilities = not many and require_equal_outputs(candidate.logits, reference.logits)
    moved = {} if many else _moved_logits(candidate, reference, counts, probabilities)
    values = {"same": same[judged], "before": right_before[judged], "after": right_after[judged]}
    exact = values["same"] == 1
    total = int(judged.sum())
    labeled = reference.labeled
    by_class = _label_rows if many else _class_rows
    rows, class_drops = by_class(was_right, is_right, counts, reference, units) if labeled else ([], [])
    overlaps = {name: _mean_iou(*pair, counts, reference) for name, pair in _pairs(before, after, truth).items()}
    drop = values["before"] - values["after"]
    metrics = {
        "agreement": _mean(values["same"]),
        "exact_agreement": _mean(exact.double()),
        "reference_accuracy": _mean(values["before"]),
        "accuracy": _mean(values["after"]),
        "accuracy_drop": _mean(drop),
        **{name: _mean(shares[judged]) for name, shares in changes.items()},
        **{f"mean_{name}": _mean(each[judged]) for name, each in moved.items()},
        "max_class_accuracy_drop": max((row["drop"] for row in rows), default=float("nan")),
        **overlaps,
        "mean_class_iou_drop": overlaps["reference_mean_class_iou"] - overlaps["mean_class_iou"],
    }
    evidence: dict[str, Evidence] = {}
    if class_drops:
        evidence["max_class_accuracy_drop"] = LargestDrop(tuple(class_drops), tuple(row["class"] for row in rows))
    if total:
        of = units.among(judged)
        evidence |= {
            "agreement": of.mean(values["same"]),
            "exact_agreement": of.share(exact),
            "reference_accuracy": of.mean(values["before"]),
            "accuracy": of.mean(values["after"]),
            "accuracy_drop": of.mean(drop, -1.0, 1.0),
            **{name: of.mean(shares[judged]) for name, shares in changes.items()},
        }
    kept = {name: _judged_members(name, members, judged) for name, members in (subsets or {}).items()}
    slice_rows = slice_table(same, (right_before, right_after) if labeled else None, kept)
    if slice_rows:
        metrics["min_slice_agreement"] = min(row["agreement"] for row in slice_rows)
        if labeled:
            metrics["max_slice_accuracy_drop"] = max(row["drop"] for row in slice_rows)
            fallen = right_before - right_after
            drops = [units.among(members).mean(fallen[members], -1.0, 1.0) for members in kept.values()]
            evidence["max_slice_accuracy_drop"] = LargestDrop(tuple(drops), tuple(kept))
        shares = [units.among(members).mean(same[members]) for members in kept.values()]
        evidence["min_slice_agreement"] = SmallestShare(tuple(shares), tuple(kept))
    answers = int(counts.sum())
    notes = [f"a {reference.task} task: {answers} predictions on {total} examples"]
    coarser = [seen.runner.coarser for seen in (reference, candidate) if seen.runner.coarser is not None]
    if coarser:
        sizes = " and ".join("×".join(map(str, one)) for one in dict.fromkeys(coarser))
        notes.append(f"logits at {sizes} places are brought to the targets' {_text(truth)} by linear interpolation")
    if probabilities:
        notes.append(PROBABILITIES_NOTE)
    if total < len(same):
        notes.append(f"{len(same) - total} examples have only ignored positions")
    if not labeled:
        metrics = without_labels(metrics)
        evidence = {name: one for name, one in evidence.items() if name in metrics}
        changes = {}
        notes.append(NO_LABELS_NOTE)
    return Measurement(
        comparison="predictions",
        metrics=metrics,
        counts={name: 0 if value != value else total for name, value in metrics.items()} | deciding_counts(slice_rows),
        evidence=evidence,
        per_example={
            "same": same,
            **({"accuracy": right_after, "reference_accuracy": right_before} if labeled else {}),
            **changes,
            **moved,
        },
        examples=_changed(same, counts),
        details={
            "task": reference.task,
            "classes": rows,
            "slices": slice_rows,
            "clusters": units.to_json(),
            "flips": _flips(before, after, truth if labeled else None, counts, reference),
            **{name: (shares > 0).nonzero().flatten().tolist() for name, shares in changes.items()},
        },
        notes=tuple(notes),
    )


def _text(targets: Tensor) -> str:
    return "×".join(map(str, targets.shape[1:]))


def _share(holds: Tensor, counts: Tensor) -> Tensor:
    """Return the share (n,) of the answers that count which hold, NaN without any."""
    return (holds & counts).flatten(1).sum(1).double() / counts.flatten(1).sum(1).double()


def _require_logits(who: str, seen: Observation) -> None:
    """Raise ObservationError for a model that gives the probability of each label: above 0 all of them would hold."""
    outputs = seen.logits
    if bool((outputs.amin() >= 0) & (outputs.amax() <= 1)) and bool(((outputs > 0) & (outputs < 0.5)).any()):
        raise ObservationError(
            f"all outputs of the {who} lie in [0, 1], as probabilities do; of a multi_label task the logits are "
            "compared, and a label holds if its logit is above 0: leave out the sigmoid, or return torch.logit of it"
        )


def _moved_logits(
    candidate: Observation, reference: Observation, counts: Tensor, probabilities: bool
) -> dict[str, Tensor]:
    """Return the mean divergence and distance (n,) of the logits at the places that count, NaN without any."""
    found: dict[str, list[Tensor]] = {"kl": [], "logit_distance": []}
    measure = _changes_of_many if reference.classes > _MANY_CLASSES else _changes
    for part in slices(len(counts), max(1, _BLOCK_VALUES // reference.logits[0].numel())):
        mine, theirs, places = candidate.logits[part], reference.logits[part], counts[part]
        if probabilities:
            mine, theirs = as_log_probabilities(mine), as_log_probabilities(theirs)
        for name, moved in zip(found, measure(mine, theirs, places), strict=True):
            found[name].append(moved.flatten(1).sum(1) / places.flatten(1).sum(1))
    return {name: torch.cat(parts) for name, parts in found.items()}


def _changes(mine: Tensor, theirs: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return the divergence and the distance of logits (n, classes, ...) at each place, 0 where it does not count."""
    divergence, distance = divergence_from(mine, theirs), logit_distance(mine, theirs)
    return torch.where(places, divergence, 0.0), torch.where(places, distance, 0.0)


def _changes_of_many(mine: Tensor, theirs: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `_changes` does, of many classes, without copies of all logits in float64."""
    before, after = (logits.movedim(1, -1).contiguous().flatten(0, -2) for logits in (theirs, mine))
    passed = pass_over(before, after, places.flatten().nonzero().flatten(), distance=True)
    found = torch.zeros(2, *places.shape, dtype=torch.float64)
    assert passed.distance is not None  # it was asked for
    found[:, places] = torch.stack([passed.kl.clamp_min(0), passed.distance]).double()
    return found[0], found[1]


def _judged_members(name: str, members: Tensor, judged: Tensor) -> Tensor:
    kept = members[judged[members]]
    if not len(kept):
        reject(
            "compare_predictions", f"slices[{name!r}]", members.tolist(), "all positions of its examples are ignored"
        )
    return kept


def _pairs(before: Tensor, after: Tensor, truth: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    return {
        "mean_class_iou": (after, truth),
        "reference_mean_class_iou": (before, truth),
        "agreement_iou": (after, before),
    }


def _mean_iou(first: Tensor, second: Tensor, counts: Tensor, seen: Observation) -> float:
    if seen.task == "multi_label":  # where a label's column holds
        a, b = ((values == 1) & counts for values in (first, second))
        both, either = (a & b).sum(dim=0), (a | b).sum(dim=0)
    else:
        a, b = first[counts], second[counts]
        both = torch.bincount(a[(a == b) & (a >= 0)], minlength=seen.classes)
        either = sum(torch.bincount(one[one >= 0], minlength=seen.classes) for one in (a, b)) - both
    return _mean((both.double() / either.double())[either > 0])


def _label_rows(
    was_right: Tensor, is_right: Tensor, counts: Tensor, seen: Observation, units: Units
) -> tuple[list[dict[str, Any]], list[Drop]]:
    """Return the row of each label that counts, and its drop over examples, of one answer each."""
    rows, drops = [], list[Drop]()
    for index, name in enumerate(seen.class_names):
        holding = counts[:, index]
        if not bool(holding.any()):
            continue
        old, new = was_right[holding, index], is_right[holding, index]
        drop = units.among(holding).drop(old, new)
        rows.append(_class_row(name, int(holding.sum()), old.double(), new.double(), drop))
        drops.append(drop)
    return rows, drops


def _class_rows(
    was_right: Tensor, is_right: Tensor, counts: Tensor, seen: Observation, units: Units
) -> tuple[list[dict[str, Any]], list[Drop]]:
    """Return the row of each class that is true somewhere, and its drop over the examples in which it is."""
    targets, names, total = seen.targets[counts], seen.class_names, len(counts)
    examples = counts.nonzero()[:, 0]
    pairs, places, answers = torch.unique(targets * total + examples, return_inverse=True, return_counts=True)
    shares = [
        torch.bincount(places, weights=right[counts].double(), minlength=len(pairs)) / answers
        for right in (was_right, is_right)
    ]
    classes, numbers = torch.unique_consecutive(pairs // total, return_counts=True)
    rows, drops = [], list[Drop]()
    parts = (each.split(numbers.tolist()) for each in (pairs % total, *shares, answers))
    for index, holding, old, new, number in zip(classes.tolist(), *parts, strict=True):
        drop: Drop = units.among(holding).mean(old - new, -1.0, 1.0)
        rows.append(_class_row(names[index], int(number.sum()), old, new, drop))
        drops.append(drop)
    return rows, drops


def _class_row(name: str, answers: int, old: Tensor, new: Tensor, drop: Drop) -> dict[str, Any]:
    accuracies = {"reference_accuracy": _mean(old), "accuracy": _mean(new), "drop": drop.value}
    return {"class": name, "count": len(old), "answers": answers, **accuracies}


def _flips(
    before: Tensor, after: Tensor, truth: Tensor | None, counts: Tensor, seen: Observation
) -> list[dict[str, Any]]:
    names = seen.class_names
    if seen.task != "multi_label":
        return flip_table(before[counts], after[counts], None if truth is None else truth[counts], names)
    rows = []
    for index, name in enumerate(names):
        where = counts[:, index]
        texts = (f"not {name}", name)
        rows += flip_table(
            before[where, index], after[where, index], None if truth is None else truth[where, index], texts
        )
    return sorted(rows, key=lambda row: (-row["count"], row["before"]))


def _changed(same: Tensor, counts: Tensor) -> tuple[ExampleChange, ...]:
    answers = counts.flatten(1).sum(dim=1)
    order = same.nan_to_num(nan=1.0).argsort(stable=True)
    return tuple(
        ExampleChange(
            index=index,
            label=f"{int(answers[index])} answers",
            before="the reference's",
            after=f"{1 - float(same[index]):.1%} of them changed",
        )
        for index in order[:_LISTED_EXAMPLES].tolist()
        if same[index] < 1
    )


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else float("nan")
