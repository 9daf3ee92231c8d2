"""Evidence of a check in addition to its numbers: images, attribution maps, distances and sizes, as plain JSON.

It is collected only for an HTML report, from the examples that differ most, and never changes an outcome.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.error_reasons import reason_of
from cp_compress.base.errors import CompressionError
from cp_compress.base.showing.work import require_time
from cp_compress.fidelity.attributions.jaccard import split_jaccard
from cp_compress.fidelity.attributions.maps import maps_of_some
from cp_compress.fidelity.attributions.masks import read_masks
from cp_compress.fidelity.attributions.methods.gradients import Saliency
from cp_compress.fidelity.attributions.methods.known import as_attribution_method
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.inputs.trees import Inputs, leaves_of
from cp_compress.inputs.wrapping import said_by
from cp_compress.model.footprints import figures_of, file_bytes_of
from pytest_cp.checks.outlines import draw_outlines
from pytest_cp.checks.pictures import colour_bars, draw_maps, picture_of
from pytest_cp.checks.recorder import Record

SHOWN_EXAMPLES = 6
SHOWN_RAYS = 400
_PRINTED_VALUES = 12
_EXPLAINING = ("attributions", "pointing")
"""The comparisons that are made of attribution maps: their checks are shown with the maps that they compared."""
_MASKS = ("must_look", "must_not_look")
_TASKS = {
    "multi_label": "each example has several labels",
    "dense": "each example has one answer per position",
    "sequence": "each example has one answer per position",
}


def gather_evidence(
    measurement: Measurement,
    candidate: Observation,
    reference: Observation,
    options: Mapping[str, Any] | None = None,
) -> Record:
    """Return the evidence of a check of two models; its notes say what cannot be shown.

    `options` are those that the comparison was called with: maps are made by its method, where it has one.
    """
    evidence: Record = {"examples": [], "maps": None, "distances": None, "sizes": None, "notes": []}
    parts: dict[str, Callable[[], Any]] = {
        "examples": lambda: _examples(measurement, candidate, reference, options or {}, evidence),
        "distances": lambda: _distances(measurement),
        "sizes": lambda: _sizes(candidate, reference),
    }
    for name, gather in parts.items():
        try:
            evidence[name] = gather()
        except Exception as error:  # whatever goes wrong while illustrating must not touch the verdict
            evidence["notes"].append(f"{name} cannot be shown: {type(error).__name__}: {error}")
    return evidence


def _examples(
    measurement: Measurement,
    candidate: Observation,
    reference: Observation,
    options: Mapping[str, Any],
    evidence: Record,
) -> list[Record]:
    changes = measurement.examples[:SHOWN_EXAMPLES]
    if not changes:
        return []
    chosen = torch.tensor([change.index for change in changes])
    given = [seen.data.read(chosen)[0] for seen in (reference, candidate)]
    rows: list[Record] = [
        {"index": change.index, "label": change.label, "before": change.before, "after": change.after}
        for change in changes
    ]
    single = reference.task == "single_label" and measurement.comparison != "outputs" and reference.gives_logits
    if single:
        for row in rows:
            answers = {"reference": reference, "candidate": candidate}
            row["predicted"] = {
                who: reference.class_names[int(seen.predictions[row["index"]])] for who, seen in answers.items()
            }
    _add_measured_iou(rows, measurement)
    before, after = given
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        for place, row in enumerate(rows):
            row["text"] = _printed_tree(before[place : place + 1])
        return rows
    if not _is_image(before):
        for row, values in zip(rows, before, strict=True):
            row["text"] = _printed(values)
        return rows
    same = torch.equal(before, after)
    for row, image, decoded in zip(rows, before, after, strict=True):
        row["image"] = picture_of(image, before)
        row["decoded"] = None if same else picture_of(decoded, before)
        row["size"] = [*image.shape[1:]]
    _add_outlines(rows, measurement, reference, options, evidence)
    if single:
        try:
            evidence["maps"] = _add_maps(rows, measurement, candidate, reference, options)
        except Exception as error:  # pictures without maps are better than none
            evidence["notes"].append(f"attribution maps cannot be shown: {reason_of(error)}")
    else:
        told = _TASKS.get(reference.task, "here outputs are compared, not answers")
        evidence["notes"].append(f"no attribution maps: a map explains a single answer, but {told}")
    return rows


def _add_measured_iou(rows: list[Record], measurement: Measurement) -> None:
    """Add the IoU of each example's maps as the check measured it."""
    found = measurement.per_example.get("iou")
    if measurement.comparison == "attributions" and found is not None:
        places = {int(example): place for place, example in enumerate(measurement.per_example["example"].tolist())}
        for row in rows:
            row["iou"] = round(float(found[places[row["index"]]]), 4)


def _add_outlines(
    rows: list[Record], measurement: Measurement, reference: Observation, options: Mapping[str, Any], evidence: Record
) -> None:
    """Add the outlines of the masks that a check was made with."""
    given = {name: options[name] for name in _MASKS if options.get(name) is not None}
    if measurement.comparison != "pointing" or not given:
        return
    chosen = torch.tensor([row["index"] for row in rows])
    try:
        masks = {name: read_masks("report", name, mask, reference, chosen, len(rows)) for name, mask in given.items()}
        for row, outline in zip(rows, draw_outlines(masks), strict=True):
            row["outline"] = outline
        evidence["masks"] = [*masks]
    except Exception as error:  # pictures without outlines are better than none
        evidence["notes"].append(f"outlines of masks cannot be shown: {reason_of(error)}")


def _add_maps(
    rows: list[Record],
    measurement: Measurement,
    candidate: Observation,
    reference: Observation,
    options: Mapping[str, Any],
) -> Record:
    """Add where both models look, of the class that the reference predicts; return how the maps were made and drawn."""
    of_check = measurement.comparison in _EXPLAINING
    require_time()
    method = as_attribution_method(options.get("method", "saliency")) if of_check else Saliency()
    chosen = torch.tensor([row["index"] for row in rows])
    compared = measurement.per_example["example"] if of_check else chosen
    targets, batch = reference.predictions[compared], options.get("batch_size") if of_check else None
    name = options.get("input") if of_check else None
    maps = [maps_of_some(seen, method, compared, targets, chosen, batch, name) for seen in (reference, candidate)]
    places = tuple(maps[0].shape[2:] if maps[0].ndim == 4 else maps[0].shape[1:])
    told: Record = {"method": str(method), "of_check": of_check, "comparison": measurement.comparison}
    for row, iou in zip(rows, split_jaccard(*maps).tolist(), strict=True):
        row.setdefault("iou", round(iou, 4))
    if len(places) != 2 or min(places) < 2 or (maps[0].ndim == 3 and [*places] != rows[0]["size"]):
        shape = tuple(maps[0].shape[1:])
        return told | {"left_out": f"maps of shape {shape} have no places in the image, and are not drawn"}
    drawn = draw_maps(*maps, signed=measurement.comparison != "pointing")
    for position, row in enumerate(rows):
        for name in ("reference", "candidate", "difference"):
            row[f"{name}_map"] = getattr(drawn, name)[position]
        row["scale"] = drawn.scales[position]
        row["difference_scale"] = drawn.difference_scales[position]
    return told | {
        "signed": drawn.signed,
        "mixed": drawn.mixed and drawn.signed,
        "smoothing": drawn.smoothing,
        "places": [*drawn.places],
        "bars": colour_bars(),
    }


def _is_image(inputs: Tensor) -> bool:
    return inputs.ndim == 4 and inputs.shape[1] in (1, 3) and min(inputs.shape[2:]) >= 2


def _printed(values: Tensor) -> str:
    flat = values.flatten()
    shown = ", ".join(f"{value:.4g}" for value in flat[:_PRINTED_VALUES].tolist())
    shape = "×".join(map(str, values.shape)) or "one value"
    return f"[{shown}{', …' if len(flat) > _PRINTED_VALUES else ''}] ({shape})"


def _printed_tree(inputs: Inputs) -> str:
    """Return the beginnings of the tensors of one example, by name."""
    names = [""] if isinstance(inputs, Tensor) else inputs.names
    parts = zip(names, leaves_of(inputs), strict=True)
    return "; ".join(f"{name} {_printed(tensor[0])}".strip() for name, tensor in parts)


def _distances(measurement: Measurement) -> Record | None:
    """Return boundary distances before and after along the same rays, a spread of at most a few hundred."""
    if measurement.comparison != "boundaries":
        return None
    before, after = (measurement.per_example[f"{who}_distance"].flatten() for who in ("reference", "candidate"))
    known = (~torch.isnan(before) & ~torch.isnan(after)).nonzero().flatten()
    step = max(1, math.ceil(len(known) / SHOWN_RAYS))
    chosen = known[::step]
    return {
        "before": [_number(value) for value in before[chosen].tolist()],
        "after": [_number(value) for value in after[chosen].tolist()],
        "rays": len(known),
        "max_distance": _number(float(measurement.details["max_distance"])),
    }


def _number(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _sizes(candidate: Observation, reference: Observation) -> Record:
    found: Record = {}
    for who, seen in (("candidate", candidate), ("reference", reference)):
        model, stored = seen.model, seen.data.source
        size = seen.remember(("report footprint",), lambda model=model: _footprint(model))  # type: ignore[misc]
        found[who] = {"model": size, "bytes_per_example": said_by(stored, "bytes_per_example", of_all=True)}
    return found


def _footprint(model: Any) -> Record | None:
    if isinstance(model, nn.Module):
        return dict(figures_of(model))
    with contextlib.suppress(CompressionError):  # a command that does not name its files
        return dict(figures_of(model)) if file_bytes_of(model) else None
    return None
