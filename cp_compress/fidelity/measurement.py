"""What a comparison hands on: named numbers, the samples behind them, and the examples that differ most."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cp_compress.fidelity.intervals import Evidence

METRIC_RANGES: Mapping[str, tuple[float, float]] = {
    "agreement": (0.0, 1.0),
    "accuracy": (0.0, 1.0),
    "reference_accuracy": (0.0, 1.0),
    "accuracy_drop": (-1.0, 1.0),
    "max_class_accuracy_drop": (-1.0, 1.0),
    "cost": (0.0, math.inf),
    "mean_iou": (0.0, 1.0),
    "median_iou": (0.0, 1.0),
    "iou_quantile": (0.0, 1.0),
    "corrected_iou": (-math.inf, 1.0),
    "median_change": (0.0, math.inf),
    "mean_abs_log_ratio": (0.0, math.inf),
    "preserved_fraction": (0.0, 1.0),
    "censored_fraction": (0.0, 1.0),
    "max_error": (0.0, math.inf),
    "rmse": (0.0, math.inf),
    "ssim": (-1.0, 1.0),
    "bytes_per_example": (0.0, math.inf),
    "compression": (0.0, math.inf),
    "flops_ratio": (0.0, math.inf),
    "speedup": (0.0, math.inf),
}
"""The values that metrics can take; a bound outside of them asks for nothing, or for what cannot be."""


@dataclass(frozen=True)
class ExampleChange:
    """One example that compression changed: its index in the data, true label, and what was before and after."""

    index: int
    label: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"#{self.index} (label {self.label}): {self.before} → {self.after}"


@dataclass(frozen=True)
class Measurement:
    """The result of one comparison; it knows no threshold.

    `metrics` maps names to values; `counts` gives the number of samples behind each; `evidence` the samples
    themselves where a claim about the population can be made from them. `per_example` holds tensors whose first
    dimension follows the order of the data. `details` is plain JSON for reports: tables by class, flips, floors.
    `notes` are sentences that a reader must see beside the numbers.
    """

    comparison: str
    metrics: Mapping[str, float]
    counts: Mapping[str, int]
    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    per_example: Mapping[str, Tensor] = field(default_factory=dict)
    examples: tuple[ExampleChange, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
