"""The average precision of detections, by class, as COCO defines it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from cp_compress.base.errors import MissingExtraError
from cp_compress.fidelity.detections.detecting import Detections
from cp_compress.inputs.detection import Objects


class AveragePrecision(NamedTuple):
    """The average precision over the IoU thresholds 0.5 to 0.95, and at 0.5, by label of the true objects."""

    by_class: dict[int, float]
    at_half: dict[int, float]

    @property
    def mean(self) -> float:
        """The mean over classes (mAP)."""
        return float(np.mean([*self.by_class.values()]))

    @property
    def mean_at_half(self) -> float:
        """The mean over classes at an IoU of 0.5."""
        return float(np.mean([*self.at_half.values()]))


def average_precision(found: Sequence[Detections], truth: Sequence[Objects]) -> AveragePrecision:
    """Return the average precision of what was found in images, as `faster-coco-eval` and pycocotools compute it.

    The 100 surest detections of an image count, as with COCO.

    Raises MissingExtraError if `faster-coco-eval` is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingExtraError("average precision", "detection") from error
    labels = sorted({int(label) for one in truth for label in one.labels[~one.crowds]})
    with contextlib.redirect_stdout(io.StringIO()):
        truths = COCO(_dataset(truth, labels))
        rows = _results(found, labels)
        # a result set without any row is none to it
        results = truths.loadRes(rows) if rows else COCO({**_dataset(truth, labels), "annotations": []})
        evaluation = COCOeval_faster(truths, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # thresholds, recalls, classes of all areas
    whole = {label: _mean(precision[:, :, place]) for place, label in enumerate(labels)}
    return AveragePrecision(whole, {label: _mean(precision[:1, :, place]) for place, label in enumerate(labels)})


def _mean(precision: Any) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else 0.0


def _dataset(truth: Sequence[Objects], labels: list[int]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, one in enumerate(truth):
        for box, label, crowd in zip(
            _as_corner_and_size(one.boxes), one.labels.tolist(), one.crowds.tolist(), strict=True
        ):
            if label in labels:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image + 1,
                        "category_id": label,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": int(crowd),
                    }
                )
    images = [{"id": image + 1} for image in range(len(truth))]
    return {"images": images, "annotations": annotations, "categories": [{"id": label} for label in labels]}


def _results(found: Sequence[Detections], labels: list[int]) -> list[dict[str, Any]]:
    return [
        {"image_id": image + 1, "category_id": label, "bbox": box, "score": score}
        for image, one in enumerate(found)
        for box, label, score in zip(
            _as_corner_and_size(one.boxes), one.labels.tolist(), one.scores.tolist(), strict=True
        )
        if label in labels
    ]


def _as_corner_and_size(boxes: torch.Tensor) -> list[list[float]]:
    found: list[list[float]] = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).double().tolist()
    return found
