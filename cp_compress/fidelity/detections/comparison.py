"""Does a compressed detector still find the objects that its reference finds?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, check_real, explains_keywords, reject
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.detections.average_precision import AveragePrecision, average_precision
from cp_compress.fidelity.detections.detecting import Detect, Detected, Detections, call_model, detect_both
from cp_compress.fidelity.detections.matching import Matched, match_all
from cp_compress.fidelity.detections.tables import changes, class_rows, flips, notes_on_lost, object_table, size_rows
from cp_compress.fidelity.judging.batches import with_batches
from cp_compress.fidelity.judging.intervals import Evidence
from cp_compress.fidelity.judging.measurement import WITHOUT_SKILL, Measurement, unskilled
from cp_compress.fidelity.judging.units import ClusteredMean, FoundSizes, Units
from cp_compress.fidelity.observing.refusals import require_known_batches
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.predictions.tables import Slices, read_slices
from cp_compress.fidelity.side_by_side.independent import independent_units
from cp_compress.fidelity.side_by_side.sides import EQUAL, Side, both_sides
from cp_compress.inputs.clusters import Clusters, read_clusters
from cp_compress.inputs.detection import DetectionData, Objects

_OWNER = "compare_detections"
_NO_SKILL = 0.01
_MANY = 10**6  # what finds nothing is known on any data


@explains_keywords
def compare_detections(
    candidate: Model,
    reference: Model,
    data: Any,
    *,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
    min_class_objects: int = 1,
    detect: Detect | None = None,
    slices: Slices | None = None,
    clusters: Clusters | None = None,
    device: torch.device | str | None = None,
    batch_size: int = 256,
    deployed_batch_size: int | None = None,
) -> Measurement:
    """Measure how far a detector finds the objects that its reference finds, and with true objects its mAP drop.

    Objects of one class are matched in each image as COCO does: the candidate's, the surest first, each choose the free
    object of the reference that they overlap most, by an intersection over union of at least `iou_threshold`.

    Metrics, over all images: `matched_f1` = 2 · matched / (objects of both); `min_class_f1`, that of the worst class;
    `mean_matched_iou` of matched pairs; `mean_score_change`, the mean absolute change of their scores; `lost_objects`,
    the share of the reference's objects without a match, and `new_objects`, that of the candidate's; with `slices`
    `min_slice_f1`. With true objects, from all detections, whatever their score: `map` and `reference_map`, the mean
    over classes of the average precision over IoU thresholds of 0.5 to 0.95, as COCO defines it; `map_drop`;
    `map_50_drop`, the same at 0.5; and `max_class_ap_drop`, the drop of the class that loses most.

    Claims at a confidence are about images, or clusters of them; equal images are one.

    Args:
        candidate: The compressed model: a callable from a list of images (channels, height, width) to a list of
            mappings with `boxes` (m, 4) as x1, y1, x2, y2, `labels` (m,) and `scores` (m,).
        reference: The model that it is compared with.
        data: `DetectionData`, images, a data set of pairs (image, target), or a pair of images and targets.
        score_threshold: The score from which an object counts as found, in [0, 1].
        iou_threshold: The overlap from which two boxes are of one object, in (0, 1].
        min_class_objects: How many of the reference's objects a class needs for `min_class_f1`.
        detect: What turns (model, images) into such a list, such as a function that calls a processor; by default the
            model's own output.
        slices: Named subsets of the images, as masks (n,) or indices.
        clusters: Which images are not independent of each other, such as those of one video: one whole number or text
            an image.
        device: Where to run; by default where each model is.
        batch_size: The largest number of images in one call; images of several sizes are run apart.
        deployed_batch_size: The batch size of the deployed model, where answers depend on it.

    Returns:
        The measurement. `per_example` has a row an image.

    Raises:
        InvalidArgumentError: If an argument is not as described.
        ObservationError: If the data cannot be read, a model gives no detections or answers at random, the reference
            finds nothing, the same in all images, or none of the true objects.
        MissingExtraError: If there are true objects and `faster-coco-eval` is not installed.

    >>> box = {"boxes": [[0.0, 0.0, 4.0, 4.0]], "labels": [1], "scores": [0.9]}
    >>> def model(images): return [box for _ in images]
    >>> compare_detections(model, model, torch.rand(1, 3, 8, 8)).metrics["matched_f1"]
    1.0
    """
    score = check_real(_OWNER, "score_threshold", score_threshold, "must lie in [0, 1]", at_least=0, at_most=1)
    iou = check_real(_OWNER, "iou_threshold", iou_threshold, "must lie in (0, 1]", above=0, at_most=1)
    rule = "must be a whole number of 1 or more"
    least = check_integer(_OWNER, "min_class_objects", min_class_objects, rule, at_least=1)
    if detect is not None and not callable(detect):
        reject(_OWNER, "detect", type(detect).__name__, "must be a function of the model and a list of images")
    images = DetectionData.of(data)
    subsets = read_slices(_OWNER, slices, len(images))
    known = read_clusters(_OWNER, clusters, images, len(images))
    sides = both_sides(
        _OWNER,
        Side,
        (candidate, reference),
        device=device,
        batch_size=batch_size,
        deployed_batch_size=deployed_batch_size,
    )
    found = detect_both(sides, images, detect or call_model)
    require_known_batches(*sides)
    notes = _require_objects(found, score)
    after, before = found.found
    matched = match_all(before, after, score, iou)
    units = independent_units(known, found.repeated)
    measured = _measure(matched, images, subsets, units, least)
    if found.truth is not None:
        measured = _with_truth(measured, (before, after), found.truth, images)
    details = {
        **measured.details,
        EQUAL: found.equal,
        "data_digest": found.digest,
        "clusters": units.to_json(),
        "score_threshold": score,
        "iou_threshold": iou,
    }
    measured = dataclasses.replace(measured, details=details, notes=(*notes, *measured.notes))
    return with_batches(measured, *sides)


def _require_objects(found: Detected, threshold: float) -> list[str]:
    """Return notes on what the reference finds; raises ObservationError where that tells nothing."""
    _, before = found.found
    counts = [len(one.above(threshold).scores) for one in before]
    if not any(counts):
        best = max((float(one.scores[0]) for one in before if len(one.scores)), default=None)
        told = "it finds nothing at all" if best is None else f"its surest detection has a score of {best:.3g}"
        raise ObservationError(
            f"the reference finds no object with a score of {threshold:g} or more in {len(before)} images ({told}): a "
            "candidate that finds nothing would be held for equal. Check how images are scaled, or give the "
            "score_threshold that is deployed"
        )
    if len(set(found.contents)) > 1 and all(_same(one, before[0]) for one in before):
        raise ObservationError(
            f"the reference finds the same objects in all {len(before)} images, though they differ: they do not reach "
            "it, so that nothing can be told; check how images are scaled"
        )
    empty = sum(count == 0 for count in counts)
    notes = [f"{sum(counts)} objects of the reference in {len(before)} images"]
    return notes + ([f"the reference finds no object in {empty} images"] if empty else [])


def _same(one: Detections, other: Detections) -> bool:
    return all(mine.shape == its.shape and torch.equal(mine, its) for mine, its in zip(one, other, strict=True))


def _measure(
    matched: Matched, data: DetectionData, subsets: Mapping[str, Tensor], units: Units, least: int
) -> Measurement:
    count = len(data)
    kept, new = matched.kept, matched.is_new
    old_count, new_count = (torch.bincount(one, minlength=count) for one in matched.images)
    hits = torch.bincount(matched.images[0][kept], minlength=count)
    total = old_count + new_count
    change = (matched.scores[1][matched.partner[kept]] - matched.scores[0][kept]).abs().double()
    iou = matched.iou[kept].double()
    sums = {
        "matched_f1": (2 * hits, total),
        "mean_matched_iou": (torch.bincount(matched.images[0][kept], iou, minlength=count), hits),
        "mean_score_change": (torch.bincount(matched.images[0][kept], change, minlength=count), hits),
        "lost_objects": (old_count - hits, old_count),
        "new_objects": (torch.bincount(matched.images[1][new], minlength=count), new_count),
    }
    metrics: dict[str, float] = {}
    counts: dict[str, int] = {}
    evidence: dict[str, Evidence] = {}
    for name, (values, numbers) in sums.items():
        counts[name] = int(numbers.sum())
        metrics[name] = float(values.sum() / numbers.sum()) if counts[name] else float("nan")
        if counts[name]:
            evidence[name] = _evidence(values, numbers, units)
    rows = class_rows(matched, data)
    worst = min((row for row in rows if row[1] >= least), key=lambda row: row[4], default=None)
    if worst is not None:
        metrics["min_class_f1"], counts["min_class_f1"] = worst[4], worst[1]
    f1 = (2 * hits).double() / total.clamp_min(1)
    tables = [
        object_table("objects by class", "class", sorted(rows, key=lambda row: row[4])),
        object_table("objects by size", "size", size_rows(matched)),
    ]
    if subsets:
        sliced = [(name, int(total[one].sum()), 2 * hits[one].sum()) for name, one in subsets.items()]
        told: list[list[Any]] = [
            [name, number, float(twice / number) if number else None] for name, number, twice in sliced
        ]
        judged = [row for row in told if row[1]]
        if judged:
            lowest = min(judged, key=lambda row: row[2])
            metrics["min_slice_f1"], counts["min_slice_f1"] = lowest[2], lowest[1]
        tables.append({"caption": "slices", "columns": ["slice", "objects of both", "F1"], "rows": told})
    return Measurement(
        comparison="detections",
        metrics=metrics,
        counts=counts,
        evidence=evidence,
        per_example={"reference_objects": old_count, "objects": new_count, "matched": hits, "f1": f1},
        examples=changes(matched, data, f1.masked_fill(total == 0, 1.0)),
        details={"tables": tables, "flips": flips(matched, data)},
        notes=notes_on_lost(matched),
    )


def _evidence(values: Tensor, numbers: Tensor, units: Units) -> ClusteredMean:
    """Return the evidence of sums (n,) over numbers of objects (n,), where images, or clusters, are independent."""
    clusters = torch.arange(len(values)) if units.clusters is None else units.clusters
    _, places = torch.unique(clusters, return_inverse=True)
    sizes = torch.bincount(places, numbers.double())
    sums = torch.bincount(places, values.double())
    some = sizes > 0
    # how many objects an image has is found, whatever clusters images belong to
    told = FoundSizes("images" if units.clusters is None else "clusters of images", "objects")
    return ClusteredMean((sums[some] / sizes[some]).numpy(), sizes[some].numpy(), found=told)


def _with_truth(
    measured: Measurement,
    found: tuple[list[Detections], list[Detections]],
    truth: Sequence[Objects],
    data: DetectionData,
) -> Measurement:
    """Return a measurement with what the true objects say of both models."""
    boxes = sum(int((~one.crowds).sum()) for one in truth)
    if not boxes:
        raise ObservationError("the targets hold no object in any image: leave them out where nobody has labelled")
    before, after = (average_precision(one, truth) for one in found)
    _require_skill(before, boxes)
    drops = {label: before.by_class[label] - after.by_class[label] for label in before.by_class}
    metrics = {
        "reference_map": before.mean,
        "map": after.mean,
        "map_drop": before.mean - after.mean,
        "map_50_drop": before.mean_at_half - after.mean_at_half,
        "max_class_ap_drop": max(drops.values()),
    }
    numbers = {label: sum(int(((one.labels == label) & ~one.crowds).sum()) for one in truth) for label in drops}
    rows = [
        [data.class_name(label), numbers[label], before.by_class[label], after.by_class[label], drop]
        for label, drop in sorted(drops.items(), key=lambda one: -one[1])
    ]
    columns = ["class", "true objects", "AP before", "after", "drop"]
    tables = [{"caption": "average precision by class", "columns": columns, "rows": rows}, *measured.details["tables"]]
    blind = [data.class_name(label) for label, value in before.at_half.items() if value < _NO_SKILL]
    notes = [f"the reference finds no true object of {', '.join(blind[:8])}, which can lose nothing"] if blind else []
    worst = max(drops, key=lambda label: drops[label])
    return dataclasses.replace(
        measured,
        metrics={**measured.metrics, **metrics},
        counts={**measured.counts, **dict.fromkeys(metrics, boxes), "max_class_ap_drop": numbers[worst]},
        details={
            **measured.details,
            "tables": tables,
            WITHOUT_SKILL: [unskilled("a model that finds nothing", _of_nothing(before), _MANY)],
        },
        notes=(*measured.notes, *notes),
    )


def _of_nothing(before: AveragePrecision) -> dict[str, float]:
    """Return what a model would get that finds no object, whatever is in the images."""
    return {
        "map": 0.0,
        "map_drop": before.mean,
        "map_50_drop": before.mean_at_half,
        "max_class_ap_drop": max(before.by_class.values()),
        "matched_f1": 0.0,
        "min_class_f1": 0.0,
        "lost_objects": 1.0,
    }


def _require_skill(before: AveragePrecision, boxes: int) -> None:
    if before.mean_at_half < _NO_SKILL:
        raise ObservationError(
            f"the reference's mAP at an IoU of 0.5 is {before.mean_at_half:.2g} on {boxes} true objects: it finds none "
            "of them, so that a ruined model would lose nothing. Check that labels are numbered as the model's and "
            "that boxes are x1, y1, x2, y2 in pixels of the images that it reads, or leave the targets out"
        )
