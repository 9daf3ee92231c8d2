"""Evidence of a check in addition to its numbers: images, attribution maps, distances and sizes, as plain JSON.

It is collected only for an HTML report, from the examples that differ most, and never changes an outcome.
"""

from __future__ import annotations

import base64
import contextlib
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from cp_compress.base.error_reasons import reason_of
from cp_compress.base.errors import CompressionError
from cp_compress.fidelity.attributions.jaccard import split_jaccard, unit_maps
from cp_compress.fidelity.attributions.maps import attribution_maps
from cp_compress.fidelity.attributions.methods.gradients import Saliency
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.inputs.wrapping import said_by
from cp_compress.model.footprints import figures_of, file_bytes_of
from pytest_cp.checks.recorder import Record

SHOWN_EXAMPLES = 6
SHOWN_RAYS = 400
_LARGEST_SIDE = 96
_PRINTED_VALUES = 12
_TASKS = {
    "multi_label": "each example has several labels",
    "dense": "each example has one answer per position",
    "sequence": "each example has one answer per position",
}
# dark to light through purple and orange: ordered in lightness, so that it reads in grey too
_HEAT = ((0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191))


def gather_evidence(measurement: Measurement, candidate: Observation, reference: Observation) -> Record:
    """Return the evidence of a check of two models; its notes say what cannot be shown."""
    evidence: Record = {"examples": [], "distances": None, "sizes": None, "notes": []}
    parts: dict[str, Callable[[], Any]] = {
        "examples": lambda: _examples(measurement, candidate, reference, evidence["notes"]),
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
    measurement: Measurement, candidate: Observation, reference: Observation, notes: list[str]
) -> list[Record]:
    changes = measurement.examples[:SHOWN_EXAMPLES]
    if not changes:
        return []
    chosen = torch.tensor([change.index for change in changes])
    before, after = (seen.data.select(chosen)[0] for seen in (reference, candidate))
    rows: list[Record] = [
        {"index": change.index, "label": change.label, "before": change.before, "after": change.after}
        for change in changes
    ]
    if not _is_image(before):
        for row, values in zip(rows, before, strict=True):
            row["text"] = _printed(values)
        return rows
    same = torch.equal(before, after)
    for row, image, decoded in zip(rows, before, after, strict=True):
        row["image"] = _picture(image, before)
        row["decoded"] = None if same else _picture(decoded, before)
    if reference.task == "single_label":
        _add_maps(rows, chosen, candidate, reference, notes)
    else:
        notes.append(f"no attribution maps: a map explains a single answer, but {_TASKS[reference.task]}")
    return rows


def _add_maps(
    rows: list[Record], chosen: Tensor, candidate: Observation, reference: Observation, notes: list[str]
) -> None:
    """Add where both models look, of the class that the reference predicts, and how far that is the same."""
    method, targets = Saliency(), reference.predictions[chosen]
    try:
        maps = [attribution_maps(seen, method, chosen, targets).maps for seen in (reference, candidate)]
    except Exception as error:  # pictures without maps are better than none
        notes.append(f"attribution maps cannot be shown: {reason_of(error)}")
        return
    shared = split_jaccard(maps[0], maps[1]).tolist()
    heats = [unit_maps(each).reshape(each.shape).abs().sum(dim=1) for each in maps]
    brightest = torch.stack(heats).flatten(2).amax(dim=(0, 2))
    for position, row in enumerate(rows):
        row["reference_map"], row["candidate_map"] = (_heat(each[position] / brightest[position]) for each in heats)
        row["iou"] = round(shared[position], 4)


def _is_image(inputs: Tensor) -> bool:
    return inputs.ndim == 4 and inputs.shape[1] in (1, 3) and min(inputs.shape[2:]) >= 2


def _picture(image: Tensor, batch: Tensor) -> str:
    """Return one image (channels, height, width) as a PNG; values beyond [0, 1] are scaled by their batch's range."""
    values, everything = image.detach().cpu().double(), batch.detach().cpu().double()
    low, high = float(everything.min()), float(everything.max())
    if image.dtype == torch.uint8:
        low, high = 0.0, 255.0
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scaled = ((values - low) / max(high - low, 1e-12)).clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels = scaled.permute(1, 2, 0).numpy()
    return _png(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))


def _heat(values: Tensor) -> str:
    image = Image.fromarray(values.clamp(0, 1).mul(255).round().to(torch.uint8).numpy(), mode="P")
    image.putpalette(_palette().tobytes())
    return _png(image)


def _palette() -> NDArray[np.uint8]:
    places, anchors = np.linspace(0, 255, len(_HEAT)), np.array(_HEAT, dtype=float)
    columns = [np.interp(np.arange(256), places, anchors[:, channel]) for channel in range(3)]
    palette: NDArray[np.uint8] = np.stack(columns, axis=1).round().astype(np.uint8)
    return palette


def _png(image: Image.Image) -> str:
    if max(image.size) > _LARGEST_SIDE:
        image = image.convert("RGB") if image.mode == "P" else image
        image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _printed(values: Tensor) -> str:
    flat = values.flatten()
    shown = ", ".join(f"{value:.4g}" for value in flat[:_PRINTED_VALUES].tolist())
    shape = "×".join(map(str, values.shape)) or "one value"
    return f"[{shown}{', …' if len(flat) > _PRINTED_VALUES else ''}] ({shape})"


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
