"""Tables of the objects that were found again, lost and new: by class, by size, by image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cp_compress.fidelity.detections.matching import SIZES, Matched
from cp_compress.fidelity.judging.measurement import ExampleChange
from cp_compress.inputs.detection import DetectionData

_LISTED, _NAMED = 20, 4
_COLUMNS = ["objects before", "after", "found again", "F1", "lost", "new", "mean IoU"]


def object_table(caption: str, head: str, rows: list[list[Any]]) -> dict[str, Any]:
    """Return rows of objects as a table for reports."""
    return {"caption": caption, "columns": [head, *_COLUMNS], "rows": rows}


def class_rows(matched: Matched, data: DetectionData) -> list[list[Any]]:
    """Return the objects of each class: its name, and what `object_table` names."""
    labels = sorted({*matched.labels[0].tolist(), *matched.labels[1].tolist()})
    return [
        _row(data.class_name(label), matched, matched.labels[0] == label, matched.labels[1] == label)
        for label in labels
    ]


def size_rows(matched: Matched) -> list[list[Any]]:
    """Return the same of objects by the area of their box."""
    rows = []
    for name, low, high in SIZES:
        before, after = ((low <= areas) & (areas < high) for areas in matched.areas)
        partners = torch.zeros_like(after)
        partners[matched.partner[matched.kept & before]] = True
        after = (after & matched.is_new) | partners  # a pair has the size of the reference's box
        if bool(before.any()) or bool(after.any()):
            rows.append(_row(name, matched, before, after))
    return rows


def _row(name: str, matched: Matched, before: Tensor, after: Tensor) -> list[Any]:
    """Return what a table says of some of the reference's and of the candidate's objects."""
    again = matched.kept & before
    hits, old, new = int(again.sum()), int(before.sum()), int(after.sum())
    iou = float(matched.iou[again].double().mean()) if hits else None
    return [name, old, new, hits, 2 * hits / (old + new), old - hits, int((matched.is_new & after).sum()), iou]


def flips(matched: Matched, data: DetectionData) -> list[dict[str, Any]]:
    """Return which class turned into which, and how often, where an object was found again as another class."""
    turned = matched.relabelled >= 0
    pairs = torch.stack([matched.labels[0][turned], matched.relabelled[turned]], dim=1)
    kinds, counts = torch.unique(pairs, dim=0, return_counts=True)
    rows = [
        {"before": data.class_name(old), "after": data.class_name(new), "count": count}
        for (old, new), count in zip(kinds.tolist(), counts.tolist(), strict=True)
    ]
    return sorted(rows, key=lambda row: -row["count"])


def notes_on_lost(matched: Matched) -> tuple[str, ...]:
    """Return a note on what became of the objects that were lost."""
    lost = ~matched.kept
    if not bool(lost.any()):
        return ()
    turned = int((matched.relabelled >= 0).sum())
    fainter = int((matched.fainter & (matched.relabelled < 0)).sum())
    gone = int(lost.sum()) - turned - fainter
    return (
        f"of {int(lost.sum())} lost objects {fainter} are found with a score below the threshold, {turned} as another "
        f"class, and {gone} not at all",
    )


def changes(matched: Matched, data: DetectionData, f1: Tensor) -> tuple[ExampleChange, ...]:
    """Return the images with the lowest F1 (n,)."""
    found = []
    for image in torch.argsort(f1, stable=True)[:_LISTED].tolist():
        if f1[image] == 1:
            continue
        here = matched.images[0] == image
        lost = matched.labels[0][here & ~matched.kept]
        new = matched.labels[1][(matched.images[1] == image) & matched.is_new]
        told = [f"{word} {_counted(labels, data)}" for word, labels in (("lost", lost), ("new", new)) if len(labels)]
        found.append(ExampleChange(image, f"image {image}", _counted(matched.labels[0][here], data), ", ".join(told)))
    return tuple(found)


def _counted(labels: Tensor, data: DetectionData) -> str:
    kinds, counts = torch.unique(labels, return_counts=True)
    order = torch.argsort(counts, descending=True, stable=True)
    texts = [f"{int(counts[place])} {data.class_name(int(kinds[place]))}" for place in order[:_NAMED]]
    return ", ".join(texts + (["…"] if len(order) > _NAMED else [])) or "nothing"
