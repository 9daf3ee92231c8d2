"""How far decoded data is from the original, and how many bytes it takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, check_real, explains_keywords, reject
from cp_compress.base.batching import slices
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.judging.intervals import BoundedMean, Evidence
from cp_compress.fidelity.judging.measurement import ExampleChange, Measurement
from cp_compress.fidelity.structural_similarity import SMALLEST_SIDE, structural_similarity, window_size
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.wrapping import said_by

_OWNER = "compare_reconstruction"
_LISTED_EXAMPLES = 20


@explains_keywords
def compare_reconstruction(
    decoded: Any,
    original: Any,
    *,
    bytes_per_example: float | Sequence[float] | Tensor | None = None,
    data_range: float = 1.0,
    batch_size: int = 256,
) -> Measurement:
    """Measure how far decoded data is from the original.

    Metrics: `max_error`, the largest absolute difference; `rmse`, the root of the mean squared difference over all
    values; `psnr` = 20 · log10(data_range / rmse) in dB, inf for equal data; `ssim`, the mean structural similarity,
    only for images (n, channels, height, width) of 3×3 or larger; `bytes_per_example`, only if it is known. They are
    also given for each example, where each PSNR is that of the example's own error.

    Args:
        decoded: A tensor (n, ...) or a data set.
        original: The same examples in the same order; both must be of floating-point or both of integer dtype.
        bytes_per_example: The stored size of an example, one number or one for each; by default
            `decoded.bytes_per_example` if it has that.
        data_range: The span of the data, such as 1 for images in [0, 1] and 255 for `uint8`.
        batch_size: The number of examples that are read at a time.

    Returns:
        The measurement.

    Raises:
        InvalidArgumentError: If an argument is not as described.
        ObservationError: If the data differs in length, shape, labels or kind of dtype, or holds NaN or infinite
            values.

    >>> found = compare_reconstruction(torch.full((2, 4), 0.6), torch.full((2, 4), 0.5))
    >>> round(found.metrics["psnr"], 2), found.counts["psnr"]
    (20.0, 2)
    """
    span = check_real(_OWNER, "data_range", data_range, "must be the positive span of the data", above=0)
    size = check_integer(_OWNER, "batch_size", batch_size, "must be a whole number of 1 or more", at_least=1)
    after, before = _as_data("decoded", decoded), _as_data("original", original)
    if len(after) != len(before):
        raise ObservationError(f"decoded holds {len(after)} examples, original {len(before)}")
    if bytes_per_example is None:
        bytes_per_example = said_by(decoded, "bytes_per_example", of_all=True)
    stored = _as_bytes(bytes_per_example, len(before))
    rows, low, high = [], math.inf, -math.inf
    shape: tuple[int, ...] = ()
    labels: list[Tensor] = []
    for start, ours, theirs, truth in _paired_batches(after, before, size):
        _check_batch(ours, theirs, start, span)
        shape = tuple(theirs.shape[1:])
        low, high = min(low, float(theirs.min())), max(high, float(theirs.max()))
        rows.append(_errors(ours, theirs, span))
        labels.append(truth)
    largest, squared, similarity = torch.cat(rows, dim=1)
    per_example = {"max_error": largest, "rmse": squared.sqrt(), "psnr": _decibels(squared, span)}
    mean_squared = squared.mean()
    metrics = {
        "max_error": float(largest.max()),
        "rmse": float(mean_squared.sqrt()),
        "psnr": float(_decibels(mean_squared, span)),
    }
    evidence: dict[str, Evidence] = {}
    if _are_images(shape):
        per_example["ssim"] = similarity
        metrics["ssim"] = float(similarity.mean())
        evidence["ssim"] = BoundedMean.of(similarity.numpy(), -1.0, 1.0)
    if stored is not None:
        metrics["bytes_per_example"] = float(stored.mean())
        if len(stored) == len(before):
            per_example["bytes_per_example"] = stored
    return Measurement(
        comparison="reconstruction",
        metrics=metrics,
        counts=dict.fromkeys(metrics, len(before)),
        evidence=evidence,
        per_example=per_example,
        examples=_worst(per_example, torch.cat(labels), original),
        details={"data_range": span, "original_range": [low, high], "example_shape": list(shape)},
        notes=_notes(shape, low, high, span, metrics["max_error"]),
    )


def _as_data(name: str, source: Any) -> LabeledData:
    if isinstance(source, LabeledData):
        return source
    if isinstance(source, (Tensor, np.ndarray)):
        tensor = torch.as_tensor(source)
        if tensor.ndim < 2 or not len(tensor):
            reject(_OWNER, name, tuple(tensor.shape), "a tensor (n, ...) of at least one example is needed")
        return LabeledData((tensor, torch.full((len(tensor),), -1)))
    return LabeledData(source)


def _as_bytes(given: Any, count: int) -> Tensor | None:
    if given is None:
        return None
    values = torch.as_tensor(given, dtype=torch.float64).cpu().flatten()
    if len(values) not in (1, count) or not bool((torch.isfinite(values) & (values > 0)).all()):
        rule = f"must be a positive number of bytes, or one for each of {count} examples"
        reject(_OWNER, "bytes_per_example", given, rule)
    return values if torch.as_tensor(given).ndim or count == 1 else values.mean()[None]


def _paired_batches(after: LabeledData, before: LabeledData, size: int) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    for part in slices(len(before), size):
        rows = range(part.start, part.stop)
        (ours, our_labels), (theirs, labels) = _read(after, rows), _read(before, rows)
        known = (our_labels >= 0) & (labels >= 0)
        different = (known & (our_labels != labels)).nonzero().flatten()
        if len(different):
            index = part.start + int(different[0])
            raise ObservationError(f"decoded and original have different labels, first at example #{index}")
        yield part.start, ours.cpu(), theirs.cpu(), torch.maximum(labels, our_labels)


def _read(data: LabeledData, rows: range) -> tuple[Tensor, Tensor]:
    """Return inputs and labels, -1 where there are none."""
    return data.select(rows) if data.labeled else (data.inputs(rows), torch.full((len(rows),), -1))


def _check_batch(ours: Tensor, theirs: Tensor, start: int, span: float) -> None:
    if ours.shape != theirs.shape:
        shapes = f"{tuple(ours.shape[1:])}, original ones {tuple(theirs.shape[1:])}"
        raise ObservationError(f"decoded examples have shape {shapes}")
    if theirs[:1].numel() == 0:
        raise ObservationError(f"examples of shape {tuple(theirs.shape[1:])} hold no values to compare")
    if ours.is_floating_point() != theirs.is_floating_point() or ours.is_complex() or theirs.is_complex():
        raise ObservationError(
            f"decoded data is {ours.dtype}, original data {theirs.dtype}: one scale is needed, so convert one of them"
        )
    if not theirs.is_floating_point() and span <= 1:
        rule = f"the data is {theirs.dtype}: give its span, such as 255 for uint8"
        reject(_OWNER, "data_range", span, rule)
    for name, batch in (("decoded", ours), ("original", theirs)):
        bad = (~torch.isfinite(batch)).flatten(1).any(dim=1).nonzero().flatten()
        if len(bad):
            raise ObservationError(f"{name} example #{start + int(bad[0])} holds NaN or infinite values")


def _errors(ours: Tensor, theirs: Tensor, span: float) -> Tensor:
    """Return, for each example, the largest error, the mean squared error and the structural similarity (3, n)."""
    difference = (ours.double() - theirs.double()).flatten(1)
    similarity = torch.full((len(theirs),), torch.nan, dtype=torch.float64)
    if _are_images(tuple(theirs.shape[1:])):
        similarity = structural_similarity(ours, theirs, data_range=span)
    return torch.stack([difference.abs().amax(dim=1), difference.square().mean(dim=1), similarity])


def _are_images(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and min(shape[1:]) >= SMALLEST_SIDE


def _decibels(squared: Tensor, span: float) -> Tensor:
    return 20 * math.log10(span) - 10 * torch.log10(squared)


def _worst(per_example: dict[str, Tensor], labels: Tensor, original: Any) -> tuple[ExampleChange, ...]:
    names = said_by(original, "classes")
    order = torch.argsort(per_example["rmse"], descending=True, stable=True)[:_LISTED_EXAMPLES]
    return tuple(
        ExampleChange(
            index=index,
            label=_label_name(int(labels[index]), names),
            before="original",
            after=f"RMSE {float(per_example['rmse'][index]):.4g}, "
            f"largest error {float(per_example['max_error'][index]):.4g}",
        )
        for index in order.tolist()
        if per_example["rmse"][index] > 0
    )


def _label_name(label: int, names: Any) -> str:
    if label < 0:
        return "none"
    known = isinstance(names, Sequence) and label < len(names)
    return str(names[label]) if known else str(label)


def _notes(shape: tuple[int, ...], low: float, high: float, span: float, largest: float) -> tuple[str, ...]:
    notes = []
    if largest == 0:
        notes.append("decoded and original data are equal, value by value")
    if high - low > span * (1 + 1e-6):
        notes.append(f"the original spans {low:.3g} to {high:.3g}, more than data_range={span:g}: PSNR is then too low")
    if _are_images(shape):
        side = window_size(*shape[1:])
        if side < window_size(99, 99):
            notes.append(f"SSIM with a window of {side}×{side}: the images are smaller than the usual 11×11")
    else:
        notes.append("no SSIM: the examples are not images (channels, height, width) of 3×3 or larger")
    return tuple(notes)
